"""The command `explain`."""

from __future__ import annotations

from typing import Any

import click

from serving.commands.options import FILE, refusals, server_options
from storage.protected import read_token


@click.command()
@click.argument("file", type=FILE)
@server_options
@click.option("--rows", type=click.IntRange(min=1), help="Explain the first rows only.")
def explain(
    file: str, version: int | None, label: str | None, token_file: str | None, **options: Any
) -> None:
    """Prints why an embedded server predicts what it predicts for the rows of a file, as CSV.

    For each row, and each output, the prediction, the base value and the SHAP value of each feature
    or group: they sum to the prediction. The file is a CSV or Parquet file.

    \b
    Examples:
      python -m serving explain rows.csv --model my_model
      python -m serving explain rows.parquet --model my_model --label stable --rows 10
    """
    if version is not None and label:
        raise click.UsageError("--version and --label exclude each other.")
    from serving.client import ClientError, print_explanations

    with refusals(ClientError):
        token = read_token(token_file).decode() if token_file else ""
        print_explanations(file, version=version, label=label, token=token, **options)
