"""BatchPredictor: predicts a table with a version of the Serving directory."""

import json
import os
from typing import cast

import apache_beam as beam
from tfx import v1 as tfx

from components.batch_predictor.job import Request, predict_table
from components.batch_predictor.version import Source
from ml.table_models import ModelFormat
from ml.tasks import Task
from storage.spans import DataSource
from storage.table_formats import Format

MANIFEST_FILE = "manifest.json"


@tfx.dsl.components.component(use_beam=True)
def BatchPredictor(
    inference_result: tfx.dsl.components.OutputArtifact[
        tfx.types.standard_artifacts.InferenceResult
    ],
    input_uri: tfx.dsl.components.Parameter[str],
    output_uri: tfx.dsl.components.Parameter[str],
    layout: tfx.dsl.components.Parameter[str],
    serving_dir: tfx.dsl.components.Parameter[str],
    model_name: tfx.dsl.components.Parameter[str],
    version: tfx.dsl.components.Parameter[int],
    label: tfx.dsl.components.Parameter[str],
    model_format: tfx.dsl.components.Parameter[str],
    output_format: tfx.dsl.components.Parameter[str],
    explain: tfx.dsl.components.Parameter[int],
    task: tfx.dsl.components.Parameter[str],
    prediction: tfx.dsl.components.Parameter[str],
    public_keys: tfx.dsl.components.Parameter[str],
    encryption_keys: tfx.dsl.components.Parameter[str],
    beam_pipeline: tfx.dsl.components.BeamComponentParameter[beam.Pipeline] = None,
) -> None:
    """Predicts a table: writes its columns and the predictions in its format, or another.

    It takes the place of the stock BulkInferrer, which reads tf.Examples, keeps no columns and
    loads a model that nobody has verified. A node that was stopped goes on where it was.

    Example:
      predictor = BatchPredictor(
          input_uri="data/today.parquet",
          output_uri="predictions/today",
          layout=DataSource("").layout,
          serving_dir="output/serving",
          model_name="my_model",
          version=0,
          label="",
          model_format="",
          output_format="",
          explain=0,
          task=Task("binary", "delayed").to_json(),
          prediction="probability",
          public_keys='["output/keys"]',
          encryption_keys="",
      )

    Args:
      inference_result: Component `outputs` contains: `manifest.json`, a copy of the manifest in
        `output_uri`; the custom properties `version`, `rows` and `rejected`.
      input_uri: A file (Parquet, CSV, JSON lines), or a folder of files of one format.
      output_uri: Folder of the predictions; new, or one that an earlier node began.
      layout: The format of text files and the time column; the JSON of `DataSource.layout`.
      serving_dir: URI of the Serving directory.
      model_name: Name of the model in it.
      version: The version; 0 for the one with the label, or the one that is served.
      label: A label of the Serving directory; "" for none.
      model_format: "tflite" or "saved_model"; "" for TFLite where the version has it.
      output_format: "parquet", "csv" or "jsonl"; "" for that of the input.
      explain: 1 for the contributions of features beside each prediction, else 0.
      task: JSON of the model's `Task`.
      prediction: Name of the model's output.
      public_keys: JSON list of the trusted public keys, or folders of them (`*.pub`); with none,
        the version is not verified.
      encryption_keys: File of the keys that an encrypted version is decrypted with; "" for the
        environment.
      beam_pipeline: Supplied by TFX.

    Raises:
      UserError: See `predict_table`.
    """
    data = DataSource.of(input_uri, layout)
    outcome = predict_table(
        Source(serving_dir, model_name, version, label, json.loads(public_keys), encryption_keys),
        Request(
            input_uri=input_uri,
            output_uri=output_uri,
            text=data.text,
            task=Task.from_json(task),
            output=prediction,
            time_column=data.time_column,
            model_format=cast(ModelFormat, model_format) if model_format else None,
            output_format=Format.named(output_format),
            explain=bool(explain),
        ),
        lambda: beam_pipeline,
    )
    manifest = outcome.manifest
    inference_result.set_int_custom_property("version", manifest["model"]["version"])
    for name in ("rows", "rejected"):
        inference_result.set_int_custom_property(name, manifest[name])
    tfx.dsl.io.fileio.makedirs(inference_result.uri)
    with tfx.dsl.io.fileio.open(os.path.join(inference_result.uri, MANIFEST_FILE), "w") as file:
        file.write(json.dumps(manifest, indent=2) + "\n")
