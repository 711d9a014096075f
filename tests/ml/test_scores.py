"""Tests of the metrics in memory, against scikit-learn."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from ml.scores import headline, measure
from ml.tasks import Task

BINARY = Task("binary", "tip")
THREE = Task("multiclass", "kind", ("a", "b", "c"))
FARE = Task("regression", "fare")
ROWS = 300


def draw(task: Task, seed: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, predictions that know something of them, and weights."""
    random = np.random.default_rng(seed)
    weights = random.uniform(0.2, 3, ROWS)
    if task.kind == "regression":
        fares = random.gamma(2, 5, ROWS)
        return fares, (fares + random.normal(1, 3, ROWS))[:, np.newaxis], weights
    count = len(task.classes)
    labels = random.integers(0, count, ROWS)
    logits = random.normal(size=(ROWS, count)) + 1.2 * np.eye(count)[labels]
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return labels, shares[:, 1:] if task.kind == "binary" else shares, weights


def test_measure_of_a_binary_task_is_that_of_scikit_learn() -> None:
    labels, predictions, weights = draw(BINARY)
    found = measure(BINARY, labels, predictions, weights)
    scores = predictions[:, 0]
    assert list(found) == ["auc", "auc_pr", "log_loss", "calibration"]
    known = {"sample_weight": weights}
    assert found["auc"] == pytest.approx(metrics.roc_auc_score(labels, scores, **known))
    assert found["auc_pr"] == pytest.approx(
        metrics.average_precision_score(labels, scores, **known)
    )
    assert found["log_loss"] == pytest.approx(metrics.log_loss(labels, scores, **known))
    assert found["calibration"] == pytest.approx((weights @ scores) / (weights @ labels))


def test_measure_of_a_multiclass_task_is_that_of_scikit_learn() -> None:
    labels, predictions, weights = draw(THREE)
    found = measure(THREE, labels, predictions, weights)
    assert list(found) == ["accuracy", "macro_auc", "log_loss", "calibration"]
    known = {"sample_weight": weights}
    right = metrics.accuracy_score(labels, predictions.argmax(axis=1), **known)
    area = metrics.roc_auc_score(labels, predictions, multi_class="ovr", **known)
    assert found["accuracy"] == pytest.approx(right)
    assert found["macro_auc"] == pytest.approx(area)
    assert found["log_loss"] == pytest.approx(metrics.log_loss(labels, predictions, **known))
    ratios = [weights @ predictions[:, k] / (weights @ (labels == k)) for k in range(3)]
    assert found["calibration"] == pytest.approx(max(ratios, key=lambda r: abs(math.log(r))))


def test_measure_of_a_regression_is_that_of_scikit_learn() -> None:
    labels, predictions, weights = draw(FARE)
    found = measure(FARE, labels, predictions, weights)
    assert list(found) == ["rmse", "mae", "r2", "bias"]
    known = {"sample_weight": weights}
    squared = metrics.mean_squared_error(labels, predictions[:, 0], **known)
    absolute = metrics.mean_absolute_error(labels, predictions[:, 0], **known)
    assert found["rmse"] == pytest.approx(math.sqrt(squared))
    assert found["mae"] == pytest.approx(absolute)
    assert found["r2"] == pytest.approx(metrics.r2_score(labels, predictions[:, 0], **known))
    assert found["bias"] == pytest.approx(np.average(predictions[:, 0] - labels, weights=weights))


@pytest.mark.parametrize(
    ("task", "labels", "predictions", "undefined"),
    [
        (BINARY, [1, 1], [0.2, 0.7], {"auc", "auc_pr"}),
        (BINARY, [0, 0], [0.2, 0.7], {"auc", "auc_pr", "calibration"}),
        (BINARY, [], [], {"auc", "auc_pr", "log_loss", "calibration"}),
        (BINARY, [0, 1], [0.5, math.nan], {"auc", "auc_pr", "log_loss", "calibration"}),
        (THREE, [1, 1], [[0.1, 0.8, 0.1]] * 2, {"macro_auc"}),
        (THREE, [0, 1], [[0.0] * 3] * 2, {"log_loss", "calibration"}),
        (FARE, [5.0, 5.0], [4.0, 5.0], {"r2"}),
        (FARE, [5.0], [4.0], {"r2"}),
        (FARE, [1e300, 0.0], [-1e300, 0.0], {"rmse", "r2"}),
        (FARE, [1.0, 2.0], [math.inf, 2.0], {"rmse", "mae", "r2", "bias"}),
    ],
)
def test_measure_is_none_where_the_rows_do_not_define_a_metric(
    task: Task, labels: list[float], predictions: Any, undefined: set[str]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = measure(task, np.array(labels), np.array(predictions, float))
    assert {name for name, value in found.items() if value is None} == undefined
    assert all(value is None or math.isfinite(value) for value in found.values())


@pytest.mark.parametrize("task", [BINARY, THREE, FARE], ids=lambda task: task.kind)
def test_measure_leaves_out_rows_of_weight_zero(task: Task) -> None:
    labels, predictions, weights = draw(task)
    weights[100:] = 0
    kept = measure(task, labels[:100], predictions[:100], weights[:100])
    predictions[100:] = math.nan
    assert measure(task, labels, predictions, weights) == kept
    assert set(measure(task, labels, predictions, 0 * weights).values()) == {None}


@given(st.integers(0, 2**32 - 1))
def test_measure_counts_a_row_of_weight_two_as_two_rows(seed: int) -> None:
    for task in (BINARY, THREE, FARE):
        labels, predictions, _ = draw(task, seed)
        twice = np.random.default_rng(seed).integers(1, 3, ROWS)
        expected = measure(task, np.repeat(labels, twice), np.repeat(predictions, twice, axis=0))
        found = measure(task, labels, predictions, twice[:, np.newaxis])
        assert found == pytest.approx(expected)


def test_headline_is_the_first_metric() -> None:
    for task in (BINARY, THREE, FARE):
        labels, predictions, _ = draw(task)
        found = measure(task, labels[:, np.newaxis], predictions)
        assert headline(task, labels, predictions) == next(iter(found.values()))
