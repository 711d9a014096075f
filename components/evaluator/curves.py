"""Writes the curves of an evaluation, `curves.json`, from a sample of its rows."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow_model_analysis as tfma
from tfx import v1 as tfx

from components.evaluator.columns import COLUMNS, numbers
from ml.curves import draw_curves
from ml.file_names import CURVES_FILE
from ml.tasks import Task

# Key of an extract: the name of the file that a batch is from, and the number of its first row.
PLACE = "place"
# Rows of the sample, and predicted numbers of each model.
_MOST_ROWS = 50_000
_MOST_NUMBERS = 2_000_000


@dataclass(frozen=True)
class _Rows:
    """Some rows.

    Attributes:
      order: Random numbers by which rows are drawn, smallest first, uint64 [rows].
      labels: Encoded labels, [rows].
      weights: [rows].
      predictions: By model, [rows, outputs].
    """

    order: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    predictions: dict[str, np.ndarray]

    def first(self, count: int) -> _Rows:
        """The rows that are drawn first."""
        if len(self.order) <= count:
            return self
        at = np.argpartition(self.order, count)[:count]
        predictions = {name: values[at] for name, values in self.predictions.items()}
        return _Rows(self.order[at], self.labels[at], self.weights[at], predictions)

    def __add__(self, other: _Rows) -> _Rows:
        return _Rows(
            np.concatenate([self.order, other.order]),
            np.concatenate([self.labels, other.labels]),
            np.concatenate([self.weights, other.weights]),
            {
                name: np.concatenate([values, other.predictions[name]])
                for name, values in self.predictions.items()
            },
        )


def make_curve_writer(config: tfma.EvalConfig, task: Task, output: str, run_after: str) -> Any:
    """Makes a TFMA evaluator that draws a sample of the rows, and writes the curves of each model.

    The sample depends on the files alone, not on how a runner spreads them.

    Args:
      config: With TFMA's defaults filled in.
      task: The task.
      output: URI of the folder of the evaluation.
      run_after: Stage of the extractor that makes the extracts of `columns.make_evaluator`, and
        `PLACE`.

    Returns:
      A `tfma.evaluators.Evaluator` without a result of its own.
    """
    return tfma.evaluators.Evaluator(
        stage_name="WriteCurves", run_after=run_after, ptransform=_WriteCurves(config, task, output)
    )


class _WriteCurves(beam.PTransform):
    def __init__(self, config: tfma.EvalConfig, task: Task, output: str):
        super().__init__()
        self._config, self._task, self._output = config, task, output

    def expand(self, extracts: beam.PCollection) -> dict[str, beam.PCollection]:
        weight = self._config.model_specs[0].example_weight_key
        names = {
            spec.name: "served" if spec.is_baseline else "model"
            for spec in self._config.model_specs
        }
        limit = min(_MOST_ROWS, max(_MOST_NUMBERS // self._task.outputs, 1))
        _ = (
            extracts
            | "Draw" >> beam.FlatMap(_draw, weight=weight, limit=limit)
            | "Join" >> beam.CombinePerKey(_Join(limit))
            | "Write" >> beam.Map(_write, task=self._task, names=names, output=self._output)
        )
        return {}


def _draw(extracts: dict[str, Any], weight: str, limit: int) -> Iterator[tuple[str, _Rows]]:
    batch = extracts[COLUMNS]
    file, first = extracts[PLACE]
    # A stream of random numbers by file, of which a batch skips what is of earlier rows.
    seed = int.from_bytes(os.path.basename(file).encode()[-16:], "big")
    stream = np.random.PCG64(seed).advance(first)
    rows = _Rows(
        stream.random_raw(batch.num_rows),
        np.ravel(extracts[tfma.LABELS_KEY]),
        numbers(batch, weight) if weight else np.ones(batch.num_rows),
        {
            name: values.reshape(batch.num_rows, -1)
            for name, values in extracts[tfma.PREDICTIONS_KEY].items()
        },
    )
    yield "", rows.first(limit)


class _Join(beam.CombineFn):
    """Joins samples to one."""

    def __init__(self, limit: int):
        super().__init__()
        self._limit = limit

    def create_accumulator(self) -> _Rows | None:
        """Nothing."""
        return None

    def add_input(self, accumulator: _Rows | None, rows: _Rows) -> _Rows:
        """Adds rows."""
        return (accumulator + rows if accumulator else rows).first(self._limit)

    def merge_accumulators(self, accumulators: Iterable[_Rows | None]) -> _Rows | None:
        """Joins several samples."""
        total = None
        for rows in filter(None, accumulators):
            total = self.add_input(total, rows)
        return total

    def extract_output(self, accumulator: _Rows | None) -> _Rows | None:
        """The sample, in an order that does not depend on the runner."""
        if accumulator is None:
            return None
        at = np.argsort(accumulator.order, kind="stable")
        predictions = {name: values[at] for name, values in accumulator.predictions.items()}
        return _Rows(
            accumulator.order[at], accumulator.labels[at], accumulator.weights[at], predictions
        )


def _write(item: tuple[str, _Rows], task: Task, names: dict[str, str], output: str) -> None:
    _, rows = item
    content = {
        "rows": len(rows.labels),
        "kind": task.kind,
        "curves": {
            names[name]: draw_curves(task, rows.labels, predictions, rows.weights)
            for name, predictions in rows.predictions.items()
        },
    }
    tfx.dsl.io.fileio.makedirs(output)
    with tfx.dsl.io.fileio.open(os.path.join(output, CURVES_FILE), "w") as file:
        file.write(json.dumps(content, ensure_ascii=False) + "\n")
