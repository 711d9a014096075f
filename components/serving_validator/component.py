"""ServingValidator: does the model load on a real server, and answer real requests as it should?"""

import dataclasses
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from tfx import v1 as tfx
from tfx.utils import path_utils

from components.serving_validator.candidate import MAX_WARMUP_RECORDS, make_candidate
from components.serving_validator.rows import sample_rows
from components.serving_validator.server import EMBEDDED_SERVER, MODEL_SERVER, find_model_server
from components.serving_validator.trial import (
    SAVED_MODEL_FORM,
    TFLITE_FORM,
    Rows,
    log_path,
    try_form,
)
from components.serving_validator.verdict import Limits
from ml.artifacts import (
    INFRA_BLESSED_FILE,
    INFRA_NOT_BLESSED_FILE,
    serving_model_uri,
    split_files,
)
from ml.networks import require
from storage.names import TFLITE_MODEL
from storage.uris import copy_tree

# The layout of an `InfraBlessing`, as the stock InfraValidator writes it.
REPORT_FILE = "report.json"
_VERSION = "1"


@tfx.dsl.components.component
def ServingValidator(
    model: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Model],
    examples: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Examples],
    blessing: tfx.dsl.components.OutputArtifact[tfx.types.standard_artifacts.InfraBlessing],
    model_name: tfx.dsl.components.Parameter[str],
    split: tfx.dsl.components.Parameter[str] = "test",
    rows: tfx.dsl.components.Parameter[int] = 200,
    tolerance: tfx.dsl.components.Parameter[float] = 0.005,
    max_p50_ms: tfx.dsl.components.Parameter[float] = 0.0,
    max_p99_ms: tfx.dsl.components.Parameter[float] = 0.0,
    max_startup_seconds: tfx.dsl.components.Parameter[float] = 0.0,
    max_memory_mb: tfx.dsl.components.Parameter[float] = 0.0,
    timeout_seconds: tfx.dsl.components.Parameter[float] = 60.0,
    warmup_rows: tfx.dsl.components.Parameter[int] = 10,
) -> None:
    """Serves a model as it will be served, asks it real rows, and says what is wrong with it.

    What it takes is what the stock InfraValidator has Docker or Kubernetes for: a
    `tensorflow_model_server` if there is one on the path, else the embedded server, in a process of
    its own that is ended with the node. The model is tried in each of its forms: it has to load,
    and to answer every row over gRPC and over REST, in time, with finite numbers and as the model
    does in this process.

    What is served, and kept in the blessing for whoever pushes it, is a copy with warm-up requests;
    see `components.serving_validator.candidate`. It depends on `model`, the rows and `warmup_rows`
    alone.

    Args:
      model: A SavedModel with the signature `serving_default`, from serialized examples or features
        to one output of numbers, and maybe a `model.tflite` in its folder.
      examples: Raw examples.
      blessing: Component `outputs` contains: `INFRA_BLESSED` or `INFRA_NOT_BLESSED` and the custom
        properties `blessed` and `has_model`, as the stock InfraValidator writes them; where
        blessed, the model to push in `stamped_model`; `report.json`, and the server's log by form.
      model_name: Name to serve the model by.
      split: Split of the examples to ask.
      rows: How many of its rows to ask, at most.
      tolerance: Largest absolute difference of an answer from the model's own.
      max_p50_ms: Highest median time of a request about one row, in milliseconds, over either
        protocol; 0 for no limit. Other nodes that run at the same time count in.
      max_p99_ms: Highest 99th percentile of that; 0 for no limit.
      max_startup_seconds: Longest time from the start of the server to its being ready, in seconds;
        0 for no limit.
      max_memory_mb: Highest peak of the server's resident memory, in MB (10^6 bytes); 0 for no
        limit.
      timeout_seconds: How long the model may take to be loaded, and to answer a request, before it
        is taken to hang.
      warmup_rows: How many rows a server asks each signature when it loads the model; 0 for none.

    Raises:
      UserError: Naming the parameter that is not allowed or the split that is missing.
      DataError: If the split has no rows, or a row lacks what the model needs.
    """
    require(rows >= 1, "rows", rows, "1 or more")
    require(timeout_seconds > 0, "timeout_seconds", timeout_seconds, "more than 0")
    require(
        0 <= warmup_rows <= MAX_WARMUP_RECORDS,
        "warmup_rows",
        warmup_rows,
        f"0 to {MAX_WARMUP_RECORDS}",
    )
    limits = Limits(
        tolerance=tolerance,
        max_p50_ms=max_p50_ms,
        max_p99_ms=max_p99_ms,
        max_startup_seconds=max_startup_seconds,
        max_memory_mb=max_memory_mb,
        timeout_seconds=timeout_seconds,
    )
    for name, value in dataclasses.asdict(limits).items():
        require(value >= 0, name, value, "0 or more")
    asked = Rows(*sample_rows(split_files(examples, split), rows))
    with tempfile.TemporaryDirectory() as folder:
        candidate = os.path.join(folder, model_name, _VERSION)
        warmed = make_candidate(
            serving_model_uri(model), candidate, model_name, asked.examples, warmup_rows
        )
        has_tflite = os.path.exists(os.path.join(candidate, TFLITE_MODEL))
        forms = [SAVED_MODEL_FORM, *([TFLITE_FORM] if has_tflite else [])]
        trials = {
            form: try_form(form, folder, candidate, model_name, asked, limits) for form in forms
        }
        reasons = [reason for trial in trials.values() for reason in trial.reasons]
        if not reasons:
            copy_tree(candidate, path_utils.stamped_model_path(blessing.uri))
        logs = {form: Path(log_path(folder, form)).read_bytes() for form in forms}
    report = {
        "server": MODEL_SERVER if find_model_server() else EMBEDDED_SERVER,
        "split": split,
        "rows": len(asked.numbers),
        "warmed_signatures": warmed,
        "limits": dataclasses.asdict(limits),
        "forms": {form: dataclasses.asdict(trial) for form, trial in trials.items()},
        "reasons": reasons,
    }
    _write_blessing(blessing, report, logs)


def _write_blessing(blessing: Any, report: dict[str, Any], logs: dict[str, bytes]) -> None:
    blessed = not report["reasons"]
    marker = INFRA_BLESSED_FILE if blessed else INFRA_NOT_BLESSED_FILE
    files = {
        REPORT_FILE: (json.dumps(report, indent=2) + "\n").encode(),
        marker: b"",
        **{f"{form}.log": log for form, log in logs.items()},
    }
    tfx.dsl.io.fileio.makedirs(blessing.uri)
    for name, content in files.items():
        with tfx.dsl.io.fileio.open(os.path.join(blessing.uri, name), "wb") as file:
            file.write(content)
    blessing.set_int_custom_property("blessed", int(blessed))
    blessing.set_int_custom_property("has_model", int(blessed))


def read_report(blessing: tfx.dsl.Artifact) -> dict[str, Any]:
    """What a ServingValidator found; see `ServingValidator`.

    Args:
      blessing: The `InfraBlessing` that it wrote.

    Returns:
      The server, the number of rows, limits, measurements by form (`verdict.Trial`), and `reasons`
      why the model is not blessed.
    """
    with tfx.dsl.io.fileio.open(os.path.join(blessing.uri, REPORT_FILE), "r") as file:
        report: dict[str, Any] = json.loads(file.read())
    return report
