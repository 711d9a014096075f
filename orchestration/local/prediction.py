"""Predicts a table on this machine.

The Beam job of the node BatchPredictor runs in this process, without TFX around it: importing TFX
takes as long as predicting a million rows.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from rich.console import Console

from components.batch_predictor.job import Request, Start, predict_table
from components.batch_predictor.version import Source
from ml.table_models import ModelFormat
from orchestration.local.keys import public_keys
from orchestration.local.model_directories import check_name
from orchestration.local.output_directory import OutputDirectory
from orchestration.outcome import Outcome
from pipeline.config import Config
from storage.table_formats import Format


@dataclass(frozen=True)
class Selection:
    """What to predict, and with which version.

    Attributes:
      input_uri: A file, or a folder of files.
      output_uri: Folder of the predictions.
      version: The version; None for the one with the label, or the one that is served.
      label: A label of the Serving directory; None for none.
      model_format: Format of the model; None for TFLite where the version has it.
      output_format: Format of the predictions, "parquet", "csv" or "jsonl"; None for that of the
        input.
      explain: Whether the contributions of features stand beside each prediction.
    """

    input_uri: str
    output_uri: str
    version: int | None
    label: str | None
    model_format: ModelFormat | None
    output_format: str | None
    explain: bool


def predict(
    config: Config, directory: OutputDirectory, selection: Selection, console: Console
) -> Outcome:
    """Predicts a table.

    Args:
      config: The configuration.
      directory: The output directory of the runs, whose Serving directory holds the version.
      selection: What to predict, and with which version.
      console: Where to show what is done.

    Raises:
      UserError: See `predict_table`.
    """
    check_name(directory, config.model_name)
    source = Source(
        serving_dir=str(directory.serving),
        model_name=config.model_name,
        version=selection.version or 0,
        label=selection.label or "",
        public_keys=public_keys(config, directory),
        encryption_keys=config.serving.encryption_keys,
    )
    request = Request(
        input_uri=selection.input_uri,
        output_uri=selection.output_uri,
        text=config.data.source.text,
        task=config.make_task(),
        output=config.prediction,
        time_column=config.data.time_column,
        model_format=selection.model_format,
        output_format=Format.named(selection.output_format or ""),
        explain=selection.explain,
    )
    args = list(config.prediction_beam_args)

    def started(start: Start) -> None:
        done = start.shards - start.left
        before = f", {done} of them done before" if done else ""
        console.print(
            f"Version {start.version} of {config.model_name}: {start.shards} shard(s){before}",
            soft_wrap=True,
        )
        if start.evaluations:
            console.print(f"The explanation of a row takes {start.evaluations:,} predictions.")

    begin = time.monotonic()
    outcome = predict_table(
        source, request, lambda: beam.Pipeline(options=PipelineOptions(args)), started
    )
    manifest = outcome.manifest
    if outcome.reused == outcome.shards:
        console.print("There was nothing left to predict.")
    console.print(
        f"{manifest['rows']:,} rows predicted in {time.monotonic() - begin:.1f} s: "
        f"{selection.output_uri}",
        soft_wrap=True,
    )
    for name, meaning in manifest["predictions"].items():
        console.print(f"  {name}: {meaning}", soft_wrap=True)
    if explained := manifest.get("contributions"):
        console.print(
            f"  {', '.join([*explained][:2])} and so on ({len(explained)} columns): they sum to "
            "the prediction, by feature",
            soft_wrap=True,
        )
    if manifest["rejected"]:
        reason = next(shard["reason"] for shard in manifest["shards"] if shard["reason"])
        console.print(
            f"{manifest['rejected']:,} rows without a prediction are in "
            f"{selection.output_uri}/_rejected; the first: {reason}",
            soft_wrap=True,
        )
    return Outcome.PREDICTED
