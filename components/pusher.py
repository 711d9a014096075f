"""Pusher: publishes a blessed model to the Serving directory, together with where it came from."""

import json
import os
from datetime import UTC, datetime
from importlib.metadata import version as library_version
from typing import Any

from tfx import v1 as tfx

from components.artifacts import CompressionReport, schema_uri, serving_model_uri, statistics_uri
from components.evaluator.executor import BLESSED_FILE
from components.evaluator.results import OVERALL, read_metrics
from components.served_model import TRAINING_STATISTICS
from serving.directory import PROVENANCE_FILE, ModelDirectory, model_digest

_LIBRARIES = (
    "tfx",
    "tensorflow",
    "tf-keras",
    "tensorflow-model-optimization",
    "tensorflow-transform",
    "ai-edge-litert",
    "apache-beam",
    "numpy",
)


@tfx.dsl.components.component
def Pusher(
    model: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Model],
    blessing: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.ModelBlessing],
    compression_blessing: tfx.dsl.components.InputArtifact[
        tfx.types.standard_artifacts.ModelBlessing
    ],
    compression_report: tfx.dsl.components.InputArtifact[CompressionReport],
    evaluation: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.ModelEvaluation],
    examples: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Examples],
    statistics: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.ExampleStatistics],
    schema: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Schema],
    pushed_model: tfx.dsl.components.OutputArtifact[tfx.types.standard_artifacts.PushedModel],
    serving_dir: tfx.dsl.components.Parameter[str],
    model_name: tfx.dsl.components.Parameter[str],
    run_key: tfx.dsl.components.Parameter[str] = "",
) -> None:
    """Publishes the model as a new version, if it is blessed and is not being published already.

    Args:
      model: The model to publish.
      blessing: Whether the Evaluator accepts it.
      compression_blessing: Whether the CompressionEvaluator accepts it.
      compression_report: What the Quantizer measured, kept with the version.
      evaluation: Its metrics, kept with the version.
      examples: What it learned from and was judged on.
      statistics: Statistics of `examples`; those of the split `train` are kept with the version and
        are what the data of later runs is compared with.
      schema: The schema of `examples`, kept with the version.
      pushed_model: Component `outputs` contains: an artifact with the custom properties `pushed` (1
        or 0), `pushed_version` and `pushed_destination`, as the stock Pusher sets them, and
        `reason` where nothing was pushed.
      serving_dir: URI of the Serving directory.
      model_name: Name of the model in it.
      run_key: Identifies data, configuration and code of the run; kept with the version.
    """
    directory = ModelDirectory(serving_dir, model_name)
    pushed_model.set_int_custom_property("pushed", 0)
    blessings = (blessing, compression_blessing)
    if not all(tfx.dsl.io.fileio.exists(os.path.join(b.uri, BLESSED_FILE)) for b in blessings):
        pushed_model.set_string_custom_property("reason", "not blessed")
        return
    source = serving_model_uri(model)
    digest = model_digest(source)
    if (existing := directory.find_digest(digest)) is not None:
        pushed_model.set_string_custom_property("reason", f"the same model is version {existing}")
        return
    version = directory.next_version()
    metrics = read_metrics(evaluation.uri)
    record = {
        "version": version,
        "model_name": model_name,
        "model_digest": digest,
        "run_key": run_key,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "spans": json.loads(examples.get_string_custom_property("spans") or "{}"),
        "rows": json.loads(examples.get_string_custom_property("rows") or "{}"),
        "metrics": metrics.get(OVERALL, {}),
        "artifacts": {
            a.type_name: _identify(a)
            for a in (model, blessing, compression_report, evaluation, examples, statistics, schema)
        },
        "compression": compression_report.read()["mode"],
        "libraries": {name: library_version(name) for name in _LIBRARIES},
    }
    provenance = os.path.join(pushed_model.uri, "provenance")
    _write_provenance(provenance, record, metrics, compression_report.read(), statistics, schema)
    directory.publish(version, source, provenance)
    pushed_model.set_int_custom_property("pushed", 1)
    pushed_model.set_string_custom_property("pushed_version", str(version))
    pushed_model.set_string_custom_property("pushed_destination", directory.version_uri(version))


def _identify(artifact: tfx.dsl.Artifact) -> dict[str, Any]:
    """Where MLMD knows an artifact by. TFX ends the URI of an output in the id of its execution."""
    execution = os.path.basename(artifact.uri.rstrip("/"))
    return {
        "artifact_id": artifact.id,
        "execution_id": int(execution) if execution.isdigit() else None,
        "uri": artifact.uri,
    }


def _write_provenance(
    uri: str,
    record: dict[str, Any],
    metrics: dict[str, dict[str, float]],
    compression: dict[str, Any],
    statistics: tfx.dsl.Artifact,
    schema: tfx.dsl.Artifact,
) -> None:
    fileio = tfx.dsl.io.fileio
    fileio.makedirs(uri)
    files = {
        PROVENANCE_FILE: record,
        "metrics.json": metrics,
        "compression.json": compression,
    }
    for name, content in files.items():
        with fileio.open(os.path.join(uri, name), "w") as file:
            file.write(json.dumps(content, indent=2, sort_keys=True) + "\n")
    fileio.copy(statistics_uri(statistics, "train"), os.path.join(uri, TRAINING_STATISTICS))
    fileio.copy(schema_uri(schema), os.path.join(uri, os.path.basename(schema_uri(schema))))
