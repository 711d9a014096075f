"""The command `predict`."""

from __future__ import annotations

from typing import Any

import click

from serving.commands.options import FILE, refusals
from serving.server.settings import REST_PORT
from storage.protected import read_token


@click.command()
@click.argument("file", type=FILE)
@click.option(
    "--server",
    default=f"http://127.0.0.1:{REST_PORT}",
    show_default=True,
    help="Address of the server's REST interface.",
)
@click.option("--model", metavar="NAME", required=True, help="Name of the model.")
@click.option(
    "--version", "version", type=int, help="Version that predicts. Default: the live one."
)
@click.option("--label", help="Label of the version that predicts.")
@click.option("--signature", help="Signature. Default: the first that the columns fit.")
@click.option("--rows", type=click.IntRange(min=1), help="Predict the first rows only.")
@click.option("--token-file", type=FILE, help="Bearer token that the server wants.")
@click.option("--ca-file", type=FILE, help="Certificates to trust, PEM, for https.")
def predict(
    file: str, version: int | None, label: str | None, token_file: str | None, **options: Any
) -> None:
    """Prints a server's predictions for the rows of a CSV or Parquet file, as CSV.

    Columns that the model does not read are passed over; an empty value is an absent one.

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
