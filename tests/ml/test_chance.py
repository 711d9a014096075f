"""What chance is granted: as much as samples need, and no more."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import schema_pb2, statistics_pb2

from ml.chance import (
    divergence_by_chance,
    drift_by_chance,
    is_more,
    jensen_shannon,
    share_by_chance,
)
from ml.comparisons import drifts


def feature(name: str, comparator: str, kind: int) -> schema_pb2.Feature:
    made = schema_pb2.Feature(name=name, type=kind)
    getattr(made.drift_comparator, comparator).threshold = 0.001
    return made


SCHEMA = schema_pb2.Schema(
    feature=[
        feature("kind", "infinity_norm", schema_pb2.BYTES),
        feature("number", "jensen_shannon_divergence", schema_pb2.FLOAT),
        feature("count", "jensen_shannon_divergence", schema_pb2.INT),
    ]
)


# Ten bins and ten quantiles tell a distribution but for so much, a fifth of the lowest limit.
UNKNOWN = 0.01


def draw(random: np.random.Generator, rows: int) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "kind": random.choice(list("abcdef"), rows, p=[0.4, 0.3, 0.15, 0.1, 0.04, 0.01]),
            "number": random.lognormal(0, 1, rows),
            "count": random.geometric(0.7, rows) - 1,
        }
    )


@pytest.mark.parametrize("rows", [100, 1000])
def test_drift_by_chance_is_more_than_samples_of_one_distribution_show(rows: int) -> None:
    random = np.random.default_rng(3)
    baseline = tfdv.generate_statistics_from_dataframe(draw(random, 20_000))
    for _ in range(10):
        new = tfdv.generate_statistics_from_dataframe(draw(random, rows))
        result = tfdv.validate_statistics(new, SCHEMA, previous_statistics=baseline)
        measured = {name: value for name, value, _ in drifts(result)}
        assert measured.keys() == {"kind", "number", "count"}
        for name, value in measured.items():
            (chosen,) = (f for f in SCHEMA.feature if f.name == name)
            granted = drift_by_chance(chosen, value, new, baseline)
            assert value <= granted + UNKNOWN, name


def test_drift_by_chance_vanishes_with_the_number_of_rows() -> None:
    random = np.random.default_rng(3)
    baseline, new = (
        tfdv.generate_statistics_from_dataframe(draw(random, 30_000)) for _ in range(2)
    )
    assert drift_by_chance(SCHEMA.feature[0], 0.0, new, baseline) < 0.02
    assert drift_by_chance(SCHEMA.feature[2], 0.0, new, baseline) < 0.005


def numbers(values: np.ndarray) -> statistics_pb2.DatasetFeatureStatisticsList:
    return tfdv.generate_statistics_from_dataframe(pd.DataFrame({"number": values}))


def unexplained(values: np.ndarray, baseline: np.ndarray) -> float:
    """How much of what TFDV measures is left when chance has been granted."""
    new, known = numbers(values), numbers(baseline)
    result = tfdv.validate_statistics(new, SCHEMA, previous_statistics=known)
    ((_, value, _),) = (drift for drift in drifts(result) if drift[0] == "number")
    return value - drift_by_chance(SCHEMA.feature[1], value, new, known)


@pytest.mark.parametrize("far", [-50.0, 150.0])
def test_drift_by_chance_explains_that_one_value_far_out_widens_a_range(far: float) -> None:
    rows = np.random.default_rng(3).normal(50, 10, 2000)
    assert unexplained(np.append(rows[:1000], far), rows) <= UNKNOWN
    assert unexplained(rows[:1000], np.append(rows, far)) <= UNKNOWN


@pytest.mark.parametrize("change", [np.negative, lambda rows: rows * 1.609, lambda rows: rows / 30])
def test_drift_by_chance_explains_no_other_unit(change: Callable[[np.ndarray], np.ndarray]) -> None:
    rows = np.random.default_rng(3).normal(50, 10, 2000)
    assert unexplained(change(rows[:200]), rows) > 0.2


@pytest.mark.parametrize("value", [3.0, 5.0])
def test_drift_by_chance_explains_no_new_value_of_what_was_constant(value: float) -> None:
    assert unexplained(np.full(200, value), np.full(2000, 4.0)) > 0.9


def test_drift_by_chance_is_0_where_there_is_no_such_feature() -> None:
    nothing = tfdv.generate_statistics_from_dataframe(pd.DataFrame({"other": [1.0, 2.0]}))
    assert drift_by_chance(SCHEMA.feature[0], 1.0, nothing, nothing) == 0


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_drift_by_chance_is_0_where_the_values_are_no_numbers(value: float) -> None:
    known, unknown = numbers(np.arange(100.0)), numbers(np.append([1.0, 2.0] * 9, value))
    unknown = unknown if np.isinf(value) else numbers(np.full(9, value))
    for pair in ((known, unknown), (unknown, known)):
        assert drift_by_chance(SCHEMA.feature[1], 1.0, *pair) == 0


def test_drift_by_chance_is_the_same_each_time() -> None:
    random = np.random.default_rng(3)
    new, baseline = (tfdv.generate_statistics_from_dataframe(draw(random, 300)) for _ in range(2))
    number = SCHEMA.feature[1]
    first, second = (drift_by_chance(number, 0.0, new, baseline) for _ in range(2))
    assert first == second > 0


@pytest.mark.parametrize(
    ("count", "rows", "more"), [(1, 100, False), (5, 100, True), (60, 5000, True), (0, 0, False)]
)
def test_is_more_grants_few_rows_a_few_more(count: int, rows: int, more: bool) -> None:
    assert is_more(count, rows, 0.005) is more


def test_is_more_grants_nothing_where_nothing_is_allowed() -> None:
    assert is_more(1, 100, 0.0)


def test_a_share_of_few_rows_may_be_further_off() -> None:
    assert share_by_chance(100) == pytest.approx(0.195, abs=0.001)
    assert share_by_chance(27_000) < 0.012
    assert share_by_chance(0) == 1


def test_divergence_by_chance_falls_with_the_rows() -> None:
    shares = np.array([0.5, 0.3, 0.2, 0.0])
    assert 0.2 > divergence_by_chance(shares, 20) > 10 * divergence_by_chance(shares, 2000) > 0


def test_jensen_shannon_is_what_tfdv_measures() -> None:
    ends = [0.0, 10.0]  # So that the bins of both data sets are the same.
    new, baseline = (
        tfdv.generate_statistics_from_dataframe(pd.DataFrame({"number": [*ends, *values]}))
        for values in ([1.5, 1.5, 4.5, 4.5, 4.5], [1.5, 4.5, 4.5, 7.5])
    )
    result = tfdv.validate_statistics(new, SCHEMA, previous_statistics=baseline)
    ((_, measured, _),) = drifts(result)
    shares = []
    for statistics in (new, baseline):
        histogram = statistics.datasets[0].features[0].num_stats.histograms[0]
        counts = np.array([bucket.sample_count for bucket in histogram.buckets])
        shares.append(counts / counts.sum())
    assert jensen_shannon(*shares) == pytest.approx(measured, abs=1e-6)
    assert measured > 0.05


def test_jensen_shannon_is_1_of_disjoint_and_0_of_all_but_equal_distributions() -> None:
    assert jensen_shannon(np.array([1.0, 0]), np.array([0, 1.0])) == 1
    random = np.random.default_rng(0)
    shares = random.dirichlet(np.ones(12))
    others = shares * (1 + random.normal(size=(100, 12)) * 1e-9)
    assert jensen_shannon(others, shares) == pytest.approx(np.zeros(100), abs=1e-12)
