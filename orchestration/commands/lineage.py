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
@click.option("--model", metavar="NAME", help="Name of the model; needed if there are several.")
def lineage(version: int | None, output: Path, model: str | None) -> None:
    """Prints what a version was made of, back to spans, schema, parameters and code.

    Without VERSION it is the one that is served.
    """
    from orchestration.local.lineage import trace
    from orchestration.local.output_directory import OutputDirectory
    from terminal.tables import standard_output

    with click_errors():
        tree = trace(OutputDirectory(output.resolve()), version, model)
    standard_output().print(tree)
