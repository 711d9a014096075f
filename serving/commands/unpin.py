"""The command `unpin`."""

from __future__ import annotations

import click

from serving.commands.options import SERVING_DIR, find_directory, model_option, refusals


@click.command()
@click.argument("arguments", nargs=-1, required=True, metavar="[SERVING_DIR] LABEL")
@model_option
def unpin(arguments: tuple[str, ...], model: str | None) -> None:
    """Removes a label from its version.

    \b
    Examples:
      python -m serving unpin stable
      python -m serving unpin /data/serving_model stable
      python -m serving unpin canary --model my_model
    """
    *before, label = arguments
    if len(before) > 1:
        raise click.UsageError(f"Got unexpected extra argument ({before[1]})")
    with refusals():
        directory = find_directory(before[0] if before else SERVING_DIR, model)
        version = directory.unpin(label)
        served = directory.served()
    click.echo(
        f"Version {version} of {directory.model_name} no longer has the label {label}; live is "
        f"version {served}."
    )
