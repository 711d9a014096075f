"""Measures a finished run: scores, which are values of the headline metric, and drift.

It runs in a process that has TFX imported; see `local.helper_process`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tensorflow as tf
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
from ml.examples import raw_values
from ml.predictors import load_predictor
from ml.scores import headline
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
      new_score: score of the run's model; None without one.
      served_version: The version that was served; None if there was none.
      served_score: score of that version, computed here if the run did not reach the Evaluator.
      first_score: score of the version `first`; None without one.
      baseline_score: That of gradient boosting; None if the run did not reach BaselineEvaluator.
      drift: Feature, drift and limit of the feature nearest to its limit, against the training data
        of the served model; None if nothing was served.
    """

    new_score: float | None
    served_version: int | None
    served_score: float | None
    first_score: float | None
    baseline_score: float | None
    drift: tuple[str, float, float] | None


def measure(
    metadata_path: str, lock_path: str, run_id: str, first: tuple[int, str] | None, task: str
) -> Measurement:
    """Reads the measurements of a run, and computes missing ones.

    Args:
      metadata_path: SQLite file of ML Metadata.
      lock_path: Lock file of ML Metadata.
      run_id: The run.
      first: A version that is evaluated on the same month, and the run that pushed it, or None.
      task: JSON of the task of the model.

    Returns:
      The measurements, on its split `test`.
    """
    store = tfx_internals.LockedMetadata(metadata_path, lock_path)

    def outputs(run_id: str) -> dict[str, dict[str, tfx.dsl.Artifact]]:
        found = tfx_internals.find_executions(store, run_id)
        return {name: tfx_internals.read_outputs(store, found[name]) for name in found}

    learned = Task.from_json(task)
    run = outputs(run_id)
    served = run["ServedModel"]
    served_version = served["model"].get_int_custom_property("version") or None
    new_score = served_score = first_score = None
    if "Evaluator" in run:
        uri = run["Evaluator"]["evaluation"].uri
        new_score = read_metrics(uri)[OVERALL].get(learned.headline.name)
        served_score = read_baseline_metrics(uri).get(OVERALL, {}).get(learned.headline.name)
    examples = run["SpanExampleGen"]["examples"]
    if served_score is None and has_serving_model(served["model"]):
        served_score = _score(serving_model_uri(served["model"]), examples, learned)
    if first and first[0] == served_version:
        first_score = served_score
    elif first:
        # Not from the Serving directory, which deletes old versions.
        model = outputs(first[1])["Quantizer"]["quantized_model"]
        first_score = _score(serving_model_uri(model), examples, learned)
    return Measurement(
        new_score, served_version, served_score, first_score, _boosting(run), _drift(run)
    )


def _boosting(run: dict[str, dict[str, tfx.dsl.Artifact]]) -> float | None:
    """The headline metric of gradient boosting."""
    if "BaselineEvaluator" not in run:
        return None
    report = run["BaselineEvaluator"]["baselines"].read()
    metrics = report["baselines"].get(BOOSTING, {}).get("metrics", {})
    value: float | None = metrics.get(Task.from_config(report["task"]).headline.name)
    return value


def _score(model_uri: str, examples: tfx.dsl.Artifact, task: Task) -> float | None:
    """The headline metric of a model, in the Evaluator's format, on the split `test`.

    None if the model cannot read the rows, or a row has no label of the task.
    """
    model = load_predictor(model_uri)
    predictions, labels = [], []
    for batch in read_records(split_files(examples, _TEST)).batch(_BATCH_ROWS):
        rows = batch.numpy()
        try:
            predictions.append(model.predict(rows))
            labels.append(task.encode(raw_values(rows, task.label)))
        except (DataError, tf.errors.InvalidArgumentError):
            return None
    if not labels or not np.isfinite(np.concatenate(labels)).all():
        return None
    return headline(task, np.concatenate(labels), np.concatenate(predictions))


def _drift(run: dict[str, dict[str, tfx.dsl.Artifact]]) -> tuple[str, float, float] | None:
    before = load_statistics(run["ServedModel"]["statistics"], "train")
    new = load_statistics(run["StatisticsGen"]["statistics"], _TEST)
    if before is None or new is None:
        return None
    found = nearest_drift(new, before, load_schema(run["ImportSchemaGen"]["schema"]))
    # Plain values, so that readers need not import TFX.
    return (found.feature, found.value, found.limit) if found else None
