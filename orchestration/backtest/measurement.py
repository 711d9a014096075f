"""Measures a finished run: AUCs and drift.

It runs in a process that has TFX imported; see `local.helper_process`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from sklearn.metrics import roc_auc_score
from tfx import v1 as tfx

from components.evaluator.results import OVERALL, read_baseline_metrics, read_metrics
from ml.artifacts import (
    has_serving_model,
    load_schema,
    load_statistics,
    serving_model_uri,
    split_files,
)
from ml.baselines import BOOSTING
from ml.comparisons import nearest_drift
from ml.predictors import load_predictor
from ml.tasks import Task
from orchestration.local import tfx_internals
from storage.errors import DataError
from storage.tfrecords import read_records

_TEST = "test"
_BATCH_ROWS = 8192


@dataclass(frozen=True)
class Measurement:
    """The measurements of a run on the month that it was evaluated on.

    Attributes:
      new_auc: AUC of the run's model; None without one.
      served_version: The version that was served; None if there was none.
      served_auc: AUC of that version, computed here if the run did not reach the Evaluator.
      first_auc: AUC of the version `first`; None without one.
      baseline_auc: That of gradient boosting; None if the run did not reach BaselineEvaluator.
      drift: Feature, drift and limit of the feature nearest to its limit, against the training data
        of the served model; None if nothing was served.
    """

    new_auc: float | None
    served_version: int | None
    served_auc: float | None
    first_auc: float | None
    baseline_auc: float | None
    drift: tuple[str, float, float] | None


def measure(
    metadata_path: str, lock_path: str, run_id: str, first: tuple[int, str] | None, label: str
) -> Measurement:
    """Reads the measurements of a run, and computes missing ones.

    Args:
      metadata_path: SQLite file of ML Metadata.
      lock_path: Lock file of ML Metadata.
      run_id: The run.
      first: A version that is evaluated on the same month, and the run that pushed it, or None.
      label: Name of the label.

    Returns:
      The measurements, on its split `test`.
    """
    store = tfx_internals.LockedMetadata(metadata_path, lock_path)

    def outputs(run_id: str) -> dict[str, dict[str, tfx.dsl.Artifact]]:
        found = tfx_internals.find_executions(store, run_id)
        return {name: tfx_internals.read_outputs(store, found[name]) for name in found}

    run = outputs(run_id)
    served = run["ServedModel"]
    served_version = served["model"].get_int_custom_property("version") or None
    new_auc = served_auc = first_auc = None
    if "Evaluator" in run:
        uri = run["Evaluator"]["evaluation"].uri
        new_auc = read_metrics(uri)[OVERALL]["auc"]
        served_auc = read_baseline_metrics(uri).get(OVERALL, {}).get("auc")
    examples = run["SpanExampleGen"]["examples"]
    if served_auc is None and has_serving_model(served["model"]):
        served_auc = _auc(serving_model_uri(served["model"]), examples, label)
    if first and first[0] == served_version:
        first_auc = served_auc
    elif first:
        # Not from the Serving directory, which deletes old versions.
        model = outputs(first[1])["Quantizer"]["quantized_model"]
        first_auc = _auc(serving_model_uri(model), examples, label)
    return Measurement(new_auc, served_version, served_auc, first_auc, _boosting(run), _drift(run))


def _boosting(run: dict[str, dict[str, tfx.dsl.Artifact]]) -> float | None:
    """The headline metric of gradient boosting."""
    if "BaselineEvaluator" not in run:
        return None
    report = run["BaselineEvaluator"]["baselines"].read()
    metrics = report["baselines"].get(BOOSTING, {}).get("metrics", {})
    value: float | None = metrics.get(Task.from_config(report["task"]).headline.name)
    return value


def _auc(model_uri: str, examples: tfx.dsl.Artifact, label: str) -> float | None:
    """AUC of a model, in the Evaluator's format, on the split `test`.

    None if the model cannot read the rows, or the labels are not 0 and 1.
    """
    model = load_predictor(model_uri)
    spec = {label: tf.io.FixedLenFeature([], tf.int64, default_value=-1)}
    files = split_files(examples, _TEST)
    predictions, labels = [], []
    for batch in read_records(files).batch(_BATCH_ROWS):
        rows = batch.numpy()
        try:
            predictions.append(model.predict(rows)[:, 0])
            labels.append(tf.io.parse_example(rows, spec)[label].numpy())
        except (DataError, tf.errors.InvalidArgumentError):
            return None
    if not labels or set(np.concatenate(labels)) != {0, 1}:
        return None
    return float(roc_auc_score(np.concatenate(labels), np.concatenate(predictions)))


def _drift(run: dict[str, dict[str, tfx.dsl.Artifact]]) -> tuple[str, float, float] | None:
    before = load_statistics(run["ServedModel"]["statistics"], "train")
    new = load_statistics(run["StatisticsGen"]["statistics"], _TEST)
    if before is None or new is None:
        return None
    found = nearest_drift(new, before, load_schema(run["ImportSchemaGen"]["schema"]))
    # Plain values, so that readers need not import TFX.
    return (found.feature, found.value, found.limit) if found else None
