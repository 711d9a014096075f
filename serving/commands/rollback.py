"""The command `rollback`."""

from __future__ import annotations

import click

from serving.commands.options import find_directory, model_option, refusals, split_versions


@click.command()
@click.argument("arguments", nargs=-1, metavar="[SERVING_DIR] [VERSION]")
@click.option("--withdraw", is_flag=True, help="Allow the last version: then nothing is served.")
@model_option
def rollback(arguments: tuple[str, ...], withdraw: bool, model: str | None) -> None:
    """Rolls a version back; nothing is deleted.

    The default VERSION is the newest. Servers fall back to the newest version left. The last
    version can only be withdrawn.

    \b
    Examples:
      python -m serving rollback
      python -m serving rollback 1795434497
      python -m serving rollback /data/serving_model --model my_model --withdraw
    """
    serving_dir, chosen = split_versions(arguments, at_most=1)
    with refusals():
        directory = find_directory(serving_dir, model)
        change = directory.rollback(*chosen, withdraw=withdraw)
    name = directory.model_name
    if change.served is None:
        click.echo(
            f"Withdrew version {change.version} of {name}; nothing is live until a version is "
            "promoted or pushed."
        )
        return
    still = "now" if change.version > change.served else "still"
    click.echo(
        f"Rolled back version {change.version} of {name}; live is {still} version {change.served}."
    )
