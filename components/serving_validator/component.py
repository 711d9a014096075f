"""ServingValidator: does the model load on a server and predict the same there?"""

import dataclasses
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from tfx import v1 as tfx

from components.serving_validator.rows import sample_rows
from components.serving_validator.server import EMBEDDED_SERVER, MODEL_SERVER, find_model_server
from components.serving_validator.trial import (
    SAVED_MODEL_FORMAT,
    TFLITE_FORMAT,
    Rows,
    log_path,
    try_formats,
)
from components.serving_validator.verdict import Limits
from components.serving_validator.warmup import write_warmup
from ml.artifacts import load_schema, serving_model_uri, split_files
from ml.effort import Stopwatch
from ml.examples import raw_values
from ml.file_names import INFRA_BLESSED_FILE, INFRA_NOT_BLESSED_FILE, REPORT_FILE
from ml.tasks import REGRESSION, Task
from storage.names import TFLITE_MODEL, WARMUP_FILE
from storage.uris import copy_tree

_VERSION = "1"


@tfx.dsl.components.component
def ServingValidator(
    model: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Model],
    examples: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Examples],
    schema: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Schema],
    blessing: tfx.dsl.components.OutputArtifact[tfx.types.standard_artifacts.InfraBlessing],
    model_name: tfx.dsl.components.Parameter[str],
    task: tfx.dsl.components.Parameter[str],
    split: tfx.dsl.components.Parameter[str],
    rows: tfx.dsl.components.Parameter[int],
    tolerance: tfx.dsl.components.Parameter[float],
    max_p50_ms: tfx.dsl.components.Parameter[float],
    max_p99_ms: tfx.dsl.components.Parameter[float],
    max_startup_seconds: tfx.dsl.components.Parameter[float],
    max_memory_mb: tfx.dsl.components.Parameter[float],
    timeout_seconds: tfx.dsl.components.Parameter[float],
    warmup_rows: tfx.dsl.components.Parameter[int],
) -> None:
    """Serves a model on a real server, sends it real rows, and blesses it if all is well.

    The server is `tensorflow_model_server` if it is on the path, else the embedded server. It runs
    in its own process, which ends with the node; the stock InfraValidator needs Docker or
    Kubernetes. Each format of the model has to load, and to return a prediction for every row over
    gRPC and over REST: in time, finite, and equal to the prediction in this process. A format that
    has the signatures `classify` and `regress` has to do this over the methods of these names too,
    with the names of the classes.

    The server gets the unchanged files of the model and warm-up requests, which depend only on the
    model, the rows and `warmup_rows`. A blessing holds the requests, to be pushed with the model.

    Example:
      serving_validator = ServingValidator(
          model=quantizer.outputs["quantized_model"],
          examples=example_gen.outputs["examples"],
          schema=schema_gen.outputs["schema"],
          model_name="my_model",
          task='{"kind": "binary", "label": "tip"}',
          split="test",
          rows=200,
          tolerance=0.005,
          max_p50_ms=0.0,
          max_p99_ms=20.0,
          max_startup_seconds=60.0,
          max_memory_mb=1500.0,
          timeout_seconds=60.0,
          warmup_rows=10,
      )

    Args:
      model: A SavedModel with the signature `serving_default`, from serialized examples or features
        to one output of numbers, and maybe a `model.tflite` in its folder.
      examples: Raw examples.
      schema: Their schema; each input of a signature that takes features is one of its features.
      blessing: Component `outputs` contains: `INFRA_BLESSED` or `INFRA_NOT_BLESSED` and the custom
        property `blessed`, as the stock InfraValidator writes them; where blessed, the warm-up
        requests under the path that they have in a version; `report.json`, and the server's log by
        format.
      model_name: Name to serve the model by.
      task: JSON of what the model predicts; see `Task.to_json`.
      split: Split of the examples that requests are made of.
      rows: How many of its rows to send, at most.
      tolerance: Largest absolute difference between a server's prediction and the model's own; of a
        regression in standard deviations of the labels of the rows.
      max_p50_ms: Highest median time of a request for one row, in milliseconds, over either
        protocol; 0 for no limit. Nodes that run at the same time slow it down.
      max_p99_ms: Highest 99th percentile of that; 0 for no limit.
      max_startup_seconds: Longest time until the server is ready, in seconds; 0 for no limit.
      max_memory_mb: Highest peak of the server's resident memory, in MB (10^6 bytes); 0 for no
        limit.
      timeout_seconds: Longest time to wait until the model is loaded, and for each prediction.
      warmup_rows: How many warm-up requests each signature gets when the model is loaded; 0 for
        none.

    Raises:
      UserError: Naming the split that is missing, or an input that is no feature of the schema.
      DataError: If the split has no rows, or a row lacks what the model needs.
    """
    stopwatch = Stopwatch("ServingValidator")
    limits = Limits(
        tolerance=tolerance,
        max_p50_ms=max_p50_ms,
        max_p99_ms=max_p99_ms,
        max_startup_seconds=max_startup_seconds,
        max_memory_mb=max_memory_mb,
        timeout_seconds=timeout_seconds,
    )
    learned = Task.from_json(task)
    sample, numbers = sample_rows(split_files(examples, split), rows)
    features = [feature.name for feature in load_schema(schema).feature]
    requested = Rows(sample, numbers, learned, _scale(learned, sample), features)
    with tempfile.TemporaryDirectory() as folder:
        candidate = os.path.join(folder, model_name, _VERSION)
        copy_tree(serving_model_uri(model), candidate)
        warmed = write_warmup(candidate, model_name, requested.examples[:warmup_rows], features)
        has_tflite = os.path.exists(os.path.join(candidate, TFLITE_MODEL))
        formats = [SAVED_MODEL_FORMAT, *([TFLITE_FORMAT] if has_tflite else [])]
        trials = try_formats(formats, folder, candidate, model_name, requested, limits)
        reasons = [reason for trial in trials.values() for reason in trial.reasons]
        requests = Path(candidate, WARMUP_FILE).read_bytes() if warmed else None
        logs = {
            model_format: Path(log_path(folder, model_format)).read_bytes()
            for model_format in formats
        }
    report = {
        "server": MODEL_SERVER if find_model_server() else EMBEDDED_SERVER,
        "split": split,
        "rows": len(requested.numbers),
        "warmed_signatures": warmed,
        "scale": requested.scale,
        "limits": dataclasses.asdict(limits),
        "formats": {
            model_format: dataclasses.asdict(trial) for model_format, trial in trials.items()
        },
        "reasons": reasons,
    }
    files = {f"{model_format}.log": log for model_format, log in logs.items()}
    if requests and not reasons:
        files[WARMUP_FILE] = requests
    _write_blessing(blessing, report, files)
    stopwatch.stop(blessing)


def _scale(task: Task, sample: np.ndarray) -> float:
    """The standard deviation of the labels of a regression, 1 if they have none; else 1."""
    if task.kind != REGRESSION:
        return 1.0
    labels = task.encode(raw_values(sample, task.label))
    return float(np.std(labels[np.isfinite(labels)])) or 1.0 if np.isfinite(labels).any() else 1.0


def _write_blessing(blessing: Any, report: dict[str, Any], files: dict[str, bytes]) -> None:
    blessed = not report["reasons"]
    files[REPORT_FILE] = (json.dumps(report, indent=2) + "\n").encode()
    files[INFRA_BLESSED_FILE if blessed else INFRA_NOT_BLESSED_FILE] = b""
    for name, content in files.items():
        path = os.path.join(blessing.uri, name)
        tfx.dsl.io.fileio.makedirs(os.path.dirname(path))
        with tfx.dsl.io.fileio.open(path, "wb") as file:
            file.write(content)
    blessing.set_int_custom_property("blessed", int(blessed))


def read_report(blessing: tfx.dsl.Artifact) -> dict[str, Any]:
    """Reads the report of a ServingValidator.

    Args:
      blessing: The `InfraBlessing` that it wrote.

    Returns:
      The server, the number of rows, limits, measurements by format (`verdict.Trial`), and
      `reasons` why the model is not blessed.
    """
    with tfx.dsl.io.fileio.open(os.path.join(blessing.uri, REPORT_FILE), "r") as file:
        report: dict[str, Any] = json.loads(file.read())
    return report
