"""Metrics by which slices are compared, and how closely they are known.

The rates are those of TFMA's Fairness Indicators: false positives among the negative rows, false
negatives among the positive rows, and the share of rows that are selected, each at decision
thresholds. A regression has the mean error and the RMSE in their place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from scipy.special import stdtr, stdtrit  # `scipy.stats` takes half a second to import.

from ml.metrics import RMSE
from ml.sample import share_deviation
from ml.tallies import (
    ERROR,
    LABEL,
    SQUARED_ERROR,
    WEIGHT,
    Above,
    Counter,
    Problem,
    Sum,
    Tally,
)
from ml.tasks import MULTICLASS, REGRESSION, Task

# Rows that a rate needs to be known: the 95% interval of a share of one half is then ±0.25, which
# is also what `ml.sample` asks of all rows.
LEAST_ROWS = 16
_INTERVAL = 0.975  # Of the end of a two-sided interval of 95%.

# The sums above and below the fraction line of a metric, float64 [1 + replicates + 1]: of the data,
# of its replicates, and of squared weights.
Fraction = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class FairnessMetric:
    """A metric by which slices are compared.

    Attributes:
      name: Its name in settings and reports.
      title: Its name for people.
      rows: Which rows it is of: "positive", "negative", or "" for all.
      higher_is_worse: Whether only a higher value harms; else any difference does.
      sums: What it needs, at a threshold.
      fraction: Makes its fraction of these sums, in their order.
    """

    name: str
    title: str
    rows: str
    higher_is_worse: bool
    sums: Callable[[float], tuple[Sum, ...]]
    fraction: Callable[..., Fraction]

    @property
    def is_rate(self) -> bool:
        """Whether it is a share of rows."""
        return self.name not in ("mean_error", "rmse")

    def value(self, fraction: Fraction) -> np.ndarray:
        """The value in the data and in each replicate, float64 [1 + replicates]."""
        above, below = (part[:-1] for part in fraction)
        with np.errstate(divide="ignore", invalid="ignore"):
            values = np.where(below > 0, above / below, np.nan)
            return np.sqrt(values) if self.name == "rmse" else values

    def show(self, value: float) -> str:
        """A value for people."""
        return f"{value:.4f}" if self.is_rate else RMSE.show(value)


RATES = (
    FairnessMetric(
        *("false_positive_rate", "false positive rate", "negative", True),
        lambda t: (WEIGHT, LABEL, Above(t, False), Above(t, True)),
        lambda weight, label, above, true: (np.maximum(above - true, 0), _rest(weight, label)),
    ),
    FairnessMetric(
        *("false_negative_rate", "false negative rate", "positive", True),
        lambda t: (LABEL, Above(t, True)),
        lambda label, true: (np.maximum(label - true, 0), label),
    ),
    FairnessMetric(
        *("selection_rate", "selection rate", "", False),
        lambda t: (WEIGHT, Above(t, False)),
        lambda weight, above: (above, weight),
    ),
)
ERRORS = (
    FairnessMetric(
        *("mean_error", "mean error", "", False),
        lambda t: (WEIGHT, ERROR),
        lambda weight, error: (error, weight),
    ),
    FairnessMetric(
        *("rmse", "RMSE", "", True),
        lambda t: (WEIGHT, SQUARED_ERROR),
        lambda weight, squared: (squared, weight),
    ),
)


def fairness_metrics(task: Task) -> tuple[FairnessMetric, ...]:
    """The metrics by which slices of a task are compared."""
    return ERRORS if task.kind == REGRESSION else RATES


def _rest(whole: np.ndarray, part: np.ndarray) -> np.ndarray:
    """The weights that are not in a part, without what rounding leaves of nothing."""
    rest = whole - part
    return np.where(rest > 1e-9 * whole, rest, 0.0)


class Point(NamedTuple):
    """What predictions are turned into decisions by.

    Attributes:
      problem: All classes, or one against the rest.
      threshold: The decision threshold; None for a regression.
    """

    problem: Problem
    threshold: float | None


class Quantity(NamedTuple):
    """A metric at a point."""

    metric: FairnessMetric
    point: Point

    @property
    def sums(self) -> tuple[Sum, ...]:
        """The sums that it needs."""
        return self.metric.sums(self.point.threshold or 0.0)

    def fraction(self, counter: Counter, tally: Tally) -> Fraction:
        """Its fraction in a slice."""
        return self.metric.fraction(
            *(counter.sum(tally, self.point.problem, name) for name in self.sums)
        )


class Quantities:
    """All that is compared.

    Args:
      task: The task.
      thresholds: Decision thresholds; a regression has none.
      model: Name of the model in the predictions that are counted.
    """

    def __init__(self, task: Task, thresholds: tuple[float, ...], model: str):
        problems = [Problem(model)]
        if task.kind == MULTICLASS:
            problems = [Problem(model, number) for number in range(len(task.classes))]
        cuts: Sequence[float | None] = (None,) if task.kind == REGRESSION else thresholds
        # The points, in the order of a report.
        self.points = [Point(problem, cut) for problem in problems for cut in cuts]
        self._metrics = fairness_metrics(task)
        needs: dict[Problem, frozenset[Sum]] = {problem: frozenset() for problem in problems}
        for quantity in self:
            needs[quantity.point.problem] |= {*quantity.sums}
        self.counter = Counter(needs)
        # Sums by slice, a measure of the memory that a slice takes.
        self.sums = sum(map(len, needs.values()))

    def __iter__(self) -> Iterator[Quantity]:
        for point in self.points:
            yield from self.at(point)

    def at(self, point: Point) -> list[Quantity]:
        """The metrics at a point."""
        return [Quantity(metric, point) for metric in self._metrics]


@dataclass(frozen=True)
class Estimate:
    """A value with its replicates.

    Attributes:
      values: In the data and in each replicate, float64 [1 + replicates].
      rows: Rows of equal weight that vary as much (Kish, Survey Sampling, 1965).
      least: The standard error is at least this, as a bootstrap of rows without an error has none.
    """

    values: np.ndarray
    rows: float
    least: float

    @classmethod
    def of(cls, metric: FairnessMetric, fraction: Fraction) -> Estimate:
        """The estimate of a metric in a slice."""
        below = fraction[1]
        rows = float(below[0] ** 2 / below[-1]) if below[-1] > 0 else 0.0
        values = metric.value(fraction)
        known = metric.is_rate and rows > 0
        return cls(values, rows, share_deviation(float(values[0]), rows) if known else 0.0)

    @property
    def value(self) -> float:
        """The value in the data; NaN where it is undefined."""
        return float(self.values[0])

    @cached_property
    def error(self) -> float:
        """The standard error."""
        replicates = self.values[1:][np.isfinite(self.values[1:])]
        spread = float(np.std(replicates, ddof=1)) if len(replicates) > 1 else 0.0
        return max(spread, self.least)

    @property
    def degrees(self) -> int:
        """Degrees of freedom of the error."""
        return max(len(self.values) - 2, 1)

    def margin(self, confidence: float) -> float:
        """Distance of the value to the end of a one-sided interval."""
        return self.error * float(stdtrit(self.degrees, confidence))

    def unknown(self, metric: FairnessMetric) -> str:
        """Why the value says nothing; "" if it does."""
        kind = metric.rows or "in it"
        if self.rows <= 0 or not math.isfinite(self.value):
            return f"no row is {kind}"
        if self.rows < LEAST_ROWS:
            return f"only {self.rows:.0f} rows are {kind}, at least {LEAST_ROWS} are needed"
        return ""

    def as_json(self, is_rate: bool = False) -> dict[str, Any]:
        """Value and 95% interval, None where they are undefined; that of a rate is in 0 to 1."""
        if not math.isfinite(self.value):
            return {"value": None, "low": None, "high": None}
        low, high = self.value - self.margin(_INTERVAL), self.value + self.margin(_INTERVAL)
        if is_rate:
            low, high = max(low, 0.0), min(high, 1.0)
        return {"value": self.value, "low": low, "high": high}


def without(whole: Fraction, part: Fraction) -> Fraction:
    """The fraction of all rows but those of a slice."""
    return whole[0] - part[0], _rest(whole[1], part[1])


def difference_of(high: Estimate, low: Estimate) -> Estimate:
    """The difference of two slices, paired by replicate."""
    return Estimate(high.values - low.values, 0.0, math.hypot(high.least, low.least))


def ratio_of(high: Estimate, low: Estimate, metric: FairnessMetric) -> Estimate:
    """The lower value over the higher; undefined if the higher one is 0, or values have signs."""
    if metric.name == "mean_error" or high.value <= 0:
        return Estimate(np.full(len(high.values), np.nan), 0.0, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = low.values / high.values
    least = math.hypot(low.least / high.value, low.value * high.least / high.value**2)
    return Estimate(values, 0.0, least)


def p_value_of(metric: FairnessMetric, whole: Fraction, own: Estimate, other: Estimate) -> float:
    """Probability of such a difference if slice and rest are alike, by the paired bootstrap.

    The standard error of the difference of two rates is at least that of the pooled rate.
    """
    least = 0.0
    if metric.is_rate:
        share = float(metric.value(whole)[0])
        least = math.sqrt(max(share * (1 - share), 0.0) * (1 / own.rows + 1 / other.rows))
    difference = Estimate(own.values - other.values, 0.0, least)
    if difference.value == 0 or not math.isfinite(difference.value):
        return 1.0
    if difference.error == 0:
        return 0.0 if difference.value > 0 or not metric.higher_is_worse else 1.0
    distance = difference.value / difference.error
    if metric.higher_is_worse:
        return float(stdtr(difference.degrees, -distance))
    return float(2 * stdtr(difference.degrees, -abs(distance)))
