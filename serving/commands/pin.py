"""The command `pin`."""

from __future__ import annotations

import click

from serving.commands.options import find_directory, model_option, refusals, split_version


@click.command()
@click.argument("arguments", nargs=-1, required=True, metavar="[SERVING_DIR] VERSION")
@click.option("--label", required=True, help="The label, such as stable.")
@model_option
def pin(arguments: tuple[str, ...], label: str, model: str | None) -> None:
    """Gives a version a label.

    Clients may request the version by its label, and it is kept when old versions are deleted. If
    another version has the label, it moves.

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
            f"Version {version} of {directory.model_name} has the label {label}; live is version "
            f"{directory.served()}."
        )
