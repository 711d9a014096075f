"""Tests that champion and challenger are compared on the same traffic, and on nothing else."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from components.serving_monitor.comparison import SHADOW, SPLIT, Rules, Traffic, compare
from components.serving_monitor.traffic import measure_latency
from ml.sequential_test import BETTER, NOT_YET, UNDECIDED, WORSE
from ml.tasks import Task

TASK = Task("binary", "y")
RULES = Rules(
    metric="",
    alpha=0.05,
    min_blocks=7,
    min_rows=100,
    max_blocks=0,
    min_labelled=0.5,
    max_failed=0.001,
    max_p99_ratio=0.0,
)


def shadowed(
    seed: int = 0, days: int = 30, rows: int = 150, noise: tuple[float, float] = (0.8, 0.4)
) -> Traffic:
    """Rows that both predicted, on days with a label rate of their own; more noise is worse."""
    random = np.random.default_rng(seed)
    count = days * rows
    day = np.repeat(np.arange(days), rows)
    logits = random.normal(-1, 1, count) + random.normal(0, 0.5, days)[day]
    labels = (random.random(count) < 1 / (1 + np.exp(-logits))).astype(float)
    # The error of a day is common to its rows, and each model has its own.
    errors = [s * (random.normal(0, 1, count) + random.normal(0, 0.3, days)[day]) for s in noise]
    predictions = [1 / (1 + np.exp(-(logits + error))) for error in errors]
    return Traffic(
        challenger=np.repeat([False, True], count),
        block=np.tile(day, 2),
        pair=np.tile(np.arange(count), 2),
        labels=np.tile(labels, 2),
        predictions=np.concatenate(predictions)[:, None],
        weights=np.ones(2 * count),
        columns=pd.DataFrame({"side": np.tile(random.choice([b"l", b"r"], count), 2)}),
    )


def divided(traffic: Traffic, share: np.ndarray, seed: int = 1) -> Traffic:
    """The same requests, of which each version gets its share by day."""
    given = (
        np.random.default_rng(seed).random(len(traffic) // 2)
        < share[traffic.block[: len(traffic) // 2]]
    )
    part = traffic.only(np.concatenate([~given, given]))
    return replace(part, pair=np.full(len(part), -1))


def metric_of(comparison: Any, name: str = "log_loss") -> Any:
    return next(one for one in comparison.slices[0].metrics if one.name == name)


def test_comparison_of_shadow_traffic_finds_the_better_version() -> None:
    traffic = shadowed()
    found = compare(TASK, traffic, RULES, ["side"], 100)
    assert (found.verdict, found.mode, found.metric) == (BETTER, SHADOW, "log_loss")
    swapped = replace(traffic, challenger=~traffic.challenger)
    assert compare(TASK, swapped, RULES).verdict == WORSE
    one = metric_of(found)
    losses = -np.log(
        np.where(traffic.labels == 1, traffic.predictions[:, 0], 1 - traffic.predictions[:, 0])
    )
    assert one.champion == pytest.approx(losses[~traffic.challenger].mean())
    assert one.challenger == pytest.approx(losses[traffic.challenger].mean())
    low, high = one.intervals["difference"]
    assert low < one.challenger - one.champion < high < 0
    assert one.e_value > 1 / RULES.alpha
    assert found.slices[0].name == "Overall"
    assert {part.name for part in found.slices} == {"Overall", "side:l", "side:r"}
    assert all(part.blocks == 30 and 0 < (part.other_class or 0) < 0.5 for part in found.slices)
    assert set(metric_of(found, "auc").intervals) == {"champion", "challenger", "difference"}
    # It goes into a report.
    assert found.to_dict()["rows"]["challenger"] == {"rows": 4500, "failed": 0, "labelled": 4500}


def test_comparison_of_shadow_traffic_needs_fewer_rows_than_a_split() -> None:
    traffic = shadowed()
    shadow = metric_of(compare(TASK, traffic, RULES)).intervals["difference"]
    split = metric_of(compare(TASK, divided(traffic, np.full(30, 0.5)), RULES)).intervals[
        "difference"
    ]
    assert split[1] - split[0] > 1.5 * (shadow[1] - shadow[0])


@pytest.mark.parametrize("split", [False, True])
def test_comparison_of_equal_versions_seldom_decides_at_any_look(split: bool) -> None:
    runs, wrong = 60, {"log_loss": 0, "auc": 0}
    for seed in range(runs):
        traffic = shadowed(seed, days=24, rows=30, noise=(0.6, 0.6))
        if split:
            traffic = divided(traffic, np.full(24, 0.4), seed)
        looks = [
            compare(TASK, traffic.only(traffic.block < days), RULES) for days in (7, 11, 16, 24)
        ]
        for name in wrong:
            ends = [metric_of(one, name).intervals["difference"] for one in looks]
            wrong[name] += any(low > 0 or high < 0 for low, high in ends)
    deviation = math.sqrt(RULES.alpha * (1 - RULES.alpha) / runs)
    assert max(wrong.values()) / runs <= RULES.alpha + 3 * deviation


def test_comparison_is_not_misled_by_a_share_of_traffic_that_grows() -> None:
    """Of equal versions the one with more traffic on the hard days is not the worse one."""
    traffic = shadowed(days=30, noise=(0.5, 0.5))
    hard = traffic.block >= 15
    traffic.labels[hard] = np.tile(np.random.default_rng(2).integers(0, 2, hard.sum() // 2), 2)
    part = divided(traffic, np.where(np.arange(30) < 15, 0.1, 0.9))
    loss = -np.log(np.where(part.labels == 1, part.predictions[:, 0], 1 - part.predictions[:, 0]))
    assert loss[part.challenger].mean() > 1.2 * loss[~part.challenger].mean()
    found = compare(TASK, part, RULES)
    assert (found.verdict, found.mode) == (NOT_YET, SPLIT)
    one = metric_of(found)
    assert one.challenger == pytest.approx(one.champion, rel=0.1)


def test_comparison_waits_for_enough_blocks_and_labelled_rows() -> None:
    traffic = shadowed(noise=(1.5, 0.1))
    few = compare(TASK, traffic.only(traffic.block < 6), RULES)
    assert few.verdict == NOT_YET
    assert few.reasons[0] == "6 blocks with labels; 7 are needed"
    many = compare(TASK, traffic, replace(RULES, min_rows=5000))
    assert many.verdict == NOT_YET
    assert many.reasons[0] == "4,500 labelled rows of the champion; 5,000 are needed"
    ended = compare(TASK, shadowed(noise=(0.5, 0.5)), replace(RULES, max_blocks=20))
    assert ended.verdict == UNDECIDED
    assert ended.reasons[0] == "no decision after 30 blocks"


def test_comparison_counts_a_block_when_its_labels_have_arrived() -> None:
    traffic = shadowed()
    new = traffic.block >= 25
    traffic.labels[new] = np.nan
    traffic.labels[np.flatnonzero(new)[::400]] = 1.0  # Those that are bad are known first.
    found = compare(TASK, traffic, RULES)
    assert found.slices[0].blocks == 25
    assert found.slices[0].rows["champion"] == 25 * 150
    traffic.labels[:] = np.nan
    assert compare(TASK, traffic, RULES).verdict == NOT_YET


def test_comparison_finds_a_challenger_without_usable_predictions_worse() -> None:
    traffic = shadowed(noise=(1.5, 0.1))
    traffic.predictions[np.flatnonzero(traffic.challenger)[::50]] = np.nan
    traffic.predictions[np.flatnonzero(traffic.challenger)[1::50]] = 7.0
    found = compare(TASK, traffic, RULES)
    assert found.verdict == WORSE
    assert found.reasons == (
        "180 of the challenger's 4,500 rows have no usable prediction; 0.10% are allowed",
    )
    # One by chance is none, and its pair is not compared either.
    traffic = shadowed(noise=(1.5, 0.1))
    traffic.predictions[-1] = np.inf
    found = compare(TASK, traffic, RULES)
    assert found.verdict == BETTER
    assert found.slices[0].rows == {"champion": 4499, "challenger": 4499}
    # The champion's do not count against the challenger.
    traffic.predictions[~traffic.challenger] = np.nan
    assert compare(TASK, traffic, RULES).verdict == NOT_YET


@pytest.mark.parametrize("gone", [False, True])
def test_comparison_says_nothing_while_a_version_has_no_traffic(gone: bool) -> None:
    traffic = shadowed()
    found = compare(TASK, traffic.only(traffic.challenger == gone), RULES, ["side"], 100)
    assert found.verdict == NOT_YET
    assert found.slices[0].blocks == 0
    nothing = compare(TASK, traffic.only(traffic.block < 0), RULES, ["side"], 100)
    assert nothing.verdict == NOT_YET


def test_comparison_leaves_out_pairs_that_are_torn_or_contradict_each_other() -> None:
    traffic = shadowed(days=10)
    traffic.labels[-5:] = 1 - traffic.labels[-5:]  # The challenger's copy has another label.
    keep = np.ones(len(traffic), bool)
    keep[:20] = False  # The champion's prediction was not logged.
    found = compare(TASK, traffic.only(keep), RULES)
    assert found.slices[0].rows == {"champion": 1475, "challenger": 1475}


def test_comparison_finds_a_slow_challenger_worse() -> None:
    rules = replace(RULES, max_p99_ratio=2.0)
    slow = {"champion": (900.0, 1000.0), "challenger": (2100.0, 2500.0)}
    found = compare(TASK, shadowed(noise=(1.5, 0.1)), rules, latency=slow)
    assert found.verdict == WORSE
    assert "99th percentile of latency is 2,100 µs at least" in found.reasons[0]
    unsure = {**slow, "challenger": (1900.0, 2500.0)}
    assert compare(TASK, shadowed(noise=(1.5, 0.1)), rules, latency=unsure).verdict == BETTER


@pytest.mark.parametrize("metric", ["", "accuracy", "macro_auc"])
def test_comparison_of_classes_finds_the_better_version(metric: str) -> None:
    task = Task("multiclass", "y", ("a", "b", "c"))
    traffic, random = shadowed(days=14), np.random.default_rng(3)
    labels = np.tile(random.integers(0, 3, len(traffic) // 2), 2)
    sure = np.where(traffic.challenger, 2.0, 1.0)[:, None]
    scores = np.exp(sure * np.eye(3)[labels] + random.normal(0, 1, (len(labels), 3)))
    scores /= scores.sum(axis=1, keepdims=True)
    classes = replace(traffic, labels=labels.astype(float), predictions=scores)
    found = compare(task, classes, replace(RULES, metric=metric))
    assert found.verdict == BETTER
    assert found.metric == (metric or "log_loss")
    assert 0 < (found.slices[0].other_class or 0) < 1
    calibration = metric_of(found, "calibration")
    assert calibration.champion is not None
    assert calibration.intervals == {}


@pytest.mark.parametrize("metric", ["", "mae", "r2"])
def test_comparison_of_numbers_finds_the_better_version(metric: str) -> None:
    task = Task("regression", "y")
    traffic, random = shadowed(days=14), np.random.default_rng(4)
    labels = np.tile(random.normal(100, 20, len(traffic) // 2), 2)
    spread = np.where(traffic.challenger, 5.0, 6.0)
    numbers = replace(
        traffic,
        labels=labels,
        predictions=(labels + spread * random.normal(0, 1, len(labels)))[:, None],
    )
    found = compare(task, numbers, replace(RULES, metric=metric))
    assert (found.verdict, found.metric) == (BETTER, metric or "rmse")
    assert found.slices[0].other_class is None
    assert found.slices[0].apart == pytest.approx(
        math.hypot(5, 6) * math.sqrt(2 / math.pi), rel=0.1
    )


def test_comparison_counts_weights_of_rows() -> None:
    traffic = shadowed(noise=(1.0, 0.3))
    # The challenger is better on the rows that count nothing.
    traffic.weights[:] = np.tile((traffic.block[: len(traffic) // 2] % 2).astype(float), 2)
    assert compare(TASK, traffic, RULES).slices[0].blocks == 15


def test_latency_has_percentiles_with_ends_that_hold_the_true_ones() -> None:
    values = np.random.default_rng(5).exponential(1000, 5000).astype(int)
    rows = pd.DataFrame(
        {
            "request.role": b"champion",
            "request.id": [str(n).encode() for n in range(5000)],
            "request.latency": values,
        }
    )
    rows = pd.concat([rows, rows.assign(**{"request.latency": -1, "request.role": b"challenger"})])
    found = measure_latency(rows)
    assert list(found) == ["champion"]  # A time below 0 is none.
    value, low, high = found["champion"]["0.99"]
    assert low < -1000 * math.log(0.01) < high
    assert value == pytest.approx(np.quantile(values, 0.99))
