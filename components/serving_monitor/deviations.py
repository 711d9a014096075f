"""How far metrics of some rows may be from those of all rows by chance."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from sklearn.metrics import average_precision_score

from ml.chance import auc_deviation
from ml.scores import Score
from ml.tasks import BINARY, MULTICLASS, REGRESSION, Task

_TINY = 1e-7
_GROUPS = 20


def standard_deviations(
    task: Task, labels: np.ndarray, predictions: np.ndarray, values: Mapping[str, Score]
) -> dict[str, Score]:
    """The standard deviation of each metric of a task.

    AUC: of random labels (Mann and Whitney, 1947); of several classes their mean, as if all were
    too high together. Accuracy: binomial, with two more rows right and wrong (Agresti and Coull,
    1998). Calibration: the binomial one of the label rate. Log loss, MAE and bias: the standard
    error of a mean; RMSE and R² follow from that of the squared error by the delta method. AUC-PR:
    a jackknife that leaves out a twentieth of the rows.

    Args:
      task: The task.
      labels: Encoded labels, [rows].
      predictions: Finite, [rows, outputs].
      values: The metrics; see `ml.scores.measure`.

    Returns:
      By metric; None where the metric is None.
    """
    found = _BY_KIND[task.kind](labels, predictions, values)
    return {name: None if value is None else found[name] for name, value in values.items()}


def _binary(
    labels: np.ndarray, predictions: np.ndarray, values: Mapping[str, Score]
) -> dict[str, Score]:
    positive = int((labels == 1).sum())
    both = 0 < positive < len(labels)
    of_label = np.where(labels == 1, predictions[:, 0], 1 - predictions[:, 0])
    return {
        "auc": auc_deviation(positive, len(labels) - positive) if both else None,
        "auc_pr": _jackknife(labels, predictions[:, 0]) if both else None,
        "log_loss": _of_mean(-np.log(np.clip(of_label, _TINY, 1))),
        "calibration": ratio_deviation(values["calibration"] or 0, positive, len(labels)),
    }


def _multiclass(
    labels: np.ndarray, predictions: np.ndarray, values: Mapping[str, Score]
) -> dict[str, Score]:
    rows, ids = len(labels), labels.astype(int)
    counts = np.bincount(ids, minlength=predictions.shape[1])
    areas = [auc_deviation(int(count), rows - int(count)) for count in counts if 0 < count < rows]
    right = (int((predictions.argmax(axis=1) == ids).sum()) + 2) / (rows + 4)
    shares = predictions / predictions.sum(axis=1, keepdims=True)
    # Of the worst class, as the metric.
    ratios = {k: shares[:, k].sum() / count for k, count in enumerate(counts) if count}
    worst = max(ratios, key=lambda k: abs(math.log(max(ratios[k], _TINY))))
    return {
        "accuracy": math.sqrt(right * (1 - right) / (rows + 4)),
        "macro_auc": float(np.mean(areas)) if areas else None,
        "log_loss": _of_mean(-np.log(np.clip(shares[np.arange(rows), ids], _TINY, 1))),
        "calibration": ratio_deviation(ratios[worst], int(counts[worst]), rows),
    }


def _regression(
    labels: np.ndarray, predictions: np.ndarray, values: Mapping[str, Score]
) -> dict[str, Score]:
    errors = predictions[:, 0] - labels
    squares, rmse = errors**2, values["rmse"] or 0.0
    apart = (labels - labels.mean()) ** 2
    r2 = values["r2"] or 0.0
    return {
        "rmse": _of_mean(squares) / (2 * rmse) if rmse else 0.0,
        "mae": _of_mean(np.abs(errors)),
        "r2": _of_mean(squares - (1 - r2) * apart) / apart.mean() if apart.any() else None,
        "bias": _of_mean(errors),
    }


def ratio_deviation(ratio: float, count: int, rows: int) -> float:
    """The deviation of a mean prediction divided by the share of `count` labels in some rows."""
    return ratio * math.sqrt((1 - count / rows) / count) if count else 0.0


def _of_mean(values: np.ndarray) -> float:
    return float(values.std() / math.sqrt(len(values)))


def _jackknife(labels: np.ndarray, scores: np.ndarray) -> float:
    """Of the AUC-PR (Shao and Tu, The Jackknife and Bootstrap, 1995, 2.3)."""
    group = np.arange(len(labels)) % _GROUPS
    parts = [(labels[group != g], scores[group != g]) for g in range(_GROUPS)]
    found = [average_precision_score(*part) for part in parts if part[0].any()]
    return float(np.std(found) * math.sqrt(_GROUPS - 1))


_BY_KIND: dict[str, Callable[[np.ndarray, np.ndarray, Mapping[str, Score]], dict[str, Score]]] = {
    BINARY: _binary,
    MULTICLASS: _multiclass,
    REGRESSION: _regression,
}
