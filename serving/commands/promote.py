"""The command `promote`."""

from __future__ import annotations

import click

from serving.commands.options import find_directory, model_option, refusals, split_versions
from serving.commands.traffic import user
from storage.names import CHAMPION
from storage.traffic import promote_challenger


@click.command()
@click.argument("arguments", nargs=-1, metavar="[SERVING_DIR] [VERSION]")
@click.option("--challenger", is_flag=True, help="Make the challenger the champion.")
@model_option
def promote(arguments: tuple[str, ...], challenger: bool, model: str | None) -> None:
    """Brings back a version that was rolled back, or makes the challenger the champion.

    The default VERSION is the newest of those. It is live again only if there is no newer version.
    With --challenger the label champion moves, and the new champion predicts alone.

    \b
    Examples:
      python -m serving promote
      python -m serving promote 1795434497
      python -m serving promote /data/serving_model --model my_model
      python -m serving promote --challenger
    """
    serving_dir, chosen = split_versions(arguments, at_most=1)
    if challenger and chosen:
        raise click.UsageError("--challenger names the version: leave VERSION out.")
    with refusals():
        directory = find_directory(serving_dir, model)
        if challenger:
            promote_challenger(directory, by=user())
            version = directory.labels()[CHAMPION]
            click.echo(f"Version {version} of {directory.model_name} is the champion now.")
            return
        change = directory.promote(*chosen)
    promoted = f"Promoted version {change.version} of {directory.model_name}"
    if change.version == change.served:
        click.echo(f"{promoted}; it is live now.")
    else:
        click.echo(
            f"{promoted}; live is still version {change.served}, which is newer: roll that back "
            "to have the older one live."
        )
