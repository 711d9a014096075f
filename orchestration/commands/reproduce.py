"""The command `reproduce`."""

from __future__ import annotations

from pathlib import Path

import click

from orchestration.commands.options import epilog, output_option
from orchestration.outcome import Outcome

_EPILOG = epilog(
    [
        "python local_runner.py reproduce 1795434497",
        "python local_runner.py reproduce 1795434497 --model my_model --data /archive/my_data",
    ],
    Outcome.SAME,
    (Outcome.FAILED, "there is no such version, it was made from something else, or a node failed"),
    Outcome.DIFFERENT,
    Outcome.INTERRUPTED,
)


@click.command(epilog=_EPILOG)
@click.argument("version", type=click.IntRange(min=1))
@output_option()
@click.option(
    "--model",
    metavar="NAME",
    help="Model, by its folder or its name for servers; needed if there are several.",
)
@click.option("--data", default="", metavar="URI", help="Where its data are now, if elsewhere.")
@click.option(
    "--public-key",
    "public_keys",
    multiple=True,
    metavar="PATH",
    help="Public key to verify it with, or folder of keys (*.pub); may be given again. "
    "Default: the folder keys of the output directory.",
)
def reproduce(
    version: int, output: Path, model: str | None, data: str, public_keys: tuple[str, ...]
) -> None:
    """Builds VERSION again from its provenance, and compares both, file by file.

    Data, code, schema, configuration and libraries must be what it was made from. Nothing is taken
    from the cache, and nothing in the output directory is changed.
    """
    from orchestration.commands.ending import finish
    from orchestration.local.reproduction import Request
    from orchestration.local.reproduction import reproduce as build_again
    from terminal.tables import open_console

    console = open_console()
    request = Request(output.resolve(), version, model, data, public_keys)
    finish(console, lambda: build_again(request, console), "Stopped.")
