"""The search for the highest sparsity that `eval` allows."""

from __future__ import annotations

import numpy as np
import pytest
import tf_keras
from hypothesis import given
from hypothesis import strategies as st

from components.pruner.search import Judge, measure_sensitivity, search_sparsity
from ml.tasks import Task

TASK = Task("regression", "price")
layers = tf_keras.layers
RANDOM = np.random.default_rng(3)
ROWS = {"x": RANDOM.normal(size=(2000, 4)).astype(np.float32)}
COLUMNS = ROWS | {"price": ROWS["x"] @ np.ones((4, 1)) + RANDOM.normal(size=(2000, 1))}


def scaled(factor: float) -> tf_keras.Model:
    """A network that is right if the factor is 1."""
    inputs = tf_keras.Input((4,), name="x")
    network = tf_keras.Model(inputs, layers.Dense(1, name="sum")(inputs))
    network.set_weights([np.full((4, 1), factor), np.zeros(1)])
    return network


RIGHT, WRONG = scaled(1.0), scaled(0.0)


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge(RIGHT, COLUMNS, TASK)


def test_judge_finds_no_loss_in_the_same_network(judge: Judge) -> None:
    loss, error = judge.loss_and_error(RIGHT)
    assert (loss, error) == (0, 1 / 2000)


def test_judge_error_covers_what_other_rows_would_show(judge: Judge) -> None:
    loss, error = judge.loss_and_error(scaled(0.7))
    # RMSE from 1 to sqrt(1 + 4 * 0.3²): computed from the distribution, not from the rows.
    assert abs(loss - (np.sqrt(1.36) - 1)) < 3 * error < 0.1


@given(threshold=st.floats(0.02, 0.99))
def test_search_sparsity_comes_near_the_highest_that_is_allowed(
    judge: Judge, threshold: float
) -> None:
    tried = []

    def prune(sparsity: float, steps: int) -> tf_keras.Model:
        tried.append(sparsity)
        assert 1 <= steps <= 400
        return RIGHT if sparsity <= threshold else WRONG

    found, why, trials = search_sparsity(prune, judge, 400, max_loss=0.02)
    assert len(tried) <= 5
    assert found <= threshold
    assert [trial["sparsity"] for trial in trials] == sorted(tried)
    if threshold >= 0.9:
        assert (found, tried) == (0.9, [0.9])
        assert "the 400 steps suffice for no more (tried 90.0% 0.0%)" in why
    else:
        # Five trials halve log(10) four times.
        assert (1 - found) / (1 - threshold) < 10 ** (1 / 16) * 1.001 or found == 0
        assert "may lose more than 1.0% in RMSE" in why


def test_search_sparsity_finds_none_where_everything_loses(judge: Judge) -> None:
    found, why, trials = search_sparsity(lambda *_: WRONG, judge, 400, max_loss=0.02)
    assert found == 0
    assert why.startswith("auto: every trial may lose more than 1.0% in RMSE (tried 90.0%")
    assert len(trials) == 5
    assert not any(trial["allowed"] for trial in trials)


@pytest.mark.parametrize(("steps", "sparsity"), [(400, 0.5), (9, 0.33), (1, 0.0)])
def test_search_sparsity_tries_nothing_with_too_few_rows(steps: int, sparsity: float) -> None:
    few = Judge(RIGHT, {name: rows[:24] for name, rows in COLUMNS.items()}, TASK)
    found, why, trials = search_sparsity(lambda *_: pytest.fail("tried"), few, steps, 0.02)
    assert (found, trials) == (sparsity, [])
    assert why.startswith("auto: eval has too few rows (24) to show a loss of 1.0% in RMSE")


def test_measure_sensitivity_tells_the_layer_that_matters() -> None:
    inputs = tf_keras.Input((4,), name="x")
    left = layers.Dense(1, name="left", use_bias=False)(inputs)
    right = layers.Dense(1, name="right", use_bias=False)(inputs)
    network = tf_keras.Model(inputs, left + right)
    network.get_layer("left").set_weights([np.ones((4, 1))])
    network.get_layer("right").set_weights([np.full((4, 1), 0.001)])
    losses = measure_sensitivity(network, ["left", "right"], 0.5, Judge(network, COLUMNS, TASK))
    assert losses["left"] > 0.3 > 0.01 > abs(losses["right"])
    assert network.get_layer("left").kernel.numpy().all()
