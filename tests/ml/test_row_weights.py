"""Tests of how much each row counts, in training and in the metrics."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

from ml.row_weights import class_factors, evaluation_weights, training_weights
from ml.tasks import Task
from storage.errors import DataError, UserError

PLAIN = Task("multiclass", "y", ("a", "b", "c"))
BY_AGE = Task("multiclass", "y", ("a", "b", "c"), weight="age")
OF_DATA = Task("multiclass", "y", ("a", "b", "c"), example_weight="trips")


def rows(labels: list[int], **weights: list[float]) -> dict[str, np.ndarray]:
    columns = {name: np.array(values, np.float32)[:, None] for name, values in weights.items()}
    return columns | {"y": np.array(labels)[:, None]}


def test_training_weights_are_none_where_all_rows_weigh_the_same() -> None:
    assert training_weights(rows([0, 1, 2]), PLAIN) is None
    assert evaluation_weights(rows([0, 1, 2]), PLAIN) is None


@given(st.lists(st.floats(0.125, 100, width=32), min_size=1, max_size=20))
def test_training_weights_keep_their_ratios_and_have_a_mean_of_one(weights: list[float]) -> None:
    columns = rows([0] * len(weights), age=weights)
    found = training_weights(columns, BY_AGE)
    assert found is not None
    assert found.shape == (len(weights), 1)
    assert found.mean() == pytest.approx(1)
    np.testing.assert_allclose(found / found[0], columns["age"] / columns["age"][0], rtol=1e-5)


@given(st.lists(st.integers(0, 2), min_size=1, max_size=50))
def test_class_factors_are_those_of_scikit_learn(labels: list[int]) -> None:
    columns = rows([0, 1, 2, *labels])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=columns["y"].ravel())
    found = class_factors(columns, PLAIN, "balanced")
    assert found is not None
    np.testing.assert_allclose(found, np.asarray(expected, float))


def test_training_weights_give_each_class_the_same_sum_with_weights_of_rows_too() -> None:
    columns = rows([0, 0, 0, 1, 2, 2], age=[1, 2, 3, 4, 5, 6])
    found = training_weights(columns, BY_AGE, "balanced")
    assert found is not None
    sums = [found[columns["y"] == k].sum() for k in range(3)]
    assert sums == pytest.approx([2, 2, 2])
    assert found[1] == pytest.approx(2 * found[0])


def test_training_weights_take_a_number_for_each_class() -> None:
    found = training_weights(rows([0, 1, 2]), PLAIN, json.dumps([1, 2, 3]))
    assert found is not None
    assert found.tolist() == [[0.5], [1], [1.5]]


def test_training_weights_of_other_rows_keep_the_classes_weights_of_train() -> None:
    train = rows([0, 0, 0, 0, 1, 1, 2, 2], age=[1.0] * 8)
    found = training_weights(rows([0, 1, 1], age=[2, 2, 4]), BY_AGE, "balanced", train)
    assert found is not None
    assert (found / found[0]).ravel().tolist() == pytest.approx([1, 2, 4])


def test_evaluation_weights_are_those_of_the_data_alone() -> None:
    columns = rows([0, 1, 2], age=[1, 2, 3], trips=[4, 5, 6])
    assert evaluation_weights(columns, BY_AGE) is None
    found = evaluation_weights(columns, OF_DATA)
    assert found is not None
    assert found.tolist() == [[4], [5], [6]]


@pytest.mark.parametrize("weights", [[1, -1], [1, np.nan], [np.inf, 1], [0, 0]])
def test_training_weights_refuse_what_is_no_weight(weights: list[float]) -> None:
    with pytest.raises(DataError, match="the weight 'age': numbers of 0 or more are needed"):
        training_weights(rows([0, 1], age=weights), BY_AGE)


def test_training_weights_name_a_weight_that_the_preprocessing_does_not_return() -> None:
    with pytest.raises(UserError, match="weight = 'trips': not among the transformed features y;"):
        training_weights(rows([0, 1]), OF_DATA)


def test_class_factors_name_a_class_without_weight() -> None:
    with pytest.raises(DataError, match="no row of 'y' = b, c has a weight"):
        class_factors(rows([0, 0]), PLAIN, "balanced")
