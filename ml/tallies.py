"""Tallies: score histograms and sums of the rows of a slice, counted by columns, which add up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np

from storage.errors import DataError

# Scores between 0 and 1 are counted in so many buckets, the others in one below and one above:
# TFMA's calibration histogram, from which it computes every confusion matrix.
BUCKETS = 10_000
_CELLS = 2 * (BUCKETS + 2)  # Of a histogram: a bucket for negatives, one for positives.

HISTOGRAM = "histogram"
WEIGHT, LABEL, PREDICTION = "weight", "label", "prediction"
BINARY_CROSS_ENTROPY, CROSS_ENTROPY, CORRECT = "binary cross entropy", "cross entropy", "correct"
ABSOLUTE_ERROR, SQUARED_ERROR = "absolute error", "squared error"

SliceKey = TypeVar("SliceKey")


class Problem(NamedTuple):
    """The predictions of one model; with a class, that class against the rest."""

    model: str
    class_id: int | None = None


@dataclass(frozen=True)
class Tally:
    """What was counted of the rows of one slice.

    Column 0 of the arrays is the data, each further one a bootstrap replicate of it.

    Attributes:
      rows: Number of rows, whatever their weights.
      cells: Cells of histograms that hold a row, int64 [cells], ascending.
      counts: Weight in each, float64 [cells, 1 + replicates].
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
      needs: What is counted of each problem: `HISTOGRAM`, and names of sums.
    """

    def __init__(self, needs: Mapping[Problem, frozenset[str]]):
        self._histograms = [problem for problem, names in needs.items() if HISTOGRAM in names]
        self._sums = [
            (problem, name)
            for problem, names in needs.items()
            for name in sorted(names - {HISTOGRAM})
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
          DataError: If what a histogram needs is no number, or a label of it not between 0 and 1.
        """
        parts = [
            (*self._part(problem, labels, predictions), number * _CELLS)
            for number, problem in enumerate(self._histograms)
        ]
        values = np.empty((len(self._sums), len(labels)))
        for number, (problem, name) in enumerate(self._sums):
            values[number] = _STATISTICS[name](*_view(problem, labels, predictions))
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

    def sum(self, tally: Tally, problem: Problem, name: str) -> np.ndarray:
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
        if (missing := np.isnan(scores)).any():
            raise DataError(
                f"the model {problem.model!r} predicts NaN for {missing.sum():,} of "
                f"{len(scores):,} rows"
            )
        # In TFMA's order of operations, so that no score falls into the next bucket.
        return truth, np.clip(scores * BUCKETS + 1, 0, BUCKETS + 1).astype(np.int64)


def _view(
    problem: Problem, labels: np.ndarray, predictions: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Labels and predictions of a problem; of one class, the label is whether a row is of it."""
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
    with np.errstate(divide="ignore", invalid="ignore"):
        return -labels * np.log(predictions) - (1 - labels) * np.log(1 - predictions)


def _cross_entropy(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    share = predictions[np.arange(len(labels)), labels.astype(int)] / predictions.sum(axis=1)
    with np.errstate(divide="ignore"):
        return -np.log(share)


# Of labels [rows] and predictions [rows] or [rows, classes]; each [rows].
_STATISTICS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    WEIGHT: lambda labels, predictions: np.ones(len(labels)),
    LABEL: lambda labels, predictions: labels,
    PREDICTION: lambda labels, predictions: predictions,
    BINARY_CROSS_ENTROPY: _binary_cross_entropy,
    CROSS_ENTROPY: _cross_entropy,
    CORRECT: lambda labels, predictions: predictions.argmax(axis=1) == labels,
    ABSOLUTE_ERROR: lambda labels, predictions: np.abs(labels - predictions),
    SQUARED_ERROR: lambda labels, predictions: (labels - predictions) ** 2,
}
