"""Targets that a float model gives its compressed copy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tf_keras
from hypothesis import given
from hypothesis import strategies as st

from ml import distillation, stored_columns
from ml.distillation import soft_targets, teach, without_regularization
from ml.fit import FitSettings, fine_tune
from ml.tasks import Task

BINARY = Task("binary", "tip", ("no", "yes"))
KINDS = Task("multiclass", "kind", ("a", "b", "c"))
PRICE = Task("regression", "price")
layers = tf_keras.layers


@given(share=st.floats(0, 1), label=st.integers(0, 2), seed=st.integers(0, 99))
def test_soft_targets_of_classes_are_probabilities(share: float, label: int, seed: int) -> None:
    predictions = np.random.default_rng(seed).dirichlet(np.ones(3), 4)
    targets = soft_targets(KINDS, np.full((4, 1), label), predictions, share)
    np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-6)
    expected = share * predictions[:, label] + 1 - share
    np.testing.assert_allclose(targets[:, label], expected, rtol=1e-5)


@pytest.mark.parametrize("task", [BINARY, PRICE])
def test_soft_targets_mix_labels_and_predictions(task: Task) -> None:
    targets = soft_targets(task, np.array([[1], [0]]), np.array([0.5, 0.25]), 0.5)
    np.testing.assert_allclose(targets, [[0.75], [0.125]])


def network(task: Task) -> tf_keras.Model:
    inputs = tf_keras.Input((3,), name="x")
    hidden = layers.GaussianNoise(0.1)(inputs)
    hidden = layers.Dense(8, "relu", kernel_regularizer="l2")(hidden)
    hidden = layers.SpatialDropout1D(0.3)(layers.Reshape((1, 8))(hidden))
    hidden = layers.Dropout(0.5)(layers.Flatten()(hidden))
    return tf_keras.Model(inputs, layers.Dense(task.outputs, task.activation)(hidden))


def test_without_regularization_trains_as_it_predicts() -> None:
    rows = np.random.default_rng(1).normal(size=(50, 3)).astype(np.float32)
    regular = network(PRICE)
    relaxed = without_regularization(regular)
    assert regular.losses
    assert not relaxed.losses
    assert not np.allclose(regular(rows, training=True), regular(rows))
    np.testing.assert_array_equal(relaxed(rows, training=True), regular(rows))


@pytest.mark.parametrize("task", [BINARY, KINDS, PRICE], ids=lambda task: task.kind)
def test_fine_tune_with_targets_comes_nearer_to_the_teacher(task: Task) -> None:
    random = np.random.default_rng(1)
    rows = random.normal(size=(600, 3)).astype(np.float32)
    columns: dict[str, np.ndarray] = {
        "x": rows,
        task.label: random.integers(0, task.outputs, (600, 1)),
    }
    teacher, student = network(task), without_regularization(network(task))
    targets = teach(teacher, columns, task, 1.0)
    assert targets is not None
    before = np.abs(student(rows) - targets).mean()
    settings = FitSettings(task, "", "", 20, 32, 0.01, 7)
    fine_tune(student, columns, settings, targets=targets)
    assert np.abs(student(rows) - targets).mean() < before / 2


@pytest.mark.parametrize("task", [BINARY, KINDS, PRICE], ids=lambda task: task.kind)
def test_teach_in_parts_gives_the_targets_of_all_rows(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(1)
    columns: dict[str, np.ndarray] = {
        "x": random.normal(size=(50, 3)).astype(np.float32),
        task.label: random.integers(0, task.outputs, (50, 1)),
    }
    teacher = network(task)
    expected = teach(teacher, columns, task, 0.5)
    mixed: list[int] = []

    def count(task: Task, labels: np.ndarray, *rest: Any) -> np.ndarray:
        mixed.append(len(labels))
        return soft_targets(task, labels, *rest)

    monkeypatch.setattr(distillation, "soft_targets", count)
    monkeypatch.setattr(stored_columns, "_PART_ROWS", 16)
    found = teach(teacher, columns, task, 0.5)
    assert expected is not None
    assert found is not None
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert mixed == [16, 16, 16, 2]


def test_teach_gives_no_targets_where_only_labels_count() -> None:
    assert teach(network(PRICE), {}, PRICE, 0.0) is None
