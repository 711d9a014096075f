"""The command `predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from orchestration.commands.options import (
    config_options,
    epilog,
    hush_libraries,
    output_of,
    read_config,
)
from orchestration.outcome import Outcome

_EPILOG = epilog(
    [
        "python local_runner.py predict --input today.parquet --output predictions/today",
        "python local_runner.py predict --input days/ --output predictions/days --label stable",
        "python local_runner.py predict --input today.parquet --output why/today --explain",
        "python local_runner.py predict --input today.csv --output predictions/today \\",
        "    --output-format parquet --set 'beam_args=[\"--runner=FlinkRunner\"]'",
    ],
    Outcome.PREDICTED,
    Outcome.FAILED,
    Outcome.INTERRUPTED,
)


@click.command(epilog=_EPILOG)
@click.option(
    "--input",
    "input_uri",
    metavar="PATH",
    required=True,
    help="Parquet, CSV or JSON lines: a file, or a folder of files of one format.",
)
@click.option(
    "--output",
    "output_uri",
    metavar="PATH",
    required=True,
    help="Folder for the predictions: a new one, or one that was begun, which goes on.",
)
@click.option("--version", type=click.IntRange(min=1), help="Version. Default: the served one.")
@click.option("--label", metavar="NAME", help="The version that has a label.")
@click.option(
    "--output-format",
    type=click.Choice(["parquet", "csv", "jsonl"]),
    help="Format of the predictions. Default: that of the input.",
)
@click.option(
    "--model-format",
    type=click.Choice(["tflite", "saved_model"]),
    help="Format of the model. Default: tflite where the version has it.",
)
@click.option(
    "--explain",
    is_flag=True,
    help="Add the contribution of each feature; it takes thousands of predictions a row.",
)
@click.option(
    "--runs",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("output"),
    show_default=True,
    help="Output directory of the runs, which holds the Serving directory.",
)
@config_options
def predict(
    runs: Path, config_path: str | None, settings: tuple[str, ...], **selected: Any
) -> None:
    """Predicts a table with a version: writes its columns and the predictions, in its format.

    The version is verified first. Rows that cannot be predicted are written to _rejected, with the
    reason. After a stop, the same command goes on.
    """
    if selected["version"] and selected["label"]:
        raise click.UsageError("--version and --label exclude each other")
    config = read_config(config_path, settings)
    hush_libraries()
    from orchestration.commands.ending import finish
    from orchestration.local.prediction import Selection
    from orchestration.local.prediction import predict as predict_now
    from terminal.tables import open_console

    console = open_console()
    directory = output_of(config, runs)
    selection = Selection(**selected)
    finish(
        console,
        lambda: predict_now(config, directory, selection, console),
        stopped="Stopped. The same command goes on from here.",
    )
