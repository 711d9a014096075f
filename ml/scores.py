"""The metrics of a task on predictions that are in memory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from sklearn import metrics

from ml.tasks import BINARY, MULTICLASS, REGRESSION, Task

Score = float | None
_TINY = 1e-7  # As Keras clips probabilities.


def measure(
    task: Task,
    labels: np.ndarray,
    predictions: np.ndarray,
    weights: np.ndarray | None = None,
) -> dict[str, Score]:
    """Measures predictions by every metric of the task.

    Args:
      task: The task.
      labels: Encoded labels (see `Task.encode`), [rows] or [rows, 1], none NaN.
      predictions: [rows] or [rows, task.outputs].
      weights: Weights of the rows, [rows] or [rows, 1]; None if all weigh the same.

    Returns:
      By name of the metric, the headline first. None where the rows do not define it: no row of a
      weight above 0, a prediction that is not finite, an AUC of one class.
    """
    labels = np.ravel(labels)
    predictions = np.asarray(predictions, float).reshape(len(labels), task.outputs)
    weights = np.ones(len(labels)) if weights is None else np.ravel(weights).astype(float)
    kept = weights > 0
    labels, predictions, weights = labels[kept], predictions[kept], weights[kept]
    values: dict[str, Score] = {}
    if len(labels) and np.isfinite(predictions).all():
        with np.errstate(all="ignore"):  # What is not finite becomes None.
            values = _SCORES[task.kind](labels, predictions, weights)
    return {metric.name: _finite(values.get(metric.name)) for metric in task.metrics}


def headline(
    task: Task,
    labels: np.ndarray,
    predictions: np.ndarray,
    weights: np.ndarray | None = None,
) -> Score:
    """The task's first metric; see `measure`."""
    return measure(task, labels, predictions, weights)[task.headline.name]


def _binary(labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray) -> dict[str, Score]:
    scores = predictions[:, 0]
    both = len(np.unique(labels)) == 2
    probabilities = np.clip(scores, _TINY, 1 - _TINY)
    loss = -np.where(labels == 1, np.log(probabilities), np.log1p(-probabilities))
    return {
        "auc": float(metrics.roc_auc_score(labels, scores, sample_weight=weights))
        if both
        else None,
        "auc_pr": float(metrics.average_precision_score(labels, scores, sample_weight=weights))
        if both
        else None,
        "log_loss": float(np.average(loss, weights=weights)),
        "calibration": _ratio(weights @ scores, weights @ labels),
    }


def _multiclass(
    labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray
) -> dict[str, Score]:
    ids = labels.astype(int)
    right = predictions.argmax(axis=1) == ids
    shares = predictions / predictions.sum(axis=1, keepdims=True)
    truth = np.clip(shares[np.arange(len(ids)), ids], _TINY, 1)
    areas = [_binary((ids == k).astype(int), predictions[:, [k]], weights)["auc"] for k in set(ids)]
    known = [area for area in areas if area is not None]
    return {
        "accuracy": float(np.average(right, weights=weights)),
        # One class against the rest: Hand and Till 2001, https://doi.org/10.1023/A:1010920819831.
        "macro_auc": float(np.mean(known)) if known else None,
        "log_loss": float(np.average(-np.log(truth), weights=weights)),
        # Of the class whose calibration is worst.
        "calibration": max(
            (
                _ratio(weights @ shares[:, k], weights @ (ids == k))
                for k in range(predictions.shape[1])
                if (ids == k).any()
            ),
            key=lambda ratio: abs(np.log(ratio)) if ratio else np.inf,
            default=None,
        ),
    }


def _regression(
    labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray
) -> dict[str, Score]:
    errors = predictions[:, 0] - labels
    squared = float(np.average(errors**2, weights=weights))
    variance = float(
        np.average((labels - np.average(labels, weights=weights)) ** 2, weights=weights)
    )
    return {
        "rmse": squared**0.5,
        "mae": float(np.average(np.abs(errors), weights=weights)),
        "r2": 1 - squared / variance if variance else None,
        "bias": float(np.average(errors, weights=weights)),
    }


def _finite(value: Score) -> Score:
    return value if value is not None and np.isfinite(value) else None


def _ratio(above: float, below: float) -> Score:
    return float(above / below) if below else None


_SCORES: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], dict[str, Score]]] = {
    BINARY: _binary,
    MULTICLASS: _multiclass,
    REGRESSION: _regression,
}
