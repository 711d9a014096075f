"""Measures size, latency and quality of a TFLite model."""

from __future__ import annotations

import gzip
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from tfx import v1 as tfx

from components.quantizer.conversion import weight_sparsity
from ml import scores
from ml.artifacts import split_files
from ml.parameters import require
from ml.predictors import TFLitePredictor
from ml.tasks import Task
from storage.errors import UserError
from storage.tfrecords import read_records

# Largest number of rows of the split `eval` to measure candidates on.
_EVALUATION_ROWS = 20_000
_BATCH = 256
_SINGLE_ROWS = 500
_BATCHES = 20


@dataclass(frozen=True)
class Measurement:
    """Measurements of a TFLite model.

    Attributes:
      bytes: Size of the file.
      gzip_bytes: Size of the file after gzip at its highest level.
      sparsity: Share of the float model's weights in dense and convolution operators that are
        zero or removed.
      metrics: The task's metrics by name; see `ml.scores.measure`.
      p50_ms: Median time of one row in the interpreter, in milliseconds.
      p99_ms: 99th percentile of that time.
      batch_us_per_row: Median time of a batch of 256, in microseconds per row.
    """

    bytes: int
    gzip_bytes: int
    sparsity: float
    metrics: dict[str, float | None]
    p50_ms: float
    p99_ms: float
    batch_us_per_row: float


@dataclass(frozen=True)
class Rows:
    """Rows to measure on.

    Attributes:
      task: The task.
      examples: Serialized tf.Examples, bytes [rows].
      labels: Encoded labels, float64 [rows].
      weights: Weights in the metrics, float64 [rows]; None if all weigh the same.
    """

    task: Task
    examples: np.ndarray
    labels: np.ndarray
    weights: np.ndarray | None = None


def read_rows(examples: tfx.dsl.Artifact, task: Task, spec: Mapping[str, Any]) -> Rows:
    """Reads rows of the split `eval`.

    Args:
      examples: Raw examples.
      task: The task.
      spec: The parsing of each raw feature.

    Returns:
      The first 20,000 rows.

    Raises:
      UserError: If there is no row, or a row has no label, or one that is not the task's.
    """
    batches = read_records(split_files(examples, "eval")).batch(_EVALUATION_ROWS)
    serialized = next(batches.as_numpy_iterator(), np.array([], object))
    if not len(serialized):
        raise UserError("the split 'eval' is empty; there is nothing to measure on")
    labels = task.encode(_read_column(serialized, "label", task.label, spec))
    if not np.isfinite(labels).all():
        raise UserError(
            f"label = {task.label!r}: absent, or none of the task's values, in "
            f"{int((~np.isfinite(labels)).sum()):,} of {len(labels):,} raw examples of eval"
        )
    weight = task.example_weight
    weights = _read_column(serialized, "example_weight", weight, spec) if weight else None
    return Rows(task, serialized, labels, weights)


def _read_column(
    serialized: np.ndarray, key: str, name: str, spec: Mapping[str, Any]
) -> np.ndarray:
    """A raw feature of one value, [rows]."""
    require(name in spec, key, name, f"a raw feature: {', '.join(sorted(spec))}")
    parsing = {name: tf.io.FixedLenFeature([], spec[name].dtype)}
    try:
        return np.asarray(tf.io.parse_example(serialized, parsing)[name])
    except tf.errors.InvalidArgumentError as error:
        raise UserError(
            f"{key} = {name!r}: not one value in every raw example of eval ({error.message})"
        ) from error


def measure(content: bytes, rows: Rows, weights: int = 0) -> Measurement:
    """Measures a TFLite model on one thread.

    Args:
      content: The model.
      rows: The rows.
      weights: Number of weights of the float model; 0 for the model's own.

    Returns:
      The measurements.
    """
    predictor = TFLitePredictor(content)
    examples = rows.examples
    metrics = scores.measure(rows.task, rows.labels, predictor.predict(examples), rows.weights)
    batch = np.resize(examples, _BATCH)
    batches = np.median(time_invocations(content, batch[np.newaxis].repeat(_BATCHES, 0)))
    single = time_invocations(content, examples[:_SINGLE_ROWS, np.newaxis])
    return Measurement(
        bytes=len(content),
        gzip_bytes=len(gzip.compress(content, 9)),
        sparsity=weight_sparsity(content, weights),
        metrics=metrics,
        p50_ms=float(np.median(single)) * 1e3,
        p99_ms=float(np.quantile(single, 0.99)) * 1e3,
        batch_us_per_row=float(batches) / _BATCH * 1e6,
    )


def time_invocations(content: bytes, batches: np.ndarray) -> np.ndarray:
    """Times batches inside the interpreter.

    Args:
      content: The TFLite model.
      batches: Serialized tf.Examples, bytes [batches, rows].

    Returns:
      The times in seconds, [batches].
    """
    predictor = TFLitePredictor(content)
    features = {
        name: column.reshape(*batches.shape, *column.shape[1:])
        for name, column in predictor.parse(batches.ravel()).items()
    }
    times = []
    for number in range(len(batches)):
        predictor.feed({name: column[number] for name, column in features.items()})
        start = time.perf_counter()
        predictor.interpreter.invoke()
        times.append(time.perf_counter() - start)
    return np.array(times)
