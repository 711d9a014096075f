"""Tests of columns in files: what is learned of them, and in which order."""

from __future__ import annotations

import dataclasses
import gc
import tempfile
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tf_keras

from ml import stored_columns
from ml.determinism import make_deterministic
from ml.distillation import teach
from ml.fit import FineTuning, FitSettings, evaluate
from ml.scores import measure
from ml.stored_columns import (
    Batches,
    Columns,
    ColumnWriter,
    count_not_finite,
    is_stored,
    parts,
    predict,
    take,
)
from ml.tasks import Task
from ml.training import TrainingData, fit
from storage.errors import UserError
from tests.ml.test_training import REACHED, TASKS, build, draw, learning

SPECIES = Task("multiclass", "y", ("a", "b", "c"))


def store(columns: Columns) -> Columns:
    """The same columns in files, written in two batches."""
    writer = ColumnWriter()
    half = len(next(iter(columns.values()))) // 2
    for some in (slice(None, half), slice(half, None)):
        writer.add({name: column[some] for name, column in columns.items()})
    return writer.close()


def weighted(task: Task, rows: int, seed: int) -> Columns:
    columns = draw(task, rows, seed)
    return columns | {"weight": np.linspace(0.5, 1.5, rows, dtype=np.float32)[:, None]}


def test_column_writer_keeps_values_types_and_texts() -> None:
    columns: Columns = {
        "ids": np.arange(7)[:, None],
        "numbers": np.linspace(0, 1, 21, dtype=np.float32).reshape(7, 3),
        "text": np.array([[str(i).encode()] for i in range(7)], object),
    }
    stored = store(columns)
    assert is_stored(stored)
    assert not is_stored(columns)
    for name, column in columns.items():
        assert stored[name].dtype == column.dtype
        np.testing.assert_array_equal(stored[name], column)


def test_column_writer_refuses_rows_of_another_shape() -> None:
    writer = ColumnWriter()
    writer.add({"x": np.zeros((2, 3), np.float32)})
    with pytest.raises(ValueError, match=r"x is float32 \(2,\) in some rows"):
        writer.add({"x": np.zeros((2, 2), np.float32)})


def test_column_files_are_gone_with_their_arrays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def mapped() -> int:
        return Path("/proc/self/maps").read_text().count(str(tmp_path))

    stored = store({"x": np.zeros((1000, 4), np.float32)})
    assert not [*tmp_path.iterdir()]  # A killed node leaves nothing.
    assert mapped() == 1
    del stored
    gc.collect()
    assert mapped() == 0


def test_parts_cover_every_row_in_order() -> None:
    columns = store({"x": np.arange(10)[:, None]})
    found = [part["x"].ravel().tolist() for part in parts(columns, 4)]
    assert found == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_take_keeps_more_rows_than_memory_should_hold_in_files(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stored_columns, "_PART_ROWS", 8)
    columns = store({"x": np.arange(100)[:, None]})
    places = np.arange(0, 100, 3)
    for most in (len(places), len(places) - 1):
        found = take(columns, places, most)
        assert is_stored(found) == (most < len(places))
        np.testing.assert_array_equal(found["x"], columns["x"][places])


def test_count_not_finite_counts_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = np.zeros((10, 3), np.float32)
    numbers[3, 1:], numbers[9, 0] = np.nan, np.inf
    assert count_not_finite(store({"x": numbers})["x"]) == count_not_finite(numbers) == 2
    assert count_not_finite(np.arange(4)[:, None]) == 0


def passes(batches: Batches, count: int) -> list[np.ndarray]:
    """The labels of some passes, in the order of the rows."""
    data = batches.dataset()
    return [np.concatenate([rows[1].numpy().ravel() for rows in data]) for _ in range(count)]


@pytest.mark.parametrize("rows", [1, 255, 1000])
def test_batches_shuffle_each_pass_in_another_order_by_the_seed(
    monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(stored_columns, "_CHUNK_ROWS", 8)
    monkeypatch.setattr(stored_columns, "_SHUFFLED_ROWS", 64)
    labels = np.arange(rows)[:, None]
    inputs = store({"x": labels.astype(np.float32)})

    def some(seed: int | None) -> list[np.ndarray]:
        return passes(Batches(inputs, labels, None, 32, seed), 2)

    first, again, other, in_order = some(7), some(7), some(8), some(None)
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(np.sort(one), labels.ravel())
    np.testing.assert_array_equal(in_order[0], labels.ravel())
    if rows > 1:
        assert not np.array_equal(first[0], first[1])
        assert not np.array_equal(first[0], other[0])
        # From everywhere: the first batch is no run of neighbours.
        assert np.ptp(first[0][:32]) > rows / 2


def test_batches_keep_inputs_labels_and_weights_of_a_row_together() -> None:
    labels = np.arange(100.0, dtype=np.float32)[:, None]
    inputs = store({"x": 2 * labels})
    for given, truth, weights in Batches(inputs, labels, 3 * labels, 16, 1).dataset():
        np.testing.assert_array_equal(given["x"], 2 * truth)
        np.testing.assert_array_equal(weights, 3 * truth)


def test_fit_learns_as_well_of_columns_in_files(tmp_path: Path) -> None:
    task = dataclasses.replace(SPECIES, weight="weight")
    config = learning(task, epochs=10, patience=0)
    train, evaluation = weighted(task, 1500, 1), weighted(task, 400, 2)

    def run(data: TrainingData) -> tuple[np.ndarray, dict[str, Any]]:
        make_deterministic(config.seed)
        network = build(task, data.labels)
        summary = fit(network, data, str(tmp_path))
        return predict(network, {"numbers": evaluation["numbers"]}, 128), summary

    data = TrainingData(config, None, store(train), store(evaluation))
    found, summary = run(data)
    name, least = REACHED[task.kind]
    assert summary["metrics"][name] > least
    assert summary["metrics"] == pytest.approx(measure(task, evaluation["y"], found), rel=1e-4)
    again, _ = run(data)
    np.testing.assert_array_equal(found, again)


def test_fit_counts_the_rows_of_files_that_are_not_finite(tmp_path: Path) -> None:
    task = TASKS["binary"]
    rows = draw(task, 300, 1)
    rows["numbers"][[5, 290]] = np.nan
    data = TrainingData(learning(task), None, store(rows), draw(task, 100, 2))
    with pytest.raises(UserError, match="NaN or infinite in 2 of 300 rows"):
        fit(build(task, data.labels), data, str(tmp_path))


def test_rows_of_a_training_are_free_when_it_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[Batches]] = []
    init = Batches.__init__

    def remember(self: Batches, *arguments: Any) -> None:
        init(self, *arguments)
        made.append(weakref.ref(self))

    monkeypatch.setattr(Batches, "__init__", remember)
    columns, settings = store(draw(SPECIES, 600, 1)), FitSettings(SPECIES, "", "", 2, 32, 0.02, 7)
    training = FineTuning(build(SPECIES, columns["y"]), columns, settings)
    for steps in (5, 0):  # A pass that is not finished, and whole ones.
        training.run(steps)
    gc.collect()
    assert [batches() for batches in made] == [None, None]


def test_fine_tuning_of_columns_in_files_starts_again_with_the_same_rows() -> None:
    columns = store(draw(SPECIES, 600, 1))
    network = build(SPECIES, columns["y"])
    settings = FitSettings(SPECIES, "", "", 3, 32, 0.02, 7)
    targets = teach(network, columns, SPECIES, 0.5)
    training = FineTuning(network, columns, settings, targets)
    found = []
    for steps in (5, 0, 5):
        training.run(steps)
        found.append(network.get_weights())
    for one, two in zip(found[0], found[2], strict=True):
        np.testing.assert_array_equal(one, two)
    whole, memory = evaluate(network, columns, settings), dict(draw(SPECIES, 600, 1))
    assert whole["metrics"] == pytest.approx(evaluate(network, memory, settings)["metrics"])


def test_predict_in_parts_is_predict_of_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = draw(SPECIES, 600, 1)
    network = build(SPECIES, columns["y"])
    inputs = {"numbers": columns["numbers"]}
    expected = network.predict(inputs, batch_size=64, verbose=0)
    monkeypatch.setattr(stored_columns, "_PART_ROWS", 128)
    assert isinstance(network, tf_keras.Model)
    np.testing.assert_array_equal(predict(network, store(inputs), 64), expected)
