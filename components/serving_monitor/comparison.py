"""Compares the champion and the challenger on the same traffic, and says whether one is better."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from components.serving_monitor.live import OVERALL
from ml.chance import is_more
from ml.influence import influences, testable
from ml.metrics import Metric
from ml.scores import Score, measure
from ml.sequential_test import BETTER, NOT_YET, UNDECIDED, WORSE, Look, look
from ml.tasks import REGRESSION, Task
from storage.names import CHALLENGER, CHAMPION

SHADOW, SPLIT = "shadow", "split"
_ROLES = (CHAMPION, CHALLENGER)
# How far from 0 to 1 a 32-bit probability may round.
_ROUNDING = 1e-5


@dataclass(frozen=True)
class Rules:
    """When the test decides; see `pipeline.challenger_config.ChallengerConfig`.

    Attributes:
      metric: The metric that the test is on; "" for the first of `ml.influence.testable`.
      alpha: Level of the test.
      min_blocks: Blocks with both versions before it may decide.
      min_rows: Labelled rows of each version before it may.
      max_blocks: Blocks after which it ends undecided; 0 for never.
      min_labelled: Share of a block's rows that have a label, before the block counts.
      max_failed: Largest share of the challenger's rows without a usable prediction.
      max_p99_ratio: Largest ratio of the two 99th percentiles of latency; 0 for no limit.
    """

    metric: str
    alpha: float
    min_blocks: int
    min_rows: int
    max_blocks: int
    min_labelled: float
    max_failed: float
    max_p99_ratio: float


@dataclass(frozen=True)
class Traffic:
    """Rows of two versions that had the same traffic.

    Attributes:
      challenger: Whether the challenger predicted it, bool [rows].
      block: The block of time that it is of, int64 [rows].
      pair: The same number for the champion's and the challenger's prediction of one row of a
        request; -1 for a row that one version alone predicted; int64 [rows].
      labels: Encoded labels, NaN where none has arrived, float64 [rows].
      predictions: float64 [rows, outputs].
      weights: float64 [rows].
      columns: Columns to slice by, [rows].
    """

    challenger: np.ndarray
    block: np.ndarray
    pair: np.ndarray
    labels: np.ndarray
    predictions: np.ndarray
    weights: np.ndarray
    columns: pd.DataFrame

    def __len__(self) -> int:
        return len(self.block)

    def only(self, rows: np.ndarray) -> Traffic:
        """Some of the rows: bool [rows], or their numbers."""
        parts = {name: values[rows] for name, values in vars(self).items() if name != "columns"}
        columns = self.columns[rows] if rows.dtype == bool else self.columns.iloc[rows]
        return Traffic(**parts, columns=columns.reset_index(drop=True))


@dataclass(frozen=True)
class Difference:
    """A metric of both versions, on some rows.

    Attributes:
      name: Its name.
      title: Its name for people.
      champion: The champion's value; None where the rows do not define it.
      challenger: The challenger's.
      intervals: By role, and for "difference" (the challenger's less the champion's), both ends of
        the confidence sequence; None while there are too few blocks.
      e_value: Evidence that the two differ, see `ml.sequential_test.Look`.
    """

    name: str
    title: str
    champion: Score
    challenger: Score
    intervals: dict[str, tuple[float, float] | None] = field(default_factory=dict)
    e_value: float | None = None


@dataclass(frozen=True)
class Slice:
    """Both versions on the rows with one value of a feature, or on all.

    Attributes:
      name: "Overall", or `<feature>:<value>`.
      rows: Labelled rows by role.
      blocks: Blocks of time with labelled rows of both.
      metrics: The metrics; of a slice the one that the test is on.
      other_class: Share of the rows, labelled or not, for which the two predict another class; None
        for a regression, and where no row was predicted by both.
      apart: Mean absolute difference of the two predictions; None where no row has both.
    """

    name: str
    rows: dict[str, int]
    blocks: int
    metrics: tuple[Difference, ...]
    other_class: float | None
    apart: float | None


@dataclass(frozen=True)
class Comparison:
    """The comparison of two versions.

    Attributes:
      verdict: BETTER (the challenger is), WORSE, NOT_YET, or UNDECIDED.
      reasons: Why, in lines for a person.
      mode: SHADOW if rows were predicted by both, SPLIT if by one of the two.
      metric: The metric that the test is on.
      slices: Overall, then by slice, the largest first.
      rows: By role, the rows, those without a usable prediction, and those with a label.
    """

    verdict: str
    reasons: tuple[str, ...]
    mode: str
    metric: str
    slices: tuple[Slice, ...]
    rows: dict[str, dict[str, int]]

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


def compare(
    task: Task,
    traffic: Traffic,
    rules: Rules,
    slices: Sequence[str] = (),
    min_slice_rows: int = 1,
    latency: Mapping[str, tuple[float, float]] | None = None,
) -> Comparison:
    """Compares champion and challenger.

    A block of time is one value of the test: the influences (see `ml.influence`) of its rows on the
    difference of the two metrics, summed. So rows of a day may depend on each other. Where both
    predicted a row (shadow), it is the difference for the same rows; else (split) the two versions
    count equally in each block, so that a share of traffic that changes over time favours neither.
    Blocks that one version alone has are left out.

    Args:
      task: The task.
      traffic: The rows of both.
      rules: When the test decides.
      slices: Columns to slice by.
      min_slice_rows: Slices with fewer labelled rows of either version are left out.
      latency: By role, the interval of the 99th percentile of latency.

    Returns:
      The comparison. A row without a usable prediction (not finite, or no probability) is counted
      and not compared, and so is its pair.
    """
    metric = task.metric(rules.metric or testable(task)[0])
    usable = _usable(task, traffic.predictions)
    counts = {
        role: {
            "rows": int(of.sum()),
            "failed": int((of & ~usable).sum()),
            "labelled": int((of & usable & np.isfinite(traffic.labels)).sum()),
        }
        for role, of in zip(_ROLES, (~traffic.challenger, traffic.challenger), strict=True)
    }
    valid = _matched(traffic.only(usable))
    counted = _counted(valid, rules.min_labelled)
    overall = _slice(task, OVERALL, valid, counted, task.metrics, rules.alpha)
    found = [overall]
    for name, of_valid, of_counted in _parts(valid, counted, slices):
        rows = _by_role(of_counted)
        if min(rows.values()) >= min_slice_rows:
            found.append(_slice(task, name, of_valid, of_counted, (metric,), rules.alpha))
    found[1:] = sorted(found[1:], key=lambda one: -sum(one.rows.values()))
    verdict, reasons = _judge(metric, overall, counts, rules, latency or {})
    mode = SHADOW if (valid.pair >= 0).any() else SPLIT
    return Comparison(verdict, reasons, mode, metric.name, tuple(found), counts)


def _usable(task: Task, predictions: np.ndarray) -> np.ndarray:
    usable = np.isfinite(predictions).all(axis=1)
    if task.kind != REGRESSION:
        with np.errstate(invalid="ignore"):
            inside = (predictions >= -_ROUNDING) & (predictions <= 1 + _ROUNDING)
        usable &= inside.all(axis=1)
        if task.outputs > 1:
            usable &= predictions.sum(axis=1) > 0
    return usable


def _matched(traffic: Traffic) -> Traffic:
    """Without the rows of a block with pairs whose pair is not there, or has another label."""
    numbers = traffic.pair.copy()
    known, place, count = np.unique(numbers, return_inverse=True, return_counts=True)
    both = np.isin(known, traffic.pair[traffic.challenger]) & np.isin(
        known, traffic.pair[~traffic.challenger]
    )
    labels = pd.Series(traffic.labels).groupby(place)
    one_label = (labels.nunique(dropna=False) <= 1).to_numpy()
    whole = (both & one_label & (count == 2) & (known >= 0))[place]
    paired = np.isin(traffic.block, traffic.block[traffic.pair >= 0])
    return traffic.only(whole | ~paired)


def _counted(traffic: Traffic, min_labelled: float) -> Traffic:
    """The labelled rows, in blocks whose labels have arrived."""
    labelled = np.isfinite(traffic.labels) & (traffic.weights > 0) & np.isfinite(traffic.weights)
    blocks, place = np.unique(traffic.block, return_inverse=True)
    rows = np.bincount(place, minlength=len(blocks))
    shares = np.bincount(place, labelled, minlength=len(blocks)) / np.maximum(rows, 1)
    return _balanced(traffic.only(labelled & (shares >= min_labelled)[place]))


def _balanced(traffic: Traffic) -> Traffic:
    """With weights by which both versions count equally in each block, as two means differ.

    A block in which they have the weights a and b counts a b / (a + b), the inverse of the variance
    of the difference of two means.
    """
    blocks, place = np.unique(traffic.block, return_inverse=True)
    of_role = [
        np.bincount(place[of], traffic.weights[of], minlength=len(blocks))
        for of in (~traffic.challenger, traffic.challenger)
    ]
    common = of_role[0] * of_role[1] / np.maximum(of_role[0] + of_role[1], 1e-300)
    own = np.where(traffic.challenger, of_role[1][place], of_role[0][place])
    weights = traffic.weights * common[place] / np.where(own > 0, own, 1.0)
    return replace(traffic, weights=weights).only(weights > 0)


def _by_role(traffic: Traffic) -> dict[str, int]:
    challenger = int(traffic.challenger.sum())
    return {CHAMPION: len(traffic) - challenger, CHALLENGER: challenger}


def _parts(
    valid: Traffic, counted: Traffic, slices: Sequence[str]
) -> Iterator[tuple[str, Traffic, Traffic]]:
    for column in slices:
        known, values = valid.columns[column], counted.columns[column]
        for value, places in values.groupby(values).groups.items():
            shown = value.decode(errors="replace") if isinstance(value, bytes) else value
            part = _balanced(counted.only(places.to_numpy()))
            yield f"{column}:{shown}", valid.only((known == value).to_numpy()), part


def _slice(
    task: Task,
    name: str,
    valid: Traffic,
    counted: Traffic,
    metrics: Sequence[Metric],
    alpha: float,
) -> Slice:
    other_class, apart = _disagreement(task, valid)
    return Slice(
        name=name,
        rows=_by_role(counted),
        blocks=len(np.unique(counted.block)),
        metrics=tuple(_differences(task, counted, metrics, alpha)),
        other_class=other_class,
        apart=apart,
    )


def _differences(
    task: Task, traffic: Traffic, metrics: Sequence[Metric], alpha: float
) -> Iterator[Difference]:
    blocks, place = np.unique(traffic.block, return_inverse=True)
    sums: list[dict[str, np.ndarray]] = []
    values = []
    for of in (~traffic.challenger, traffic.challenger):
        part = (traffic.labels[of], traffic.predictions[of], traffic.weights[of])
        values.append(measure(task, *part))
        sums.append(
            {
                name: len(blocks) * np.bincount(place[of], rows, minlength=len(blocks))
                for name, rows in influences(task, *part).items()
            }
        )
    for metric in metrics:
        ours, theirs = (value[metric.name] for value in values)
        if ours is None or theirs is None or not all(metric.name in one for one in sums):
            yield Difference(metric.name, metric.title, ours, theirs)
            continue
        first, second = (one[metric.name] for one in sums)
        difference = look(theirs - ours + second - first, alpha)
        looks = {CHAMPION: look(ours + first, alpha), CHALLENGER: look(theirs + second, alpha)}
        intervals = {name: _ends(one) for name, one in (looks | {"difference": difference}).items()}
        yield Difference(metric.name, metric.title, ours, theirs, intervals, difference.e_value)


def _ends(found: Look) -> tuple[float, float] | None:
    return (found.low, found.high) if math.isfinite(found.low) else None


def _disagreement(task: Task, valid: Traffic) -> tuple[float | None, float | None]:
    """How often the two predict another class, and how far apart they are, on the same rows."""
    paired = valid.only(valid.pair >= 0)
    if not len(paired):
        return None, None
    order = np.lexsort((paired.challenger, paired.pair))
    both = paired.predictions[order].reshape(-1, 2, task.outputs)
    apart = float(np.abs(both[:, 1] - both[:, 0]).mean())
    if task.kind == REGRESSION:
        return None, apart
    chosen = both.argmax(axis=2) if task.outputs > 1 else both[:, :, 0] > 0.5
    return float((chosen[:, 0] != chosen[:, 1]).mean()), apart


def _judge(
    metric: Metric,
    overall: Slice,
    counts: Mapping[str, Mapping[str, int]],
    rules: Rules,
    latency: Mapping[str, tuple[float, float]],
) -> tuple[str, tuple[str, ...]]:
    challenger = counts[CHALLENGER]
    rows, failed = challenger["rows"], challenger["failed"]
    if failed > rules.max_failed * rows and is_more(failed, rows, rules.max_failed):
        return WORSE, (
            f"{failed:,} of the challenger's {rows:,} rows have no usable prediction; "
            f"{rules.max_failed:.2%} are allowed",
        )
    if rules.max_p99_ratio and len(latency) == len(_ROLES):
        least, most = latency[CHALLENGER][0], latency[CHAMPION][1]
        if least > rules.max_p99_ratio * most:
            return WORSE, (
                f"the challenger's 99th percentile of latency is {least:,.0f} µs at least, the "
                f"champion's {most:,.0f} µs at most; {rules.max_p99_ratio:g} times is allowed",
            )
    lacking = [
        f"{count:,} labelled rows of the {role}; {rules.min_rows:,} are needed"
        for role, count in overall.rows.items()
        if count < rules.min_rows
    ]
    if overall.blocks < rules.min_blocks:
        lacking.append(f"{overall.blocks} blocks with labels; {rules.min_blocks} are needed")
    tested = next(one for one in overall.metrics if one.name == metric.name)
    interval = tested.intervals.get("difference")
    verdict, sentence = NOT_YET, f"the rows define no difference in {metric.title}"
    if interval and tested.champion is not None and tested.challenger is not None:
        low, high = sorted(metric.direction * end for end in interval)
        verdict = BETTER if low > 0 else WORSE if high < 0 else NOT_YET
        sentence = (
            f"{metric.title}: challenger {metric.show(tested.challenger)}, champion "
            f"{metric.show(tested.champion)}; difference {tested.challenger - tested.champion:+.4g}"
            f", between {interval[0]:+.4g} and {interval[1]:+.4g} ({1 - rules.alpha:.0%}, "
            f"{overall.blocks} blocks)"
        )
    if lacking:
        return NOT_YET, (*lacking, sentence)
    if verdict == NOT_YET and 0 < rules.max_blocks <= overall.blocks:
        return UNDECIDED, (f"no decision after {overall.blocks} blocks", sentence)
    return verdict, (sentence,)
