"""The command `check`."""

from __future__ import annotations

import sys

import click

from orchestration.commands.options import config_options, epilog, hush_libraries, read_config
from orchestration.outcome import Outcome
from terminal.imports import silent_imports

_EPILOG = epilog(
    ["python local_runner.py check", "python local_runner.py check --set data.window=3"],
    (Outcome.PUSHED, "a run would begin"),
    (Outcome.FAILED, "a run would refuse what is listed"),
)


@click.command(epilog=_EPILOG)
@config_options
def check(config_path: str | None, settings: tuple[str, ...]) -> None:
    """Lists what a run would refuse of a model's folder, schema and data; trains nothing."""
    config = read_config(config_path, settings)
    hush_libraries()
    with silent_imports():
        from orchestration.checking import find_problems

    problems = 0
    for problem in find_problems(config):
        problems += 1
        click.echo(problem)
    if problems:
        sys.exit(Outcome.FAILED.exit_status)
    click.echo(f"{config.model}: settings, functions, schema and data fit together.")
