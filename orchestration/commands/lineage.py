"""The command `lineage`."""

from __future__ import annotations

from pathlib import Path

import click

from orchestration.commands.options import click_errors, epilog, output_option
from orchestration.outcome import Outcome

_EPILOG = epilog(
    [
        "python local_runner.py lineage",
        "python local_runner.py lineage 1795434497 --model my_model",
    ],
    (Outcome.FAILED, "there is no such version, or it cannot be read"),
)


@click.command(epilog=_EPILOG)
@click.argument("version", type=int, required=False)
@output_option()
@click.option(
    "--model",
    metavar="NAME",
    help="Model, by its folder or its name for servers; needed if there are several.",
)
def lineage(version: int | None, output: Path, model: str | None) -> None:
    """Prints the lineage of a version, back to spans, schema, parameters and code.

    The default VERSION is the served one.
    """
    from orchestration.local.lineage import trace
    from terminal.tables import standard_output

    with click_errors():
        tree = trace(output.resolve(), version, model)
    standard_output().print(tree)
