"""The baselines on small tables: what they find, and what they do with odd columns."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ml.baselines import (
    BOOSTING,
    COLUMN,
    CONSTANT,
    Sample,
    explained_shares,
    fit_baselines,
    sampling_step,
)
from ml.scores import headline
from ml.tasks import Task

BINARY = Task("binary", "label")
SPECIES = Task("multiclass", "label", ("a", "b", "c"))
NUMBER = Task("regression", "label")


def table(rows: int, seed: int = 7) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "x": random.normal(size=rows),
            "kind": random.choice(np.array([b"p", b"q", b"r"], object), rows),
            "noise": random.normal(size=rows),
        }
    )


def sample(rows: pd.DataFrame, labels: np.ndarray, weights: np.ndarray | None = None) -> Sample:
    return Sample(rows, labels.astype(float), np.ones(len(rows)) if weights is None else weights)


def labels_of(task: Task, rows: pd.DataFrame) -> np.ndarray:
    score = rows["x"] + (rows["kind"] == b"p") + 0.1 * rows["noise"]
    if task.kind == "regression":
        return score.to_numpy() * 100
    return np.digitize(score, [0.4] if task.kind == "binary" else [0, 1])


@pytest.mark.parametrize("task", [BINARY, SPECIES, NUMBER], ids=lambda task: task.kind)
def test_fit_baselines_are_each_better_than_the_one_before(task: Task) -> None:
    rows, new = table(2000), table(500, seed=8)
    learned, held_out = (sample(part, labels_of(task, part)) for part in (rows, table(300, 9)))
    constant, column, boosting = fit_baselines(task, learned, held_out)
    assert [b.name for b in (constant, column, boosting)] == [CONSTANT, COLUMN, BOOSTING]
    assert column.title == "x alone"
    values = [
        headline(task, labels_of(task, new), each.predict(new))
        for each in (constant, column, boosting)
    ]
    assert None not in values
    losses = [task.headline.loss(value, values[-1]) for value in values if value and values[-1]]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > losses[1] > losses[2] == 0


def test_fit_baselines_chooses_the_column_on_held_out_rows_not_on_those_it_is_fitted_on() -> None:
    rows, held_out = table(400), table(400, seed=8)
    labels, truth = labels_of(BINARY, rows), labels_of(BINARY, held_out)
    rows["learned by heart"] = labels
    held_out["learned by heart"] = np.random.default_rng(1).integers(0, 2, len(held_out))
    _, column, _ = fit_baselines(BINARY, sample(rows, labels), sample(held_out, truth))
    assert column.title == "x alone"


def test_fit_baselines_takes_missing_and_unseen_values_as_values() -> None:
    rows = table(600)
    labels = rows["x"].isna() | (rows["kind"] == b"p")
    rows.loc[::3, "x"] = np.nan
    rows.loc[::5, "kind"] = None
    labels = (rows["x"].isna() | (rows["kind"] == b"p")).to_numpy()
    _, column, boosting = fit_baselines(BINARY, sample(rows, labels), sample(rows, labels))
    assert column.title == "x alone"
    new = rows.head(3).assign(kind=[b"never seen", None, b"p"])
    assert np.isfinite(column.predict(new)).all()
    assert np.isfinite(boosting.predict(new)).all()
    assert headline(BINARY, labels, boosting.predict(rows)) == pytest.approx(1, abs=1e-3)


def test_fit_baselines_weighs_rows() -> None:
    rows = pd.DataFrame({"x": [0.0, 1.0] * 50})
    labels = np.arange(100) % 4 < 2
    weights = np.where(labels, 3.0, 1.0)
    constant, *_ = fit_baselines(
        BINARY, sample(rows, labels, weights), sample(rows, labels, weights)
    )
    assert constant.predict(rows)[0, 0] == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("rows", "labels"),
    [
        (pd.DataFrame({"x": [1.0] * 8}), [0, 1] * 4),  # No column varies.
        (pd.DataFrame({"x": np.arange(8.0)}), [1] * 8),
        (pd.DataFrame({"x": np.arange(8.0)}), [np.nan] * 8),
        (pd.DataFrame({"x": [np.nan] * 8}), [0, 1] * 4),
    ],
)
def test_fit_baselines_has_a_constant_alone_where_nothing_can_be_learned(
    rows: pd.DataFrame, labels: list[float]
) -> None:
    known = sample(rows, np.array(labels))
    (constant,) = fit_baselines(BINARY, known, known)
    assert constant.name == CONSTANT
    assert np.isfinite(constant.predict(rows)).all()


def test_fit_baselines_predicts_no_share_for_a_class_that_no_row_has() -> None:
    rows = table(300)
    labels = 2 * labels_of(BINARY, rows)
    *_, boosting = fit_baselines(SPECIES, sample(rows, labels), sample(rows, labels))
    assert (boosting.predict(rows)[:, 1] == 0).all()


def test_fit_baselines_takes_categories_with_thousands_of_values_and_a_class_of_one_row() -> None:
    rows = table(12_000)
    rows["id"] = np.array([str(i % 6000).encode() for i in range(len(rows))], object)
    labels = labels_of(SPECIES, rows) * 0 + (rows["x"] > 0).to_numpy()
    labels[7] = 2
    *_, boosting = fit_baselines(SPECIES, sample(rows, labels), sample(rows[:50], labels[:50]))
    assert headline(SPECIES, labels, boosting.predict(rows)) > 0.95  # type: ignore[operator]


def test_fit_baselines_is_quick_and_good_on_a_wide_table_of_many_classes() -> None:
    """Images of digits, 64 columns of ten classes, four times side by side."""
    from sklearn.datasets import load_digits

    images, digits = load_digits(return_X_y=True)
    rows = pd.DataFrame(np.tile(images, 4)).add_prefix("pixel")
    task = Task("multiclass", "digit", tuple(map(str, range(10))))
    learned, held_out, new = (
        sample(rows[part].reset_index(drop=True), digits[part])
        for part in (slice(0, 1000), slice(1000, 1300), slice(1300, None))
    )
    *_, boosting = fit_baselines(task, learned, held_out)
    assert headline(task, new.labels, boosting.predict(new.rows)) > 0.9  # type: ignore[operator]


def test_explained_shares_tell_a_copy_of_the_label_from_a_good_feature() -> None:
    for task in (BINARY, SPECIES, NUMBER):
        rows = table(2000)
        labels = labels_of(task, rows)
        rows["copy"] = labels * 2.5 + 1
        rows["as text"] = np.array([str(label).encode() for label in labels], object)
        rows["absent"] = np.where(labels == labels.max(), np.nan, rows["noise"])
        learned, held_out = (
            sample(rows[half].reset_index(drop=True), labels[half])
            for half in (slice(0, 1000), slice(1000, None))
        )
        shares = explained_shares(task, learned, held_out)
        assert shares["copy"] > 0.99
        assert shares["x"] < 0.9
        assert shares["noise"] < 0.1
        if task != NUMBER:
            assert shares["as text"] > 0.98
        if task == BINARY:
            assert shares["absent"] > 0.99


def test_explained_shares_of_an_id_are_none() -> None:
    rows = table(2000)
    labels = labels_of(BINARY, rows)
    rows["id"] = np.array([str(i).encode() for i in range(2000)], object)
    learned, held_out = (
        sample(rows[half].reset_index(drop=True), labels[half])
        for half in (slice(0, 1000), slice(1000, None))
    )
    assert abs(explained_shares(BINARY, learned, held_out)["id"]) < 0.05


def test_sampling_step_bounds_the_values_of_a_table() -> None:
    assert sampling_step(1000, 784) == 1
    assert sampling_step(160_000, 16) == 1
    assert sampling_step(10_000_000, 16) == 50
    assert sampling_step(60_000, 784) == 12
