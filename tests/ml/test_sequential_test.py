"""Tests that the sequential test keeps its level at all looks together, and finds differences."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from ml.sequential_test import BETTER, NOT_YET, WORSE, look

ALPHA = 0.05
RUNS, LONGEST = 2000, 200


def t_statistics(values: np.ndarray) -> np.ndarray:
    """Of the first 2, 3, ... values of many sequences, [runs, values]; [runs, values - 1]."""
    numbers = np.arange(1, values.shape[1] + 1)
    means = values.cumsum(axis=1) / numbers
    squares = (values**2).cumsum(axis=1) - numbers * means**2
    errors = np.sqrt(squares[:, 1:] / (numbers[1:] - 1) / numbers[1:])
    return means[:, 1:] / errors


def decided(values: np.ndarray) -> np.ndarray:
    """The look at which each sequence is decided; 0 for never.

    It is the rule of `look`, for all runs at once; one test compares the two.
    """
    numbers = np.arange(2, values.shape[1] + 1)
    spread = t_statistics(values) ** 2 / (numbers - 1)
    ratio = (1 + spread) / (1 + spread / (1 + numbers))
    rejects = numbers / 2 * np.log(ratio) - np.log(1 + numbers) / 2 >= -math.log(ALPHA)
    return np.where(rejects.any(axis=1), rejects.argmax(axis=1) + 2, 0)


def normal(random: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return random.normal(size=shape)


def uneven(random: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Days of which one in seven has ten times the spread."""
    return random.normal(size=shape) * np.where(np.arange(shape[1]) % 7 == 3, 10.0, 1.0)


def skewed(random: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Sums of 20 skewed losses."""
    return random.exponential(size=(*shape, 20)).sum(axis=2) - 20


def binary(random: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Days' sums of the difference in log loss of two models that are equally wrong."""
    truth = random.beta(2, 6, size=(*shape, 30))
    label = random.random(truth.shape) < truth
    off = random.normal(0, 0.4, size=truth.shape)
    first, second = (1 / (1 + np.exp(-np.log(truth / (1 - truth)) - s * off)) for s in (1, -1))
    losses = [-np.log(np.where(label, scores, 1 - scores)) for scores in (first, second)]
    return (losses[0] - losses[1]).sum(axis=2)


@pytest.mark.parametrize("draw", [normal, uneven, skewed, binary])
def test_sequential_test_errs_at_most_at_its_level_though_looked_at_after_each_value(
    draw: Callable[[np.random.Generator, tuple[int, int]], np.ndarray],
) -> None:
    values = draw(np.random.default_rng(5), (RUNS, LONGEST))
    wrong = (decided(values) > 0).mean()
    # Three standard deviations of a share of so many runs are granted to the simulation.
    assert wrong <= ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / RUNS)


def test_fixed_test_errs_far_above_its_level_if_looked_at_after_each_value() -> None:
    t = t_statistics(normal(np.random.default_rng(5), (RUNS, LONGEST)))
    critical = stats.t.ppf(1 - ALPHA / 2, np.arange(1, LONGEST))
    assert (np.abs(t) > critical).any(axis=1).mean() > 6 * ALPHA


def test_sequential_test_finds_a_difference_and_its_direction() -> None:
    values = np.random.default_rng(7).normal(0.7, 1, size=(300, 90))
    found = decided(values)
    assert (found > 0).mean() > 0.99
    assert np.median(found) <= 30
    for run, number in zip(values[:20], found[:20], strict=True):
        assert look(run[:number], ALPHA).verdict == BETTER
        assert look(-run[:number], ALPHA).verdict == WORSE
        if number > 2:
            assert look(run[: number - 1], ALPHA).verdict == NOT_YET


def test_sequential_test_interval_covers_the_mean_at_all_looks() -> None:
    random = np.random.default_rng(11)
    missed = 0
    for _ in range(400):
        values = random.normal(3, 2, size=60)
        looks = [look(values[:number], ALPHA) for number in range(1, 61)]
        missed += any(not one.low <= 3 <= one.high for one in looks)
    assert missed / 400 <= ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / 400)


def test_sequential_test_evidence_is_the_ratio_of_the_mixture_to_the_null() -> None:
    """Against the integral of the noncentral t density over the prior."""
    values = np.array([0.3, 1.1, -0.2, 0.9, 0.5, 0.8])
    number, t = len(values), stats.ttest_1samp(values, 0).statistic

    def weighed(effect: float) -> float:
        return float(
            stats.nct.pdf(t, number - 1, effect * math.sqrt(number)) * stats.norm.pdf(effect)
        )

    mixture, _ = integrate.quad(weighed, -8, 8)
    expected = mixture / stats.t.pdf(t, number - 1)
    assert look(values, ALPHA).e_value == pytest.approx(expected, rel=1e-4)


@given(st.lists(st.floats(-1e6, 1e6), max_size=40), st.floats(0.001, 0.5))
def test_sequential_test_decides_where_the_evidence_suffices(
    values: list[float], alpha: float
) -> None:
    found = look(np.array(values), alpha)
    assert found.values == len(values)
    assert not math.isnan(found.low)
    assert not math.isnan(found.high)
    if found.verdict != NOT_YET:
        assert found.e_value >= 1 / alpha * (1 - 1e-6)
    elif found.e_value > 1 / alpha * (1 + 1e-6):
        assert found.mean == pytest.approx(0, abs=1e-9)


def test_sequential_test_does_not_decide_on_equal_models() -> None:
    assert look(np.zeros(100), ALPHA).verdict == NOT_YET
    assert look(np.array([]), ALPHA).verdict == NOT_YET
    assert look(np.array([5.0]), ALPHA).verdict == NOT_YET
