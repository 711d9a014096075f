"""The prediction DAG: from a table to the same table with predictions."""

from __future__ import annotations

import json
from collections.abc import Sequence

from tfx import v1 as tfx

from components.batch_predictor.component import BatchPredictor
from pipeline.config import Config
from pipeline.metadata import connect
from pipeline.model import Model

PIPELINE_NAME = "flightdeck-prediction"


def create_prediction_pipeline(
    config: Config,
    *,
    pipeline_root: str,
    serving_dir: str,
    input_uri: str,
    output_uri: str,
    version: int = 0,
    label: str = "",
    model_format: str = "",
    output_format: str = "",
    explain: int = 0,
    public_keys: Sequence[str] = (),
    metadata_path: str | None = None,
    pipeline_name: str = PIPELINE_NAME,
) -> tfx.dsl.Pipeline:
    """Builds the pipeline that predicts a table with a version.

    Args:
      config: The model's task, and how its text files are written.
      pipeline_root: URI under which TFX keeps artifacts.
      serving_dir: URI of the Serving directory.
      input_uri: A file, or a folder of files.
      output_uri: Folder of the predictions.
      version: The version; 0 for the one with the label, or the one that is served.
      label: A label of the Serving directory; "" for none.
      model_format: "tflite" or "saved_model"; "" for TFLite where the version has it.
      output_format: "parquet", "csv" or "jsonl"; "" for that of the input.
      explain: 1 for the contributions of features beside each prediction, else 0.
      public_keys: Public keys, or folders of them, that the version is verified with; with none, it
        is not verified.
      metadata_path: SQLite file of ML Metadata; None if the orchestrator has its own.
      pipeline_name: Name of the pipeline.

    Returns:
      The pipeline, without caching: a table may change, and the version that is served.
    """
    model = Model.load(config)
    predictor = BatchPredictor(
        input_uri=input_uri,
        output_uri=output_uri,
        layout=config.data.source.layout,
        serving_dir=serving_dir,
        model_name=config.model_name,
        version=version,
        label=label,
        model_format=model_format,
        output_format=output_format,
        explain=explain,
        task=model.task.to_json(),
        prediction=model.prediction,
        public_keys=json.dumps(public_keys),
        encryption_keys=config.serving.encryption_keys,
    )
    return tfx.dsl.Pipeline(
        pipeline_name=pipeline_name,
        pipeline_root=pipeline_root,
        components=[predictor],
        enable_cache=False,
        metadata_connection_config=connect(metadata_path),
        beam_pipeline_args=list(config.prediction_beam_args),
    )
