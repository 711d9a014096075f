"""Compares slices by rates or errors: those that differ most, and those that are worst."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from scipy import stats

from ml.fairness.metrics import (
    Estimate,
    FairnessMetric,
    Fraction,
    Point,
    Quantities,
    Quantity,
    difference_of,
    p_value_of,
    ratio_of,
    without,
)
from ml.tallies import Tally
from ml.tasks import Task

# Corrected p-value below which a slice is worse than the other rows by more than chance.
SIGNIFICANT = 0.05
_MOST_WORST = 20

# Pairs of a column and a value; () for all rows.
SliceKey = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class FairnessSettings:
    """What is compared, and the limits; see `pipeline.fairness_config`.

    Attributes:
      columns: Columns by whose values rows are compared.
      thresholds: Decision thresholds.
      max_difference: Largest difference between two slices, by metric.
      min_ratio: Smallest ratio of the lower to the higher value of two slices, by metric.
      min_slice_examples: Slices with fewer rows are left out.
      confidence: Confidence at which a difference counts; 0 counts any.
    """

    columns: tuple[str, ...]
    thresholds: tuple[float, ...] = (0.5,)
    max_difference: Mapping[str, float] = field(default_factory=dict)
    min_ratio: Mapping[str, float] = field(default_factory=dict)
    min_slice_examples: int = 100
    confidence: float = 0.0

    @classmethod
    def from_json(cls, text: str, confidence: float) -> FairnessSettings:
        """Reads the settings that `FairnessConfig.to_json` wrote."""
        content = json.loads(text)
        values = {name: tuple(content[name]) for name in ("columns", "thresholds")}
        return cls(**{**content, **values, "confidence": confidence})


def compare_slices(
    task: Task,
    settings: FairnessSettings,
    quantities: Quantities,
    tallies: Mapping[SliceKey, Tally],
    left_out: list[Any],
) -> dict[str, Any]:
    """Compares slices.

    Args:
      task: The task.
      settings: What is compared.
      quantities: What was counted.
      tallies: Counts of all rows (under the key `()`), of the slices of each column and of those of
        two columns; their last column is that of squared weights.
      left_out: Slices that were not counted, for the report.

    Returns:
      The content of `fairness.json`; see docs/evaluation.md.
    """
    found = _Found(task, settings, quantities, tallies)
    comparisons = [*found.comparisons()]
    worst, tests = found.worst()
    return {
        "task": task.kind,
        "columns": list(settings.columns),
        "limits": {
            "max_difference": dict(settings.max_difference),
            "min_ratio": dict(settings.min_ratio),
            "min_slice_examples": settings.min_slice_examples,
            "confidence": settings.confidence,
        },
        "metrics": [*found.metrics()],
        "comparisons": comparisons,
        "worst_slices": worst[:_MOST_WORST],
        "tests": tests,
        "left_out": left_out,
        "unknown": found.unknown,
        "failures": [*found.failures, *found.crossed_failures(worst)],
    }


def _order(key: SliceKey) -> tuple[int, str]:
    """All rows first, then single slices, then crossed ones."""
    return len(key), repr(key)


def _in_line(text: str) -> str:
    """A name from the data, in one line."""
    return text if text.isprintable() else ascii(text)[1:-1]


class _Found:
    """The estimates of all slices, and what follows from them."""

    def __init__(
        self,
        task: Task,
        settings: FairnessSettings,
        quantities: Quantities,
        tallies: Mapping[SliceKey, Tally],
    ):
        self._task, self._settings, self._quantities = task, settings, quantities
        self._tallies = {key: tallies[key] for key in sorted(tallies, key=_order)}
        self._single = [key for key in self._tallies if len(key) <= 1]
        self.unknown: list[str] = []
        self.failures: list[str] = []

    def metrics(self) -> Iterator[dict[str, Any]]:
        """The values of each metric by slice, problem and threshold."""
        for key in self._single:
            for point in self._quantities.points:
                row = {"slice": dict(key), "rows": self._tallies[key].rows, **self._facts(point)}
                for quantity in self._quantities.at(point):
                    estimate = self._estimate(key, quantity)
                    shown = estimate.as_json(quantity.metric.is_rate)
                    if why := estimate.unknown(quantity.metric):
                        shown["unknown"] = why
                    row[quantity.metric.name] = shown
                yield row

    def comparisons(self) -> Iterator[dict[str, Any]]:
        """The two slices of each column that differ most, by metric."""
        for column, quantity in product(self._settings.columns, self._quantities):
            title = self._title(quantity)
            subject = f"{_in_line(column)}: {title}"
            known = {}
            for key in self._single:
                if key and key[0][0] == column:
                    estimate = self._estimate(key, quantity)
                    if why := estimate.unknown(quantity.metric):
                        place = _in_line(f"{column}:{key[0][1]}")
                        self.unknown.append(f"{place}: {title} is unknown: {why}")
                    else:
                        known[key[0][1]] = estimate
            if len(known) < 2:
                self.unknown.append(
                    f"{subject} cannot be compared: it is known in "
                    f"{'one slice' if known else 'no slice'} of at least "
                    f"{self._settings.min_slice_examples:,} rows"
                )
                continue
            highest = max(known, key=lambda value: known[value].value)
            # Another slice than the highest, if all are equal.
            lowest = min(reversed(known), key=lambda value: known[value].value)
            high, low = known[highest], known[lowest]
            difference, ratio = difference_of(high, low), ratio_of(high, low, quantity.metric)
            comparison = {
                "column": column,
                "metric": quantity.metric.name,
                **self._facts(quantity.point),
                "difference": difference.as_json(),
                "ratio": ratio.as_json(),
                "slices": [highest, lowest],
            }
            pairs = len(known) * (len(known) - 1) // 2
            show = quantity.metric.show
            self.failures += [
                f"fairness: {subject} is {show(high.value)} for {highest!r} and "
                f"{show(low.value)} for {lowest!r}{limit}"
                for limit in self._broken(quantity.metric, difference, ratio, pairs)
            ]
            yield comparison

    def worst(self) -> tuple[list[dict[str, Any]], int]:
        """The slices that are worse than all other rows by more than chance, worst first.

        Of a metric that harms when it is high, the test is one-sided. The p-values of all slices
        and metrics are corrected together (Benjamini and Yekutieli, The control of the false
        discovery rate in multiple testing under dependency, Annals of Statistics 29, 2001), since
        slices overlap.

        Returns:
          The slices, and how many tests there were.
        """
        tested = []
        for quantity in self._quantities:
            metric, whole = quantity.metric, self._fraction((), quantity)
            for key, tally in self._tallies.items():
                if not key or tally.rows < self._settings.min_slice_examples:
                    continue
                part = self._fraction(key, quantity)
                own = Estimate.of(metric, part)
                other = Estimate.of(metric, without(whole, part))
                if own.unknown(metric) or other.unknown(metric):
                    continue
                tested.append((quantity, key, own, other, p_value_of(metric, whole, own, other)))
        if not tested:
            return [], 0
        corrected = stats.false_discovery_control([test[-1] for test in tested], method="by")
        found = [
            {
                "slice": dict(key),
                "rows": self._tallies[key].rows,
                "metric": quantity.metric.name,
                **self._facts(quantity.point),
                "value": own.value,
                "rest": other.value,
                "p_value": float(p_value),
                "p_value_corrected": float(p_corrected),
            }
            for (quantity, key, own, other, p_value), p_corrected in zip(
                tested, corrected, strict=True
            )
            if p_corrected < SIGNIFICANT
        ]
        found.sort(key=lambda worst: (worst["p_value_corrected"], worst["p_value"]))
        return found, len(tested)

    def crossed_failures(self, worst: list[dict[str, Any]]) -> Iterator[str]:
        """A line for each metric of which a slice of two columns is surely beyond a limit."""
        for quantity in self._quantities:
            metric = quantity.metric
            facts = self._facts(quantity.point)
            lines = []
            for one in worst:
                if len(one["slice"]) < 2 or one["metric"] != metric.name:
                    continue
                if any(one[name] != value for name, value in facts.items()):
                    continue
                lines += self._crossed_lines(one, quantity)
            if lines:
                more = f" ({len(lines) - 1} more of this metric)" if lines[1:] else ""
                yield lines[0] + more

    def _crossed_lines(self, one: dict[str, Any], quantity: Quantity) -> list[str]:
        metric, settings = quantity.metric, self._settings
        value, rest = one["value"], one["rest"]
        reasons = []
        allowed = settings.max_difference.get(metric.name)
        if allowed is not None and abs(value - rest) > allowed:
            reasons.append(f"a difference of at most {allowed:g} is allowed")
        least = settings.min_ratio.get(metric.name)
        if least is not None and min(value, rest) < least * max(value, rest):
            reasons.append(f"a ratio of at least {least:g} is required")
        where = " and ".join(
            f"{_in_line(column)} {value!r}" for column, value in one["slice"].items()
        )
        return [
            f"fairness: {where}: {self._title(quantity)} is {metric.show(value)} on "
            f"{one['rows']:,} rows and {metric.show(rest)} on all others, by more than chance "
            f"(corrected p {one['p_value_corrected']:.1g}): {reason}"
            for reason in reasons
        ]

    def _broken(
        self, metric: FairnessMetric, difference: Estimate, ratio: Estimate, pairs: int
    ) -> Iterator[str]:
        """What is said of each limit that two slices exceed."""
        settings = self._settings
        # These two are the furthest apart of many, hence Bonferroni's correction.
        confidence = 1 - (1 - settings.confidence) / pairs if settings.confidence else 0.0
        allowed = settings.max_difference.get(metric.name)
        if allowed is not None:
            margin = difference.margin(confidence) if confidence else 0.0
            if difference.value - margin > allowed:
                yield (
                    f", {metric.show(difference.value)} apart: at most {allowed:g} is allowed "
                    "(fairness.max_difference)"
                )
        least = settings.min_ratio.get(metric.name)
        if least is not None and math.isfinite(ratio.value):
            margin = ratio.margin(confidence) if confidence else 0.0
            if ratio.value + margin < least:
                yield (
                    f", a ratio of {ratio.value:.4f}: at least {least:g} is required "
                    "(fairness.min_ratio)"
                )

    def _estimate(self, key: SliceKey, quantity: Quantity) -> Estimate:
        return Estimate.of(quantity.metric, self._fraction(key, quantity))

    def _fraction(self, key: SliceKey, quantity: Quantity) -> Fraction:
        return quantity.fraction(self._quantities.counter, self._tallies[key])

    def _facts(self, point: Point) -> dict[str, Any]:
        facts: dict[str, Any] = {} if point.threshold is None else {"threshold": point.threshold}
        if point.problem.class_id is not None:
            facts["class"] = self._task.class_names[point.problem.class_id]
        return facts

    def _title(self, quantity: Quantity) -> str:
        facts = self._facts(quantity.point)
        of_class = f" of {facts['class']!r}" if "class" in facts else ""
        at = f" at {facts['threshold']:g}" if "threshold" in facts else ""
        return f"{quantity.metric.title}{of_class}{at}"
