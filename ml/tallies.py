"""Tallies: score histograms and sums of the rows of a slice, which can be added."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np

from storage.errors import DataError

# Buckets of scores between 0 and 1; there is one more below and one above. This is TFMA's
# calibration histogram, from which it computes every confusion matrix.
BUCKETS = 10_000
_CELLS = 2 * (BUCKETS + 2)  # Of a histogram: a bucket for negatives, one for positives.

HISTOGRAM = "histogram"
WEIGHT, LABEL, PREDICTION = "weight", "label", "prediction"
BINARY_CROSS_ENTROPY, CROSS_ENTROPY, CORRECT = "binary cross entropy", "cross entropy", "correct"
ABSOLUTE_ERROR, SQUARED_ERROR = "absolute error", "squared error"
ERROR, SQUARED_LABEL = "error", "squared label"
# What probabilities are kept from 0 and 1 by, as in Keras: the logarithm of 0 is infinite, and the
# 256 values of an int8 output include 0.
_TINY = 1e-7

SliceKey = TypeVar("SliceKey")


class Problem(NamedTuple):
    """The predictions of one model, or of one class of it against the rest."""

    model: str
    class_id: int | None = None


class Above(NamedTuple):
    """A sum: the weight of the rows whose score is above a decision threshold, as TFMA counts them.

    Attributes:
      threshold: The threshold; a score that is equal to it is not above.
      positives: Whether only rows with a positive label count.
    """

    threshold: float
    positives: bool

    def __call__(self, labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
        """What each row counts, float64 [rows], see `_STATISTICS`."""
        above = (predictions.astype(float) > self.threshold).astype(float)
        return above * labels if self.positives else above


# What is summed: a name of `_STATISTICS`, or rows above a threshold.
Sum = str | Above


@dataclass(frozen=True)
class Tally:
    """Counts of the rows of one slice.

    Column 0 of the arrays is the data, the others are its bootstrap replicates.

    Attributes:
      rows: Number of rows, unweighted.
      cells: Nonempty cells of the histograms, int64 [cells], ascending.
      counts: Weight in each cell, float64 [cells, 1 + replicates].
      sums: Weighted sums, float64 [sums, 1 + replicates].
    """

    rows: int
    cells: np.ndarray
    counts: np.ndarray
    sums: np.ndarray

    def __add__(self, other: Tally) -> Tally:
        cells, counts = _sum_cells(
            np.concatenate([self.cells, other.cells]), np.concatenate([self.counts, other.counts])
        )
        return Tally(self.rows + other.rows, cells, counts, self.sums + other.sums)


class Counter:
    """Counts rows by slice.

    Args:
      needs: What to count of each problem: `HISTOGRAM`, and names of sums.
    """

    def __init__(self, needs: Mapping[Problem, frozenset[Sum]]):
        self._histograms = [problem for problem, names in needs.items() if HISTOGRAM in names]
        self._sums = [
            (problem, name)
            for problem, names in needs.items()
            for name in sorted(names - {HISTOGRAM}, key=str)
        ]

    def count(
        self,
        labels: np.ndarray,
        predictions: Mapping[str, np.ndarray],
        weights: np.ndarray,
        slices: Mapping[SliceKey, np.ndarray],
    ) -> Iterator[tuple[SliceKey, Tally]]:
        """Counts a batch of rows.

        Args:
          labels: Labels, [rows].
          predictions: By model, [rows] or [rows, classes].
          weights: Weights of the rows in the data and in its replicates, [rows, 1 + replicates].
          slices: Indices of the rows of each slice.

        Yields:
          A slice and its tally.

        Raises:
          DataError: If a prediction is NaN, or a label of a histogram is not between 0 and 1.
        """
        for model, predicted in predictions.items():
            if (missing := np.isnan(predicted.reshape(len(labels), -1)).any(axis=1)).any():
                raise DataError(
                    f"the model {model!r} predicts NaN for {missing.sum():,} of {len(labels):,} "
                    "rows"
                )
        parts = [
            (*self._part(problem, labels, predictions), number * _CELLS)
            for number, problem in enumerate(self._histograms)
        ]
        values = np.empty((len(self._sums), len(labels)))
        for number, (problem, name) in enumerate(self._sums):
            compute = name if isinstance(name, Above) else _STATISTICS[name]
            values[number] = compute(*_view(problem, labels, predictions))
        for key, rows in slices.items():
            own, cells = weights[rows], []
            shares = []
            for truth, buckets, first in parts:
                for positive, share in enumerate((1 - truth[rows], truth[rows])):
                    some = share != 0
                    cells.append(buckets[rows][some] + (first + positive * (BUCKETS + 2)))
                    shares.append(own[some] * share[some, None])
            none = np.empty((0, weights.shape[1]))
            yield (
                key,
                Tally(
                    len(rows),
                    *_sum_cells(
                        np.concatenate([np.empty(0, np.int64), *cells]),
                        np.concatenate([none, *shares]),
                    ),
                    values[:, rows] @ own,
                ),
            )

    def histogram(
        self, tally: Tally, problem: Problem
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The histogram of a problem: buckets, and the weights of negatives and positives in them.

        Returns:
          Buckets, ascending, int64 [buckets]; weights, each float64 [buckets, 1 + replicates].
        """
        first = self._histograms.index(problem) * _CELLS
        start, end = np.searchsorted(tally.cells, [first, first + _CELLS])
        cells, counts = tally.cells[start:end] - first, tally.counts[start:end]
        negatives = int(np.searchsorted(cells, BUCKETS + 2))
        buckets, at = np.unique(cells % (BUCKETS + 2), return_inverse=True)
        both = np.zeros((2, len(buckets), counts.shape[1]))
        both[0, at[:negatives]] = counts[:negatives]
        both[1, at[negatives:]] = counts[negatives:]
        return buckets, both[0], both[1]

    def sum(self, tally: Tally, problem: Problem, name: Sum) -> np.ndarray:
        """A weighted sum of a problem, float64 [1 + replicates]."""
        return np.asarray(tally.sums[self._sums.index((problem, name))])

    def _part(
        self, problem: Problem, labels: np.ndarray, predictions: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Labels, and the bucket of each score."""
        truth, scores = _view(problem, labels, predictions)
        scores = scores.astype(float)
        bad = ~((truth >= 0) & (truth <= 1))
        if bad.any():
            raise DataError(
                f"{bad.sum():,} of {len(truth):,} labels are not between 0 and 1, such as "
                f"{truth[bad][0]}"
            )
        # In TFMA's order of operations, so that rounding puts each score into the same bucket.
        return truth, np.clip(scores * BUCKETS + 1, 0, BUCKETS + 1).astype(np.int64)


def _view(
    problem: Problem, labels: np.ndarray, predictions: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Labels and predictions of a problem; for one class, whether a row is of the class."""
    predicted = predictions[problem.model]
    if problem.class_id is not None:
        return (labels == problem.class_id).astype(float), predicted[:, problem.class_id]
    if predicted.ndim == 2 and predicted.shape[1] == 1:
        predicted = predicted[:, 0]
    return labels, predicted


def _sum_cells(cells: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each cell once, ascending, with the sum of its counts."""
    order = np.argsort(cells, kind="stable")
    cells = cells[order]
    starts = np.flatnonzero(np.diff(cells, prepend=-1))
    if len(starts) == 0:
        return cells, counts
    return cells[starts], np.add.reduceat(counts[order], starts, axis=0)


def _binary_cross_entropy(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    predictions = np.clip(predictions.astype(float), _TINY, 1 - _TINY)
    return -labels * np.log(predictions) - (1 - labels) * np.log1p(-predictions)


def _cross_entropy(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    predictions = predictions.astype(float)
    total = predictions.sum(axis=1)
    share = predictions[np.arange(len(labels)), labels.astype(int)] / np.maximum(total, _TINY)
    return -np.log(np.clip(share, _TINY, 1 - _TINY))


# Functions of labels [rows] and predictions [rows] or [rows, classes]; each returns [rows].
_STATISTICS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    WEIGHT: lambda labels, predictions: np.ones(len(labels)),
    LABEL: lambda labels, predictions: labels,
    PREDICTION: lambda labels, predictions: predictions,
    BINARY_CROSS_ENTROPY: _binary_cross_entropy,
    CROSS_ENTROPY: _cross_entropy,
    CORRECT: lambda labels, predictions: predictions.argmax(axis=1) == labels,
    ERROR: lambda labels, predictions: predictions - labels,
    SQUARED_LABEL: lambda labels, predictions: labels**2,
    ABSOLUTE_ERROR: lambda labels, predictions: np.abs(labels - predictions),
    SQUARED_ERROR: lambda labels, predictions: (labels - predictions) ** 2,
}
