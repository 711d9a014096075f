"""The command `predict`."""

from __future__ import annotations

from typing import Any

import click

from serving.commands.options import FILE, refusals, server_options
from storage.protected import read_token


@click.command()
@click.argument("file", type=FILE)
@server_options
@click.option("--signature", help="Signature. Default: the first that the columns fit.")
@click.option("--rows", type=click.IntRange(min=1), help="Predict the first rows only.")
def predict(
    file: str, version: int | None, label: str | None, token_file: str | None, **options: Any
) -> None:
    """Prints a server's predictions for the rows of a CSV or Parquet file, as CSV.

    Columns that the model does not read are ignored; an empty value is an absent one.

    \b
    Examples:
      python -m serving predict rows.csv --model my_model
      python -m serving predict rows.parquet --model my_model --label stable --rows 10
    """
    if version is not None and label:
        raise click.UsageError("--version and --label exclude each other.")
    from serving.client import ClientError, print_predictions

    with refusals(ClientError):
        token = read_token(token_file).decode() if token_file else ""
        print_predictions(file, version=version, label=label, token=token, **options)
