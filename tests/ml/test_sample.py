"""How many rows a verdict needs, and how far a metric of few rows may be off."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ml.metrics import ACCURACY, AUC, RMSE
from ml.sample import Sample
from ml.tasks import Task

BINARY = Task("binary", "tip")
CLASSES = Task("multiclass", "species", ("a", "b", "c"))
NUMBER = Task("regression", "fare")


@pytest.mark.parametrize(
    ("task", "classes", "enough"),
    [
        (BINARY, (11, 11), True),
        (BINARY, (10, 10), False),
        (BINARY, (10_000, 6), True),
        (BINARY, (10_000, 5), False),
        (BINARY, (500, 0), False),
        (CLASSES, (6, 5, 5), True),
        (CLASSES, (5, 5, 5), False),
        (CLASSES, (0, 0, 0), False),
        (NUMBER, (31,), True),
        (NUMBER, (30,), False),
    ],
)
def test_sample_shortage_of_a_task(task: Task, classes: tuple[int, ...], enough: bool) -> None:
    shortage = Sample(sum(classes), classes).shortage(task)
    assert (shortage == "") == enough
    if not enough:
        assert shortage.startswith(f"{sum(classes):,} rows")
        assert shortage.endswith("needed to tell")


def test_sample_deviation_of_an_auc_is_that_of_samples_of_such_scores() -> None:
    rng, found = np.random.default_rng(1), []
    labels = np.repeat([0, 1], [60, 40])
    for _ in range(400):
        # Exponential scores, which Hanley and McNeil assume.
        scores = rng.exponential(1 + 2 * labels)
        found.append(roc_auc_score(labels, scores))
    deviation = Sample(100, (60, 40)).deviation(AUC, float(np.mean(found)))
    assert deviation == pytest.approx(np.std(found), rel=0.15)


def test_sample_deviation_is_not_0_where_no_row_is_wrong() -> None:
    sample = Sample(69, (30.0, 39.0))
    assert 0.015 < sample.deviation(ACCURACY, 1.0) < 0.025
    assert 0.01 < sample.deviation(AUC, 1.0) < 0.04
    assert sample.deviation(RMSE, 0.0) == 0
