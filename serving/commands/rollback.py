"""The command `rollback`."""

from __future__ import annotations

import click

from serving.commands.options import find_directory, model_option, refusals, split_versions


@click.command()
@click.argument("arguments", nargs=-1, metavar="[SERVING_DIR] [VERSION]")
@click.option("--withdraw", is_flag=True, help="Also the last version: nothing is served then.")
@model_option
def rollback(arguments: tuple[str, ...], withdraw: bool, model: str | None) -> None:
    """Moves a version aside; nothing is deleted.

    It is the newest unless one is given. Servers fall back to the newest version that is left; the
    last one stays, unless it is to be withdrawn.

    \b
    Examples:
      python -m serving rollback
      python -m serving rollback 1795434497
      python -m serving rollback /data/serving_model --model my_model --withdraw
    """
    serving_dir, chosen = split_versions(arguments, at_most=1)
    with refusals():
        change = find_directory(serving_dir, model).rollback(*chosen, withdraw=withdraw)
    if change.served is None:
        click.echo(
            f"Withdrew version {change.version}; nothing is live until a version is promoted or "
            "pushed."
        )
        return
    still = "now" if change.version > change.served else "still"
    click.echo(f"Rolled back version {change.version}; live is {still} version {change.served}.")
