"""The command `promote`."""

from __future__ import annotations

import click

from serving.commands.options import find_directory, model_option, refusals, split_versions


@click.command()
@click.argument("arguments", nargs=-1, metavar="[SERVING_DIR] [VERSION]")
@model_option
def promote(arguments: tuple[str, ...], model: str | None) -> None:
    """Brings back a version that was rolled back.

    The default VERSION is the newest of those. It is live again only if there is no newer version.

    \b
    Examples:
      python -m serving promote
      python -m serving promote 1795434497
      python -m serving promote /data/serving_model --model my_model
    """
    serving_dir, chosen = split_versions(arguments, at_most=1)
    with refusals():
        directory = find_directory(serving_dir, model)
        change = directory.promote(*chosen)
    promoted = f"Promoted version {change.version} of {directory.model_name}"
    if change.version == change.served:
        click.echo(f"{promoted}; it is live now.")
    else:
        click.echo(
            f"{promoted}; live is still version {change.served}, which is newer: roll that back "
            "to have the older one live."
        )
