"""How much each row moves a metric: its influence, from which follows the metric's chance error."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ml.tasks import BINARY, MULTICLASS, REGRESSION, Task

_TINY = 1e-7  # As `ml.scores` clips probabilities.


# By kind of task, the metrics with a direction and an influence; the first is a proper score: the
# mean of a loss of each row that only the true distribution makes least.
_TESTABLE = {
    BINARY: ("log_loss", "auc"),
    MULTICLASS: ("log_loss", "accuracy", "macro_auc"),
    REGRESSION: ("rmse", "mae", "r2"),
}


def testable(task: Task) -> tuple[str, ...]:
    """The metrics that two models can be tested on, the default first."""
    return _TESTABLE[task.kind]


def influences(
    task: Task, labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """The influence of each row on each metric of a task.

    The metric less its true value is about the sum of the influences of independent rows, or of
    groups of rows (Hampel, "The Influence Curve and its Role in Robust Estimation", 1974). For a
    mean it is so exactly. For the AUC they are the structural components of DeLong, DeLong and
    Clarke-Pearson ("Comparing the Areas under Two or More Correlated ROC Curves", 1988), which
    Obuchowski ("Nonparametric Analysis of Clustered ROC Curve Data", 1997) sums by group.

    Args:
      task: The task.
      labels: Encoded labels, [rows], none NaN.
      predictions: Finite, [rows, task.outputs].
      weights: Above 0, [rows].

    Returns:
      By metric, float64 [rows], with the sum 0; without the metrics that the rows do not define,
      and without AUC-PR and the calibration of several classes, which have no simple one.
    """
    if not len(labels):
        return {}
    with np.errstate(all="ignore"):  # What is not finite is left out.
        found = _BY_KIND[task.kind](task, labels, predictions, weights)
    return {name: rows for name, rows in found.items() if np.isfinite(rows).all()}


def row_losses(task: Task, labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """The loss of each row: log loss, or of a regression the squared error; float64 [rows]."""
    if task.kind == REGRESSION:
        squared: np.ndarray = (predictions[:, 0] - labels) ** 2
        return squared
    if task.kind == BINARY:
        scores = np.clip(predictions[:, 0], _TINY, 1 - _TINY)
        return -np.where(labels == 1, np.log(scores), np.log1p(-scores))
    shares = predictions / predictions.sum(axis=1, keepdims=True)
    truth = shares[np.arange(len(labels)), labels.astype(int)]
    return -np.log(np.clip(truth, _TINY, 1))


def _binary(task: Task, labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray) -> _Found:
    scores = predictions[:, 0]
    ratio = (weights @ scores) / (weights @ labels)
    return {
        "auc": _auc(labels == 1, scores, weights),
        "log_loss": _mean(row_losses(task, labels, predictions), weights),
        "calibration": weights * (scores - ratio * labels) / (weights @ labels),
    }


def _multiclass(
    task: Task, labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray
) -> _Found:
    right = (predictions.argmax(axis=1) == labels).astype(float)
    areas = [_auc(labels == k, predictions[:, int(k)], weights) for k in np.unique(labels)]
    known = [area for area in areas if np.isfinite(area).all()]
    return {
        "accuracy": _mean(right, weights),
        "macro_auc": np.mean(known, axis=0) if known else np.full(len(labels), np.nan),
        "log_loss": _mean(row_losses(task, labels, predictions), weights),
    }


def _regression(
    task: Task, labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray
) -> _Found:
    errors = predictions[:, 0] - labels
    squares = errors**2
    squared = np.average(squares, weights=weights)
    apart = (labels - np.average(labels, weights=weights)) ** 2
    variance = np.average(apart, weights=weights)
    shares = weights / weights.sum()
    return {
        # By the delta method; a perfect model has no spread.
        "rmse": _mean(squares, weights) / (2 * np.sqrt(squared)) if squared else 0 * squares,
        "mae": _mean(np.abs(errors), weights),
        "r2": -shares * (squares - squared / variance * apart) / variance,
        "bias": _mean(errors, weights),
    }


def _mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    rows: np.ndarray = weights * (values - np.average(values, weights=weights)) / weights.sum()
    return rows


def _auc(positive: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Of the area under the ROC curve; NaN where there is one class only."""
    _, place = np.unique(scores, return_inverse=True)
    below = {}
    for kind, chosen in (("positive", positive), ("negative", ~positive)):
        by_score = np.bincount(place, weights * chosen)
        # Half of those with the same score.
        below[kind] = ((np.cumsum(by_score) - by_score / 2) / by_score.sum())[place]
    won = np.where(positive, below["negative"], 1 - below["positive"])
    of_class = np.where(positive, weights[positive].sum(), weights[~positive].sum())
    area = np.average(won[positive], weights=weights[positive]) if positive.any() else np.nan
    rows: np.ndarray = weights * (won - area) / of_class
    return rows


_Found = Mapping[str, np.ndarray]
_BY_KIND: dict[str, Callable[[Task, np.ndarray, np.ndarray, np.ndarray], _Found]] = {
    BINARY: _binary,
    MULTICLASS: _multiclass,
    REGRESSION: _regression,
}
