"""Tests of a task's part of the graph: the encoded label, and the output layer."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from hypothesis import given
from hypothesis import strategies as st

from ml.task_layers import encode_label, label_and_weight, output_layer
from ml.tasks import Task
from storage.errors import DataError

FARE = Task("regression", "fare")


@given(
    classes=st.sampled_from(
        [
            ("no", "yes", "perhaps"),
            ("0", "1", "2"),
            ("-5", "300", "7"),
            ("0.5", "1.5", "2"),
            ("grün", "", "b"),
        ]
    ),
    rows=st.lists(st.integers(-1, 2), min_size=1, max_size=20),
)
def test_encode_label_gives_the_ids_that_the_task_gives(
    classes: tuple[str, ...], rows: list[int]
) -> None:
    task = Task("multiclass", "kind", classes)
    numbers = list(task.class_numbers())
    known: list[Any] = [*(numbers or classes), 99 if numbers else "unknown"]
    values = np.array([known[row] for row in rows])
    if values.dtype.kind == "f":
        values = values.astype(np.float32)
    found = encode_label(task, tf.constant(values[:, np.newaxis]))
    assert found.dtype == tf.int64
    assert found.shape == (len(rows), 1)
    np.testing.assert_array_equal(found.numpy().ravel(), rows)
    np.testing.assert_array_equal(np.nan_to_num(task.encode(values), nan=-1), rows)


@pytest.mark.parametrize(
    ("classes", "label", "expected"),
    [
        (("false", "true"), tf.constant([[1], [0], [2]], tf.int64), [1, 0, -1]),
        (("0", "1"), tf.constant([[1.0], [math.nan], [0.5]]), [1, -1, -1]),
        (("0", "1.5"), tf.constant([[0], [1]], tf.int64), [0, -1]),
        (("no", "yes"), tf.constant([[""], ["yes"]]), [-1, 1]),
        (("no", "yes"), tf.constant(["yes", "no"]), [1, 0]),
    ],
)
def test_encode_label_gives_minus_one_to_what_is_no_class(
    classes: tuple[str, str], label: tf.Tensor, expected: list[int]
) -> None:
    found = encode_label(Task("binary", "tip", classes), label)
    assert found.shape == (len(expected), 1)
    assert found.numpy().ravel().tolist() == expected


@pytest.mark.parametrize("label", [tf.constant([[3], [-1]], tf.int64), tf.constant([[3.0], [-1]])])
def test_encode_label_of_a_regression_is_the_number(label: tf.Tensor) -> None:
    found = encode_label(FARE, label)
    assert found.dtype == tf.float32
    assert found.numpy().tolist() == [[3.0], [-1.0]]


@pytest.mark.parametrize(
    ("task", "label", "message"),
    [
        (FARE, tf.constant([["3"]]), "label 'fare': it is text; a regression needs numbers"),
        (
            Task("binary", "tip", ("no", "yes")),
            tf.constant([[1]]),
            "label 'tip': it is a number; the classes no, yes are not numbers",
        ),
        (
            FARE,
            tf.sparse.from_dense([[1.0]]),
            r"label 'fare': the schema has to give it shape \{ dim \{ size: 1 \} \}",
        ),
    ],
)
def test_encode_label_refuses_a_label_of_another_type(
    task: Task, label: tf.Tensor, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        encode_label(task, label)


@pytest.mark.parametrize(
    ("task", "logits", "expected"),
    [
        (Task("binary", "tip"), [[0.0], [math.log(3)]], [[0.5], [0.75]]),
        (
            Task("multiclass", "kind", ("a", "b", "c")),
            [[0.0, 0.0, math.log(2)]],
            [[0.25, 0.25, 0.5]],
        ),
    ],
)
def test_output_layer_of_classes_gives_probabilities(
    task: Task, logits: list[list[float]], expected: list[list[float]]
) -> None:
    inputs = tf_keras.Input((task.outputs,))
    network = tf_keras.Model(inputs, output_layer(task, inputs, "share"))
    assert network.output_names == ["share"]
    np.testing.assert_allclose(network(tf.constant(logits)), expected, rtol=1e-6)


def test_output_layer_of_a_regression_is_in_the_unit_of_the_label() -> None:
    labels = np.array([[1e6], [1e6 + 2], [1e6 + 4]], np.float32)
    inputs = tf_keras.Input((1,))
    network = tf_keras.Model(inputs, output_layer(FARE, inputs, "fare", labels))
    found = network(tf.constant([[0.0], [1.0], [-2.0]])).numpy().ravel()
    np.testing.assert_allclose(found - 1e6, [2, 3.63, -1.27], atol=0.1)


def test_output_layer_of_a_regression_whose_labels_are_all_the_same_adds_them() -> None:
    inputs = tf_keras.Input((1,))
    network = tf_keras.Model(inputs, output_layer(FARE, inputs, "fare", np.full((9, 1), 4.0)))
    assert network(tf.constant([[0.0], [1.0]])).numpy().tolist() == [[4.0], [5.0]]


def test_output_layer_of_a_regression_needs_the_labels() -> None:
    with pytest.raises(ValueError, match="a regression needs the labels of train"):
        output_layer(FARE, tf_keras.Input((1,)), "fare")


def test_label_and_weight_returns_the_weight_of_the_data_as_a_float() -> None:
    inputs = {"fare": tf.constant([[5.0], [6.0]]), "trips": tf.constant([[1], [3]], tf.int64)}
    assert list(label_and_weight(FARE, inputs)) == ["fare"]
    weighted = Task("regression", "fare", example_weight="trips")
    found = label_and_weight(weighted, inputs)
    assert list(found) == ["fare", "trips"]
    assert found["trips"].dtype == tf.float32
    assert found["trips"].numpy().tolist() == [[1.0], [3.0]]
    named = Task("regression", "fare", weight="weight", example_weight="trips")
    assert list(label_and_weight(named, inputs)) == ["fare", "weight"]
