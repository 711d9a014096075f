"""Metrics of the three tasks, computed from tallies, with TFMA's definitions and names.

Where TFMA gives 0 for what is undefined, such as the AUC of one class, they are NaN.
"""

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
    ERROR,
    HISTOGRAM,
    LABEL,
    PREDICTION,
    SQUARED_ERROR,
    SQUARED_LABEL,
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
    """The computation of a metric.

    Attributes:
      needs: The counts that it needs.
      value: Function for its value in the data and in each replicate, float64 [1 + replicates].
      bootstrapped: Whether the value has an interval.
    """

    needs: frozenset[str]
    value: Callable[[Counter, Tally, Problem], np.ndarray]
    bootstrapped: bool = True


def _bucket_thresholds() -> np.ndarray:
    """The last threshold below the scores of each bucket.

    TFMA places a bucket by its lower bound among the thresholds -ε, 1/9999, 2/9999, …, 1+ε, all
    moved up by ε. No score counts as above the last one, so its bucket joins the one before.
    """
    inner = [(i + 1) / (_THRESHOLDS - 1) for i in range(_THRESHOLDS - 2)]
    moved = np.array([*inner, 1 + _EPSILON]) + _EPSILON
    lower = np.array([-np.inf, *(i / BUCKETS for i in range(BUCKETS)), np.inf])
    return np.minimum(np.searchsorted(moved, lower, side="right"), _THRESHOLDS - 2)


_THRESHOLD_OF_BUCKET = _bucket_thresholds()


def _curve(counter: Counter, tally: Tally, problem: Problem) -> tuple[np.ndarray, ...]:
    """Weights at thresholds, and at or above them; thresholds without weight are left out.

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
    """The quotient; NaN, not 0 as in TFMA, where only one class is: it has no curve."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(denominator > 0, area / denominator, np.nan)


def mean_error(
    weight: np.ndarray,
    label: np.ndarray,
    squared_label: np.ndarray,
    error: np.ndarray,
    squared_error: np.ndarray,
) -> np.ndarray:
    """The weighted mean of prediction less label, in the label's unit; NaN without weight.

    Args:
      weight: Sum of the weights, [...], as the others.
      label: Weighted sum of the labels.
      squared_label: Weighted sum of the squared labels.
      error: Weighted sum of predictions less labels.
      squared_error: Weighted sum of the squares of these.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(weight > 0, error / weight, np.nan)


def r2_score(
    weight: np.ndarray,
    label: np.ndarray,
    squared_label: np.ndarray,
    error: np.ndarray,
    squared_error: np.ndarray,
) -> np.ndarray:
    """The coefficient of determination, as Keras's `R2Score` defines it; see `mean_error`.

    It is 1 less the sum of squared errors over that of the squared distances of the labels from
    their mean. NaN, not 0 as in Keras, if all labels are equal.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = squared_label - label**2 / weight
        # Of equal labels rounding leaves a little.
        return np.where(spread > 1e-12 * squared_label, 1 - squared_error / spread, np.nan)


def _of_errors(compute: Callable[..., np.ndarray]) -> Metric:
    names = (WEIGHT, LABEL, SQUARED_LABEL, ERROR, SQUARED_ERROR)

    def value(counter: Counter, tally: Tally, problem: Problem) -> np.ndarray:
        return compute(*(counter.sum(tally, problem, name) for name in names))

    return Metric(frozenset(names), value)


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


# By the name of the class in TFMA.
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
    # These two are of `components.evaluator.regression_metrics`.
    "MeanError": _of_errors(mean_error),
    "R2Score": _of_errors(r2_score),
}
