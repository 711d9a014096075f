"""The command `versions`."""

from __future__ import annotations

import json
from typing import Any

import click

from serving.commands.options import (
    SERVING_DIR,
    encryption_keys_option,
    find_directory,
    model_option,
    public_key_option,
    refusals,
    trust_of,
)
from serving.versions import LIVE, ROLLED_BACK, describe_versions, verifies
from storage.directory import ModelDirectory
from storage.encryption_keys import load_keys
from storage.keys import short_id


@click.command()
@click.argument("serving_dir", default=SERVING_DIR)
@model_option
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list, for programs.")
@click.option("--verify", is_flag=True, help="Verify each version; this reads all files.")
@public_key_option
@encryption_keys_option
def versions(
    serving_dir: str,
    model: str | None,
    as_json: bool,
    verify: bool,
    public_keys: tuple[str, ...],
    encryption_keys: str,
) -> None:
    """Lists the versions of a model, newest first, with their claimed signing keys.

    \b
    Examples:
      python -m serving versions
      python -m serving versions /data/serving_model --model my_model
      python -m serving versions --json --verify
    """
    with refusals():
        directory = find_directory(serving_dir, model)
        rows = describe_versions(directory)
        if verify:
            trust, keys = trust_of(serving_dir, public_keys), load_keys(encryption_keys)
            for row in rows:
                row["verified"] = verifies(directory, row["version"], trust, keys)
        ignored, withdrawn = directory.ignored(), directory.withdrawn()
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        print_versions(directory, rows)
    if withdrawn:
        click.echo("Nothing is live: the last version was withdrawn.", err=True)
    if ignored:
        click.echo(f"No server can load the folders {', '.join(ignored)}.", err=True)


def _printable(text: str) -> str:
    return text if text.isprintable() else ascii(text)


def print_versions(directory: ModelDirectory, rows: list[dict[str, Any]]) -> None:
    """Prints a table of versions, a row for each."""
    from rich.filesize import decimal
    from rich.table import Table
    from rich.text import Text

    from terminal.tables import print_table, standard_output

    table = Table(
        title=Text(f"{directory.model_name} in {directory.serving_dir}"),
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    for name, width in (("version", 10), ("state", 11), ("made, UTC", 10), ("AUC", 6)):
        table.add_column(name, min_width=width, overflow="fold")
    for name, width in (("trained on", 9), ("evaluated on", 6), ("size", 6), ("TFLite", 7)):
        table.add_column(name, min_width=width, overflow="fold", justify="right")
    table.add_column("signed by", min_width=6, overflow="fold")
    verified = {True: "yes", False: "NO"}
    if rows and "verified" in rows[0]:
        table.add_column("verified", min_width=3)
    for row in rows:
        cells = (
            str(row["version"]),
            ", ".join([row["state"], *row["labels"]]),
            (row["created"] or "").replace("T", " ")[:16],
            "" if row["auc"] is None else f"{row['auc']:.4f}",
            _months(row["trained_on"]),
            _months(row["evaluated_on"]),
            decimal(row["bytes"], precision=0),
            "none" if row["tflite_bytes"] is None else decimal(row["tflite_bytes"]),
            "no" if not row["signed"] else _printable(short_id(row["key_id"] or "unknown")),
            *([verified[row["verified"]]] if "verified" in row else []),
        )
        style = {LIVE: "bold green", ROLLED_BACK: "dim"}.get(row["state"], "")
        table.add_row(*map(Text, cells), style=style)
    print_table(table, standard_output())


def _months(spans: list[int]) -> str:
    first_and_last = (spans[0], spans[-1]) if len(spans) > 1 else spans
    return " to ".join(map(str, first_and_last))
