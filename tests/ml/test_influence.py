"""Tests that influences say how far metrics are from their true values."""

from __future__ import annotations

import numpy as np
import pytest

from ml.influence import influences, row_losses
from ml.scores import measure
from ml.tasks import Task

BINARY = Task("binary", "y")
CLASSES = Task("multiclass", "y", ("a", "b", "c"))
NUMBER = Task("regression", "y")
TASKS = [BINARY, CLASSES, NUMBER]
Rows = tuple[np.ndarray, np.ndarray, np.ndarray]


def draw(task: Task, random: np.random.Generator, rows: int = 400) -> Rows:
    weights = random.uniform(0.5, 2.0, rows)
    if task.kind == "regression":
        labels = random.normal(5, 3, rows)
        return labels, (labels + random.normal(0.3, 1, rows))[:, None], weights
    labels = random.integers(0, len(task.classes), rows).astype(float)
    if task.kind == "binary":
        scores = 1 / (1 + np.exp(-(labels - 0.7 + random.normal(0, 1, rows))))
        return labels, np.round(scores, 2)[:, None], weights  # With ties.
    scores = np.exp(np.eye(3)[labels.astype(int)] + random.normal(0, 1, (rows, 3)))
    return labels, scores / scores.sum(axis=1, keepdims=True), weights


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.kind)
def test_influences_have_the_spread_of_the_metric_in_other_samples(task: Task) -> None:
    random = np.random.default_rng(3)
    samples = [draw(task, random) for _ in range(300)]
    values = [measure(task, *sample) for sample in samples]
    found = [influences(task, *sample) for sample in samples[:30]]
    assert set(found[0]) == set(values[0]) - {"auc_pr"} - (
        {"calibration"} if task is CLASSES else set()
    )
    for name in found[0]:
        by_chance = np.std([value[name] or np.nan for value in values])
        expected = np.mean([np.sqrt((one[name] ** 2).sum()) for one in found])
        assert expected == pytest.approx(by_chance, rel=0.15), name
        assert found[0][name].sum() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.kind)
def test_influences_foretell_the_metric_without_a_few_rows(task: Task) -> None:
    labels, predictions, weights = draw(task, np.random.default_rng(4))
    whole, part = influences(task, labels, predictions, weights), slice(4, None)
    before = measure(task, labels, predictions, weights)
    after = measure(task, labels[part], predictions[part], weights[part])
    for name, rows in whole.items():
        foretold = before[name] - rows[:4].sum()
        assert after[name] == pytest.approx(foretold, abs=0.05 * abs(rows).max() * 8), name


def test_influences_leave_out_what_the_rows_do_not_define() -> None:
    labels, scores, weights = np.ones(5), np.full((5, 1), 0.3), np.ones(5)
    assert set(influences(BINARY, labels, scores, weights)) == {"log_loss", "calibration"}
    assert influences(BINARY, labels[:0], scores[:0], weights[:0]) == {}
    assert "r2" not in influences(NUMBER, labels, scores, weights)
    # A model that is always right.
    assert not influences(NUMBER, labels, labels[:, None], weights)["rmse"].any()


@pytest.mark.parametrize("task", [BINARY, CLASSES], ids=lambda task: task.kind)
def test_row_losses_have_the_log_loss_as_their_mean(task: Task) -> None:
    labels, predictions, weights = draw(task, np.random.default_rng(5))
    mean = np.average(row_losses(task, labels, predictions), weights=weights)
    assert mean == pytest.approx(measure(task, labels, predictions, weights)["log_loss"])
