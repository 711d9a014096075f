"""Describes the distribution of predictions: in bins, and by the mean of each output."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from ml.chance import spread_values
from ml.statistics import Statistics, find_feature
from ml.tasks import BINARY, MULTICLASS, Task

_BINS = 10
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class Bins:
    """Bins of predictions: of a probability, by the predicted class, or of a number.

    Attributes:
      names: What each bin is called.
      edges: Their bounds, [bins - 1], the outer bins being open; none for classes.
    """

    names: tuple[str, ...]
    edges: np.ndarray | None

    @classmethod
    def choose(cls, task: Task, served: Statistics, predictions: np.ndarray) -> Bins:
        """Chooses the bins of a task.

        Args:
          task: The task.
          served: Training statistics. A tenth of the labels of a regression is in each bin.
          predictions: Predictions of the period before, or of this one if there are none, [rows,
            outputs], in place of labels that the statistics do not describe.
        """
        if task.kind == MULTICLASS:
            return cls(task.class_names, None)
        inner = np.arange(1, _BINS) / _BINS
        if task.kind == BINARY:
            edges = inner
        else:
            label = find_feature(served, task.label)
            values = spread_values(label.num_stats) if label else np.array([])
            if not len(values):
                values = predictions[np.isfinite(predictions)]
            edges = np.unique(np.quantile(values, inner)) if len(values) else np.zeros(1)
        bounds = [f"{edge:.4g}" for edge in edges]
        between = (f"{low} to {high}" for low, high in pairwise(bounds))
        return cls((f"below {bounds[0]}", *between, f"from {bounds[-1]}"), edges)

    def shares(self, predictions: np.ndarray) -> np.ndarray:
        """The shares of predictions [rows, outputs] in each bin, and not finite, [bins + 1]."""
        finite = np.isfinite(predictions).all(axis=1)
        if self.edges is None:
            chosen = predictions[finite].argmax(axis=1)
        else:
            chosen = np.searchsorted(self.edges, predictions[finite, 0], side="right")
        counts = np.bincount(chosen, minlength=len(self.names))
        return np.append(counts, (~finite).sum()) / len(predictions)


def describe(task: Task, output: str, predictions: np.ndarray, bins: Bins) -> dict[str, Any]:
    """Number, means by output, quantiles (of a single output) and histogram of predictions.

    Args:
      task: The task.
      output: Name of a single output; those of a multiclass task are the classes'.
      predictions: [rows, outputs].
      bins: The bins of the histogram; the last share in it is that of predictions not finite.
    """
    finite = predictions[np.isfinite(predictions).all(axis=1)]
    names = task.class_names if task.outputs > 1 else (output,)
    single = finite[:, 0] if task.outputs == 1 and len(finite) else np.array([])
    return {
        "rows": len(predictions),
        "means": dict(zip(names, means(finite), strict=True)),
        "quantiles": {
            str(share): float(np.quantile(single, share)) for share in _QUANTILES if len(single)
        },
        "histogram": bins.shares(predictions).tolist(),
    }


def means(values: np.ndarray) -> list[float]:
    """The mean of each column of [rows, columns]; NaN without rows."""
    return values.mean(axis=0).tolist() if len(values) else [float("nan")] * values.shape[1]
