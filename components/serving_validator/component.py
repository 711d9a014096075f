"""ServingValidator: does the model load on a server and answer requests as it should?"""

import dataclasses
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from tfx import v1 as tfx

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
from components.serving_validator.warmup import write_warmup
from ml.artifacts import (
    INFRA_BLESSED_FILE,
    INFRA_NOT_BLESSED_FILE,
    REPORT_FILE,
    serving_model_uri,
    split_files,
)
from storage.names import TFLITE_MODEL, WARMUP_FILE
from storage.uris import copy_tree

_VERSION = "1"


@tfx.dsl.components.component
def ServingValidator(
    model: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Model],
    examples: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Examples],
    blessing: tfx.dsl.components.OutputArtifact[tfx.types.standard_artifacts.InfraBlessing],
    model_name: tfx.dsl.components.Parameter[str],
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
    """Serves a model as it will be served, sends it real rows, and says what is wrong with it.

    What it takes is what the stock InfraValidator has Docker or Kubernetes for: a
    `tensorflow_model_server` if there is one on the path, else the embedded server, in a process of
    its own that is ended with the node. The model is tried in each of its formats: it has to load,
    and to answer a request for every row over gRPC and over REST, in time, with finite values and
    as the model predicts in this process.

    The server gets the files of the model as they are, and warm-up requests with them; these depend
    on the model, the rows and `warmup_rows` alone. A blessing holds the requests, to be pushed with
    the model.

    Args:
      model: A SavedModel with the signature `serving_default`, from serialized examples or features
        to one output of numbers, and maybe a `model.tflite` in its folder.
      examples: Raw examples.
      blessing: Component `outputs` contains: `INFRA_BLESSED` or `INFRA_NOT_BLESSED` and the custom
        property `blessed`, as the stock InfraValidator writes them; where blessed, the warm-up
        requests under the path that they have in a version; `report.json`, and the server's log by
        format.
      model_name: Name to serve the model by.
      split: Split of the examples that requests are made of.
      rows: How many of its rows to send, at most.
      tolerance: Largest absolute difference of a server's prediction from the model's own.
      max_p50_ms: Highest median time of a request about one row, in milliseconds, over either
        protocol; 0 for no limit. Other nodes that run at the same time count in.
      max_p99_ms: Highest 99th percentile of that; 0 for no limit.
      max_startup_seconds: Longest time from the start of the server to its being ready, in seconds;
        0 for no limit.
      max_memory_mb: Highest peak of the server's resident memory, in MB (10^6 bytes); 0 for no
        limit.
      timeout_seconds: How long the model may take to be loaded, and to answer a request, before it
        is taken to hang.
      warmup_rows: How many warm-up requests each signature gets when the model is loaded; 0 for
        none.

    Raises:
      UserError: Naming the split that is missing.
      DataError: If the split has no rows, or a row lacks what the model needs.
    """
    limits = Limits(
        tolerance=tolerance,
        max_p50_ms=max_p50_ms,
        max_p99_ms=max_p99_ms,
        max_startup_seconds=max_startup_seconds,
        max_memory_mb=max_memory_mb,
        timeout_seconds=timeout_seconds,
    )
    requested = Rows(*sample_rows(split_files(examples, split), rows))
    with tempfile.TemporaryDirectory() as folder:
        candidate = os.path.join(folder, model_name, _VERSION)
        copy_tree(serving_model_uri(model), candidate)
        warmed = write_warmup(candidate, model_name, requested.examples[:warmup_rows])
        has_tflite = os.path.exists(os.path.join(candidate, TFLITE_MODEL))
        forms = [SAVED_MODEL_FORM, *([TFLITE_FORM] if has_tflite else [])]
        trials = {
            form: try_form(form, folder, candidate, model_name, requested, limits) for form in forms
        }
        reasons = [reason for trial in trials.values() for reason in trial.reasons]
        requests = Path(candidate, WARMUP_FILE).read_bytes() if warmed else None
        logs = {form: Path(log_path(folder, form)).read_bytes() for form in forms}
    report = {
        "server": MODEL_SERVER if find_model_server() else EMBEDDED_SERVER,
        "split": split,
        "rows": len(requested.numbers),
        "warmed_signatures": warmed,
        "limits": dataclasses.asdict(limits),
        "forms": {form: dataclasses.asdict(trial) for form, trial in trials.items()},
        "reasons": reasons,
    }
    files = {f"{form}.log": log for form, log in logs.items()}
    if requests and not reasons:
        files[WARMUP_FILE] = requests
    _write_blessing(blessing, report, files)


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
