"""Curves of a model for people: a few hundred points that a report draws, none of them a row.

Points are computed from rows in memory, which may be a sample. What the rows do not define, such as
the ROC curve of one class, is None.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import stats
from sklearn import metrics

from ml.tasks import BINARY, MULTICLASS, REGRESSION, Task

# Largest number of points of a curve, bins of a histogram, and bins by prediction.
_POINTS, _BINS, _GROUPS = 200, 40, 12
# Classes of which a report shows each; the others are one, the last.
_MOST_CLASSES = 20
_MOST_CURVES = 6
_LEAST_RECALL = 0.01
_THRESHOLDS = np.linspace(0.05, 0.95, 19)
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
# Of a normal distribution: ends of a two-sided interval of 95%.
_NORMAL = float(stats.norm.ppf(0.975))

Curves = dict[str, Any]


def draw_curves(
    task: Task, labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray
) -> Curves:
    """The curves of a model.

    Args:
      task: The task.
      labels: Encoded labels, [rows].
      predictions: [rows] or [rows, task.outputs]; rows that are not finite are left out.
      weights: Weights of the rows, [rows].

    Returns:
      Of a binary task: `roc`, `precision_recall`, `calibration`, `scores` and `thresholds`. Of
      classes: `confusion`, `roc` by class and `calibration` of the predicted class. Of a
      regression: `residuals` and `groups` of rows by prediction. Plain values for JSON.
    """
    predictions = np.asarray(predictions, float).reshape(len(labels), task.outputs)
    kept = np.isfinite(predictions).all(axis=1) & np.isfinite(labels) & (weights > 0)
    draw = _BY_KIND[task.kind]
    return draw(task, np.ravel(labels)[kept], predictions[kept], np.ravel(weights)[kept])


def _binary(task: Task, labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray) -> Curves:
    scores = np.clip(predictions[:, 0], 0.0, 1.0)
    edges = np.linspace(0.0, 1.0, _BINS + 1)
    by_class = [
        np.histogram(scores[labels == number], edges, weights=weights[labels == number])[0]
        for number in (0, 1)
    ]
    return {
        "roc": _roc(labels == 1, scores, weights),
        "precision_recall": _precision_recall(labels == 1, scores, weights),
        "calibration": _calibration(labels == 1, scores, weights),
        "scores": {
            "edges": edges.round(4).tolist(),
            "negative": _share(by_class[0], weights.sum()),
            "positive": _share(by_class[1], weights.sum()),
        },
        "thresholds": [_at_threshold(labels == 1, scores, weights, t) for t in _THRESHOLDS],
    }


def _multiclass(
    task: Task, labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray
) -> Curves:
    truth, chosen = labels.astype(int), predictions.argmax(axis=1)
    classes = np.arange(len(task.classes))
    sizes = np.bincount(truth, weights, len(classes))
    shown = classes
    if len(classes) > _MOST_CLASSES:
        shown = np.sort(np.argsort(-sizes, kind="stable")[: _MOST_CLASSES - 1])
    names = [task.class_names[number] for number in shown]
    place = np.full(len(classes), len(shown))
    place[shown] = np.arange(len(shown))
    if len(shown) < len(classes):
        names.append(f"{len(classes) - len(shown)} others")
    counts = np.zeros((len(names), len(names)))
    np.add.at(counts, (place[truth], place[chosen]), weights)
    curves = [number for number in np.argsort(-sizes, kind="stable") if sizes[number]]
    confidence = predictions[np.arange(len(truth)), chosen]
    return {
        "confusion": {"classes": names, "counts": counts.round(3).tolist()},
        "roc": [
            {
                "class": task.class_names[number],
                **(_roc(truth == number, predictions[:, number], weights) or {}),
            }
            for number in curves[:_MOST_CURVES]
        ],
        "calibration": _calibration(truth == chosen, np.clip(confidence, 0.0, 1.0), weights),
    }


def _regression(
    task: Task, labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray
) -> Curves:
    scores = predictions[:, 0]
    residuals = scores - labels
    if not len(labels):
        return {"residuals": None, "groups": []}
    # A few residuals may be far out: the histogram shows all but 1%, and counts those beside it.
    low, high = _quantiles(residuals, weights, (0.005, 0.995))
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, _BINS + 1)
    counts, _ = np.histogram(residuals, edges, weights=weights)
    total = weights.sum()
    return {
        "residuals": {
            "edges": edges.tolist(),
            "shares": _share(counts, total),
            "below": float(weights[residuals < low].sum() / total),
            "above": float(weights[residuals > high].sum() / total),
        },
        "groups": [
            {
                "rows": len(rows),
                "mean_prediction": float(np.average(scores[rows], weights=weights[rows])),
                "mean_label": float(np.average(labels[rows], weights=weights[rows])),
                "residuals": _quantiles(residuals[rows], weights[rows], _QUANTILES),
            }
            for rows in _groups(scores, weights)
        ],
    }


def _roc(truth: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> Curves | None:
    if len(np.unique(truth)) < 2:
        return None
    false_positive, true_positive, _ = metrics.roc_curve(truth, scores, sample_weight=weights)
    at = _evenly(false_positive, true_positive)
    return {
        "false_positive_rate": _rounded(false_positive[at]),
        "true_positive_rate": _rounded(true_positive[at]),
    }


def _precision_recall(truth: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> Curves | None:
    if len(np.unique(truth)) < 2:
        return None
    precision, recall, _ = metrics.precision_recall_curve(truth, scores, sample_weight=weights)
    # Of the first few rows the precision is chance.
    kept = recall >= _LEAST_RECALL
    precision, recall = precision[kept], recall[kept]
    at = _evenly(recall, precision)
    return {
        "recall": _rounded(recall[at]),
        "precision": _rounded(precision[at]),
        "share_positive": float(np.average(truth, weights=weights)),
    }


def _calibration(truth: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> list[Curves]:
    """Groups of rows by prediction, with the share of positives and its interval.

    The interval is Wilson's (1927), of as many rows of equal weights as vary as much (Kish, 1965).
    """
    groups = []
    for rows in _groups(scores, weights):
        own = weights[rows]
        share = float(np.average(truth[rows], weights=own))
        size = own.sum() ** 2 / (own**2).sum()
        middle = share + _NORMAL**2 / (2 * size)
        spread = _NORMAL * np.sqrt(share * (1 - share) / size + (_NORMAL / (2 * size)) ** 2)
        low, high = (middle + end * spread for end in (-1, 1))
        groups.append(
            {
                "rows": len(rows),
                "mean_prediction": float(np.average(scores[rows], weights=own)),
                "share": share,
                "low": min(float(low / (1 + _NORMAL**2 / size)), share),
                "high": max(float(high / (1 + _NORMAL**2 / size)), share),
            }
        )
    return groups


def _at_threshold(
    truth: np.ndarray, scores: np.ndarray, weights: np.ndarray, threshold: float
) -> Curves:
    chosen = scores >= threshold
    right = float(weights[chosen & truth].sum())
    selected, positive = float(weights[chosen].sum()), float(weights[truth].sum())
    total = float(weights.sum())
    return {
        "threshold": round(float(threshold), 2),
        "selection_rate": _quotient(selected, total),
        "precision": _quotient(right, selected),
        "recall": _quotient(right, positive),
        "false_positive_rate": _quotient(selected - right, total - positive),
    }


def _groups(scores: np.ndarray, weights: np.ndarray) -> list[np.ndarray]:
    """Indices of rows in groups of about the same weight, by prediction; equal ones together."""
    if not len(scores):
        return []
    order = np.argsort(scores, kind="stable")
    before = np.cumsum(weights[order]) - weights[order]
    # A prediction that many rows share belongs to the group in which it begins.
    _, first, which = np.unique(scores[order], return_index=True, return_inverse=True)
    number = np.minimum((before[first] / weights.sum() * _GROUPS).astype(int), _GROUPS - 1)
    starts = np.flatnonzero(np.diff(number[which], prepend=-1))
    return [group for group in np.split(order, starts) if len(group)]


def _quantiles(values: np.ndarray, weights: np.ndarray, shares: tuple[float, ...]) -> list[float]:
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order]) / weights.sum()
    at = np.minimum(np.searchsorted(reached, shares), len(values) - 1)
    return [float(value) for value in values[order][at]]


def _evenly(across: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Indices of points at about equal distances along a curve, its ends among them."""
    if len(across) <= _POINTS:
        return np.arange(len(across))
    length = np.cumsum(np.abs(np.diff(across, prepend=across[0])))
    length += np.cumsum(np.abs(np.diff(up, prepend=up[0])))
    wanted = np.linspace(0, length[-1], _POINTS)
    at = np.minimum(np.searchsorted(length, wanted), len(across) - 1)
    return np.unique([0, *at, len(across) - 1])


def _share(counts: np.ndarray, total: float) -> list[float]:
    return _rounded(counts / total) if total else [0.0] * len(counts)


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 5) for value in values]


def _quotient(above: float, below: float) -> float | None:
    return above / below if below else None


_BY_KIND: dict[str, Callable[[Task, np.ndarray, np.ndarray, np.ndarray], Curves]] = {
    BINARY: _binary,
    MULTICLASS: _multiclass,
    REGRESSION: _regression,
}
