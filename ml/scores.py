"""The metrics of a task on predictions that are in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

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
    return _measure(task, [metric.name for metric in task.metrics], labels, predictions, weights)


def headline(
    task: Task,
    labels: np.ndarray,
    predictions: np.ndarray,
    weights: np.ndarray | None = None,
) -> Score:
    """The task's first metric; see `measure`."""
    name = task.headline.name
    return _measure(task, [name], labels, predictions, weights)[name]


def _measure(
    task: Task,
    names: Sequence[str],
    labels: np.ndarray,
    predictions: np.ndarray,
    weights: np.ndarray | None,
) -> dict[str, Score]:
    labels = np.ravel(labels)
    predictions = np.asarray(predictions, float).reshape(len(labels), task.outputs)
    weights = np.ones(len(labels)) if weights is None else np.ravel(weights).astype(float)
    kept = weights > 0
    labels, predictions, weights = labels[kept], predictions[kept], weights[kept]
    if not len(labels) or not np.isfinite(predictions).all():
        return dict.fromkeys(names)
    with np.errstate(all="ignore"):  # What is not finite becomes None.
        scores = _SCORES[task.kind](labels, predictions, weights)
        return {name: _finite(scores[name]()) if name in scores else None for name in names}


# Each metric by its name, computed when it is called.
_Scores = dict[str, Callable[[], Score]]


def _binary(labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray) -> _Scores:
    scores = predictions[:, 0]

    def of_both(score: Callable[..., Any]) -> Score:
        both = len(np.unique(labels)) == 2
        return float(score(labels, scores, sample_weight=weights)) if both else None

    def log_loss() -> Score:
        probabilities = np.clip(scores, _TINY, 1 - _TINY)
        loss = -np.where(labels == 1, np.log(probabilities), np.log1p(-probabilities))
        return float(np.average(loss, weights=weights))

    return {
        "auc": lambda: of_both(metrics.roc_auc_score),
        "auc_pr": lambda: of_both(metrics.average_precision_score),
        "log_loss": log_loss,
        "calibration": lambda: _ratio(weights @ scores, weights @ labels),
    }


def _multiclass(labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray) -> _Scores:
    ids = labels.astype(int)
    right = predictions.argmax(axis=1) == ids
    shares = predictions / predictions.sum(axis=1, keepdims=True)

    def macro_auc() -> Score:
        # One class against the rest: Hand and Till 2001, https://doi.org/10.1023/A:1010920819831.
        areas = [
            _binary((ids == k).astype(int), predictions[:, [k]], weights)["auc"]() for k in set(ids)
        ]
        known = [area for area in areas if area is not None]
        return float(np.mean(known)) if known else None

    def log_loss() -> Score:
        truth = np.clip(shares[np.arange(len(ids)), ids], _TINY, 1)
        return float(np.average(-np.log(truth), weights=weights))

    def calibration() -> Score:
        """That of the class whose calibration is worst."""
        return max(
            (
                _ratio(weights @ shares[:, k], weights @ (ids == k))
                for k in range(predictions.shape[1])
                if (ids == k).any()
            ),
            key=lambda ratio: abs(np.log(ratio)) if ratio else np.inf,
            default=None,
        )

    return {
        "accuracy": lambda: float(np.average(right, weights=weights)),
        "macro_auc": macro_auc,
        "log_loss": log_loss,
        "calibration": calibration,
    }


def _regression(labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray) -> _Scores:
    errors = predictions[:, 0] - labels

    def squared() -> float:
        return float(np.average(errors**2, weights=weights))

    def r2() -> Score:
        mean = np.average(labels, weights=weights)
        variance = float(np.average((labels - mean) ** 2, weights=weights))
        return 1 - squared() / variance if variance else None

    return {
        "rmse": lambda: squared() ** 0.5,
        "mae": lambda: float(np.average(np.abs(errors), weights=weights)),
        "r2": r2,
        "bias": lambda: float(np.average(errors, weights=weights)),
    }


def _finite(value: Score) -> Score:
    return value if value is not None and np.isfinite(value) else None


def _ratio(above: float, below: float) -> Score:
    return float(above / below) if below else None


_SCORES: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], _Scores]] = {
    BINARY: _binary,
    MULTICLASS: _multiclass,
    REGRESSION: _regression,
}
