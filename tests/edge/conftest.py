"""The models that the examples of examples/edge run, with rows and what TensorFlow predicts."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from ml.names import graph_names
from storage.names import RAW_SIGNATURE, TFLITE_MODEL
from tests.components.conftest import run_component  # noqa: F401  A fixture.
from tests.components.odd_names import NAMES, TEXTS, VECTORS, WIDTH, make_odd_model
from tests.conftest import Cli, read_month, thin
from tests.trips.features import RAW_FEATURES, SCHEDULE, VOCABULARIES

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Deployed:
    """A model and rows.

    Attributes:
      folder: Of the SavedModel, with its `model.tflite`.
      rows: Raw features as JSON has them; what is None, or not there, is absent.
      expected: What TensorFlow predicts for them with the SavedModel, [rows, outputs].
      tolerance: How far a prediction of `model.tflite` may be from that.
    """

    folder: Path
    rows: Rows
    expected: np.ndarray
    tolerance: float

    @property
    def tflite(self) -> Path:
        return self.folder / TFLITE_MODEL


@pytest.fixture(scope="session")
def trips(small_spans: Path, tmp_path_factory: pytest.TempPathFactory) -> Deployed:
    """A pushed version, and what it predicts."""
    cli = Cli(small_spans, tmp_path_factory.mktemp("trips") / "output")
    done = cli.run("--as-of", "201303")
    assert done.returncode == 0, done.stdout
    (version,) = cli.versions()
    month = thin(read_month(201303), 100).select(list(RAW_FEATURES)).to_pylist()
    rows = [as_json(row) for row in month] + strange_rows(as_json(month[0]))
    integers = SCHEDULE[:3]
    # The run's mode is int8: roundings differ between the kernels of interpreters.
    return Deployed(version, rows, predict(version, rows, RAW_FEATURES, integers), 0.02)


def as_json(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of a table; half of the absent features are None, the others are not there."""
    known = {name: None if value != value else value for name, value in row.items()}
    return {
        name: value
        for number, (name, value) in enumerate(known.items())
        if value is not None or number % 2
    }


def strange_rows(row: Mapping[str, Any]) -> Rows:
    """Rows that no month has."""
    required = {name: row[name] for name in SCHEDULE}
    return [
        required,
        required | dict.fromkeys(VOCABULARIES),
        {**row, "company": "Zürich ✈ 日本", "origin": "", "dest": "a\u0000b"},
        {**row, "company": "B" * 5000},
        {**row, "temp": -1e30, "visib": 1e30, "distance": 3},
        {**row, "day_of_week": 2**40, "sched_dep_time": -1},
    ]


@pytest.fixture(scope="session")
def odd(
    tmp_path_factory: pytest.TempPathFactory,
    run_component: Any,  # noqa: F811
) -> Deployed:
    """A float model of vectors, texts, and features with names such as `say "hi"`."""
    model = make_odd_model(tmp_path_factory.mktemp("odd"), run_component)
    names = list(model.columns)
    rows = [
        as_json({name: plain(model.columns[name][number]) for name in names})
        for number in range(20)
    ]
    rows += [{name: rows[0][name] for name in VECTORS}, dict.fromkeys(VECTORS), {}]
    return Deployed(model.folder, rows, predict(model.folder, rows, NAMES, (), TEXTS), 1e-5)


def plain(value: Any) -> Any:
    """A value of a column as JSON has it."""
    return value.decode() or None if isinstance(value, bytes) else value.tolist()


def predict(
    folder: Path,
    rows: Rows,
    names: Sequence[str],
    integers: Sequence[str],
    texts: Sequence[str] = VOCABULARIES,
) -> np.ndarray:
    """What TensorFlow predicts with the SavedModel."""
    arguments = graph_names(names)
    inputs = {}
    for name in names:
        kind = tf.string if name in texts else tf.int64 if name in integers else tf.float32
        absent: Any = "" if kind == tf.string else math.nan
        absent = [absent] * WIDTH if name in VECTORS else absent
        values = [absent if row.get(name) is None else row[name] for row in rows]
        inputs[arguments[name]] = tf.constant(values, kind)
    (output,) = tf.saved_model.load(str(folder)).signatures[RAW_SIGNATURE](**inputs).values()
    return np.asarray(output)


def write_rows(path: Path, rows: Any) -> None:
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
