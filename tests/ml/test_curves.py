"""Curves of models: bounded, right where they can be compared, and absent where undefined."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from ml.curves import draw_curves
from ml.tasks import Task

SICK = Task("binary", "sick")
KINDS = Task("multiclass", "kind", tuple("abc"))
FARE = Task("regression", "fare")
TASKS = (SICK, KINDS, FARE)
HUGE = 1e30


def rows_of(task: Task, rows: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, predictions that know something of them, and weights."""
    rng = np.random.default_rng(seed)
    if task.kind == "regression":
        labels = rng.normal(10, 3, rows)
        return labels, labels[:, None] + rng.normal(1, 2, (rows, 1)), rng.random(rows) + 0.5
    labels = rng.integers(0, len(task.classes), rows).astype(float)
    if task.kind == "binary":
        return labels, (0.5 * labels + 0.5 * rng.random(rows))[:, None], rng.random(rows) + 0.5
    scores = rng.random((rows, len(task.classes))) + np.eye(len(task.classes))[labels.astype(int)]
    return labels, scores / scores.sum(axis=1, keepdims=True), rng.random(rows) + 0.5


def test_curves_of_a_binary_task_have_the_area_of_its_auc() -> None:
    labels, predictions, weights = rows_of(SICK, 5000)
    curves = draw_curves(SICK, labels, predictions, weights)
    roc = curves["roc"]
    assert 100 < len(roc["true_positive_rate"]) <= 202
    area = np.trapezoid if hasattr(np, "trapezoid") else np.trapz
    auc = roc_auc_score(labels, predictions[:, 0], sample_weight=weights)
    found = area(roc["true_positive_rate"], roc["false_positive_rate"])
    assert found == pytest.approx(auc, abs=2e-3)
    shares = [sum(curves["scores"][name]) for name in ("negative", "positive")]
    assert sum(shares) == pytest.approx(1, abs=1e-3)
    for group in curves["calibration"]:
        assert group["low"] <= group["share"] <= group["high"]
    at = {row["threshold"]: row for row in curves["thresholds"]}
    chosen = predictions[:, 0] >= 0.5
    assert at[0.5]["selection_rate"] == pytest.approx(np.average(chosen, weights=weights))


def test_curves_of_classes_count_every_row_once_and_join_the_smallest_of_many() -> None:
    labels, predictions, weights = rows_of(KINDS, 600)
    counts = np.array(draw_curves(KINDS, labels, predictions, weights)["confusion"]["counts"])
    assert counts.sum() == pytest.approx(weights.sum(), abs=0.1)
    right = weights[predictions.argmax(axis=1) == labels].sum()
    assert np.trace(counts) == pytest.approx(right, abs=0.1)
    many = Task("multiclass", "kind", tuple(f"k{n}" for n in range(100)))
    labels, predictions, weights = rows_of(many, 3000)
    curves = draw_curves(many, labels, predictions, weights)
    assert curves["confusion"]["classes"][-1] == "81 others"
    assert np.sum(curves["confusion"]["counts"]) == pytest.approx(weights.sum(), abs=0.5)
    assert len(curves["roc"]) == 6


def test_curves_of_a_regression_show_all_residuals_but_the_furthest() -> None:
    labels, predictions, weights = rows_of(FARE, 4000)
    predictions[0] = HUGE
    residuals = draw_curves(FARE, labels, predictions, weights)["residuals"]
    total = sum(residuals["shares"]) + residuals["below"] + residuals["above"]
    assert total == pytest.approx(1, abs=1e-3)
    assert residuals["edges"][-1] < 100
    assert 0 < residuals["above"] < 0.02


def test_curves_of_one_class_are_absent() -> None:
    curves = draw_curves(SICK, np.zeros(20), np.full(20, 0.3), np.ones(20))
    assert curves["roc"] is None
    assert curves["precision_recall"] is None
    assert curves["calibration"][0]["share"] == 0


VALUES = st.one_of(st.just(np.nan), st.just(np.inf), st.floats(-2, 2), st.just(HUGE))


@given(data=st.data(), task=st.sampled_from(TASKS), rows=st.integers(0, 40))
def test_curves_of_any_rows_are_bounded_json_without_nan(data: Any, task: Task, rows: int) -> None:
    outputs = task.outputs
    numbers = st.lists(VALUES, min_size=rows * outputs, max_size=rows * outputs)
    predictions = np.array(data.draw(numbers), float).reshape(rows, outputs)
    classes = st.integers(0, max(len(task.classes) - 1, 0))
    labels = np.array(data.draw(st.lists(classes, min_size=rows, max_size=rows)), float)
    weights = np.array(
        data.draw(st.lists(st.sampled_from([0.0, 1.0]), min_size=rows, max_size=rows))
    )
    text = json.dumps(draw_curves(task, labels, predictions, weights), allow_nan=False)
    assert len(text) < 30_000
