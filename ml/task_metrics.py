"""Metrics of the three tasks, out of tallies, as TFMA defines them and under its names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ml.tallies import (
    ABSOLUTE_ERROR,
    BINARY_CROSS_ENTROPY,
    BUCKETS,
    CORRECT,
    CROSS_ENTROPY,
    HISTOGRAM,
    LABEL,
    PREDICTION,
    SQUARED_ERROR,
    WEIGHT,
    Counter,
    Problem,
    Tally,
)

# TFMA's default number of thresholds, and the width of the margin at 0 and 1.
_THRESHOLDS = 10_000
_EPSILON = 1e-7


@dataclass(frozen=True)
class Metric:
    """How a metric is computed.

    Attributes:
      needs: What has to be counted for it.
      value: Its value in the data and in each bootstrap replicate, float64 [1 + replicates].
      bootstrapped: Whether the value has an interval.
    """

    needs: frozenset[str]
    value: Callable[[Counter, Tally, Problem], np.ndarray]
    bootstrapped: bool = True


def _bucket_thresholds() -> np.ndarray:
    """The last threshold that the scores of each bucket are above.

    TFMA puts a bucket where its lower bound falls among the thresholds -ε, 1/9999, 2/9999, …, 1+ε,
    all moved up by ε. No score counts as above the last one, so that its bucket joins the one
    before.
    """
    inner = [(i + 1) / (_THRESHOLDS - 1) for i in range(_THRESHOLDS - 2)]
    moved = np.array([*inner, 1 + _EPSILON]) + _EPSILON
    lower = np.array([-np.inf, *(i / BUCKETS for i in range(BUCKETS)), np.inf])
    return np.minimum(np.searchsorted(moved, lower, side="right"), _THRESHOLDS - 2)


_THRESHOLD_OF_BUCKET = _bucket_thresholds()


def _curve(counter: Counter, tally: Tally, problem: Problem) -> tuple[np.ndarray, ...]:
    """Weights by threshold, of thresholds that have any, and how much is at or above them.

    Returns:
      Negatives and positives between a threshold and the next, false and true positives at it.
    """
    buckets, negatives, positives = counter.histogram(tally, problem)
    thresholds = _THRESHOLD_OF_BUCKET[buckets]
    starts = np.flatnonzero(np.diff(thresholds, prepend=-1))
    if len(starts):
        negatives = np.add.reduceat(negatives, starts, axis=0)
        positives = np.add.reduceat(positives, starts, axis=0)
    above = (np.cumsum(weights[::-1], axis=0)[::-1] for weights in (negatives, positives))
    return negatives, positives, *above


def _roc_auc(counter: Counter, tally: Tally, problem: Problem) -> np.ndarray:
    """Area under the ROC curve by trapezoids."""
    negatives, positives, _, true_positives = _curve(counter, tally, problem)
    area = (negatives * (true_positives - positives / 2)).sum(axis=0)
    return _defined(area, negatives.sum(axis=0) * positives.sum(axis=0))


def _pr_auc(counter: Counter, tally: Tally, problem: Problem) -> np.ndarray:
    """Area under the precision-recall curve, interpolated (Davis and Goadrich, 2006)."""
    negatives, positives, false_positives, true_positives = _curve(counter, tally, problem)
    predicted = true_positives + false_positives
    nothing = np.zeros((1, predicted.shape[1]))
    next_true, next_predicted = (
        np.concatenate([above[1:], nothing]) for above in (true_positives, predicted)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = positives / (negatives + positives)
        intercept = next_true - slope * next_predicted
        ratio = np.where((predicted > 0) & (next_predicted > 0), predicted / next_predicted, 1)
        area = slope * (positives + intercept * np.log(ratio))
    return _defined(np.nansum(area, axis=0), positives.sum(axis=0))


def _defined(area: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """The quotient; where there is none, 0 in the data, as TFMA has it, and NaN in replicates."""
    with np.errstate(divide="ignore", invalid="ignore"):
        result = np.where(denominator > 0, area / denominator, np.nan)
    result[0] = np.nan_to_num(result[0])
    return np.asarray(result)


def _ratio(above: str, below: str) -> Metric:
    def value(counter: Counter, tally: Tally, problem: Problem) -> np.ndarray:
        numerator = counter.sum(tally, problem, above)
        denominator = counter.sum(tally, problem, below)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(np.isclose(denominator, 0), np.nan, numerator / denominator)

    return Metric(frozenset({above, below}), value)


def _root(metric: Metric) -> Metric:
    return Metric(metric.needs, lambda *arguments: np.sqrt(metric.value(*arguments)))


def _example_count(counter: Counter, tally: Tally, problem: Problem) -> np.ndarray:
    return counter.sum(tally, problem, WEIGHT)


# By the name of TFMA's class.
METRICS = {
    "AUC": Metric(frozenset({HISTOGRAM}), _roc_auc),
    "AUCPrecisionRecall": Metric(frozenset({HISTOGRAM}), _pr_auc),
    "BinaryCrossEntropy": _ratio(BINARY_CROSS_ENTROPY, WEIGHT),
    "Calibration": _ratio(PREDICTION, LABEL),
    "MeanLabel": _ratio(LABEL, WEIGHT),
    "MeanPrediction": _ratio(PREDICTION, WEIGHT),
    "ExampleCount": Metric(frozenset({WEIGHT}), _example_count, bootstrapped=False),
    "SparseCategoricalAccuracy": _ratio(CORRECT, WEIGHT),
    "SparseCategoricalCrossentropy": _ratio(CROSS_ENTROPY, WEIGHT),
    "MeanAbsoluteError": _ratio(ABSOLUTE_ERROR, WEIGHT),
    "MeanSquaredError": _ratio(SQUARED_ERROR, WEIGHT),
    "RootMeanSquaredError": _root(_ratio(SQUARED_ERROR, WEIGHT)),
}
