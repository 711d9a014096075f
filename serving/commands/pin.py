"""The command `pin`."""

from __future__ import annotations

import click

from serving.commands.options import find_directory, model_option, refusals, split_version


@click.command()
@click.argument("arguments", nargs=-1, required=True, metavar="[SERVING_DIR] VERSION")
@click.option("--label", required=True, help="What clients say for it, such as stable.")
@model_option
def pin(arguments: tuple[str, ...], label: str, model: str | None) -> None:
    """Gives a version a label.

    Clients may request the label, and the version is kept when old ones are deleted. A label that
    another version has moves.

    \b
    Examples:
      python -m serving pin 1795434497 --label stable
      python -m serving pin /data/serving_model 1795434497 --label stable
      python -m serving pin 1795434497 --label canary --model my_model
    """
    serving_dir, version = split_version(arguments)
    with refusals():
        directory = find_directory(serving_dir, model)
        directory.pin(version, label)
        click.echo(
            f"Version {version} has the label {label}; live is version {directory.served()}."
        )
