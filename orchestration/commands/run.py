"""The command `run`."""

from __future__ import annotations

from pathlib import Path

import click

from orchestration.commands.options import (
    epilog,
    output_of,
    read_config,
    run_options,
    settings_of,
)
from orchestration.outcome import Outcome

_EPILOG = epilog(
    [
        "python local_runner.py run",
        "python local_runner.py run --as-of 201309 --window 3 --output output/september",
        "python local_runner.py run --config my.toml --set training.epochs=3",
    ],
    Outcome.PUSHED,
    Outcome.NOTHING_NEW,
    Outcome.FAILED,
    Outcome.STOPPED_BY_GATE,
    Outcome.NOT_BLESSED,
    Outcome.BUSY,
    Outcome.INTERRUPTED,
)


@click.command(epilog=_EPILOG)
@run_options
@click.option("--no-cache", is_flag=True, help="Run every node, even if nothing is new.")
@click.option("--run-id", hidden=True, help="Id of the run. Default: the time.")
def run(
    as_of: int | None,
    window: int | None,
    output: Path,
    config_path: str | None,
    settings: tuple[str, ...],
    no_cache: bool,
    run_id: str | None,
) -> None:
    """Trains on a window of spans, and pushes the model if it is good enough."""
    config = read_config(config_path, settings_of(as_of, window, settings))
    from orchestration.commands.ending import finish
    from orchestration.local import run as local_run
    from terminal.tables import open_console

    console = open_console()
    directory = output_of(config, output)
    finish(
        console,
        lambda: local_run.run(config, directory, console, run_id=run_id, use_cache=not no_cache),
    )
