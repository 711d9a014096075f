"""The command `versions`."""

from __future__ import annotations

import json
from itertools import chain
from typing import Any

import click

from serving.commands.options import (
    SERVING_DIR,
    encryption_keys_option,
    find_directories,
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
    """Lists the versions of all models, newest first, with their claimed signing keys.

    \b
    Examples:
      python -m serving versions
      python -m serving versions /data/serving_model --model my_model
      python -m serving versions --json --verify
    """
    with refusals():
        directories = find_directories(serving_dir, model)
        rows = [describe_versions(directory) for directory in directories]
        if verify:
            trust, keys = trust_of(serving_dir, public_keys), load_keys(encryption_keys)
            for directory, theirs in zip(directories, rows, strict=True):
                for row in theirs:
                    row["verified"] = verifies(directory, row["version"], trust, keys)
        ignored = {one.model_name: one.ignored() for one in directories}
        withdrawn = [one.model_name for one in directories if one.withdrawn()]
    if as_json:
        click.echo(json.dumps(list(chain(*rows)), indent=2))
    else:
        for number, (directory, theirs) in enumerate(zip(directories, rows, strict=True)):
            if number:
                click.echo()
            print_versions(directory, theirs)
    for name in withdrawn:
        click.echo(f"Nothing of {name} is live: the last version was withdrawn.", err=True)
    for name, folders in ignored.items():
        if folders:
            click.echo(f"No server can load the folders {', '.join(folders)} of {name}.", err=True)


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
    titles = {str(row["metric"]["title"]) for row in rows if row["metric"]}
    # Of another metric than the others a version has after its task was changed.
    shared = _printable(titles.pop()) if len(titles) == 1 else ""
    metric = shared or "metric"
    for name, width in (("version", 10), ("state", 11), ("made, UTC", 10), (metric, 6)):
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
            _metric(row["metric"], titled=not shared),
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


def _metric(metric: dict[str, Any] | None, titled: bool) -> str:
    if metric is None:
        return ""
    return _printable(f"{metric['title']} {metric['text']}" if titled else metric["text"])


def _months(spans: list[int]) -> str:
    first_and_last = (spans[0], spans[-1]) if len(spans) > 1 else spans
    return " to ".join(map(str, first_and_last))
