"""What a finished run's artifacts say of a month: AUCs and drift.

Runs where TFX is imported already, in a process of its own; see `local.helper_process`.
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
from ml.comparisons import nearest_drift
from ml.predictors import load_predictor
from orchestration.local import tfx_internals
from storage.errors import DataError
from storage.tfrecords import read_records

_TEST = "test"
_BATCH_ROWS = 8192


@dataclass(frozen=True)
class Measurement:
    """What was found on the month that a run was evaluated on.

    Attributes:
      new_auc: AUC of the run's own model; None where it has none.
      served_version: The version that was served; None if there was none.
      served_auc: AUC of that version, computed here where the run did not get to the Evaluator.
      first_auc: AUC of the version `first`; None without one.
      drift: Feature, drift and limit of the feature that comes nearest to its limit, compared with
        what the served model learned from; None if nothing was served.
    """

    new_auc: float | None
    served_version: int | None
    served_auc: float | None
    first_auc: float | None
    drift: tuple[str, float, float] | None


def measure(
    metadata_path: str, lock_path: str, run_id: str, first: tuple[int, str] | None, label: str
) -> Measurement:
    """Reads, and where need be computes, what a run found.

    Args:
      metadata_path: SQLite file of ML Metadata.
      lock_path: File whose lock a process holds while it is connected.
      run_id: The run.
      first: A version that is evaluated on the same month, and the run that pushed it, or None.
      label: Name of the label.

    Returns:
      What it found; rows come from its split `test`.
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
        # Not from the Serving directory, which keeps a number of versions only.
        model = outputs(first[1])["Quantizer"]["quantized_model"]
        first_auc = _auc(serving_model_uri(model), examples, label)
    return Measurement(new_auc, served_version, served_auc, first_auc, _drift(run))


def _auc(model_uri: str, examples: tfx.dsl.Artifact, label: str) -> float | None:
    """AUC of a model, in the form that the Evaluator takes, on the split `test`.

    None where there is none: the model cannot read the rows, or the labels are not 0 and 1.
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
    # Plain, so that who reads it need not import what measured it.
    return (found.feature, found.value, found.limit) if found else None
