"""The labels of raw examples, encoded by the task, and how many rows there are of each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tensorflow_metadata.proto.v0 import schema_pb2

from components.evaluator.columns import numbers
from ml.record_batches import read_record_batches
from ml.sample import Sample
from ml.tasks import REGRESSION, Task
from storage.errors import DataError

_BATCH = 16_384


def encode_labels(task: Task, batch: pa.RecordBatch) -> np.ndarray:
    """Encodes the labels of a batch of raw examples.

    Args:
      task: The task.
      batch: Rows, whose columns are lists.

    Returns:
      float64 [rows]; see `Task.encode`.

    Raises:
      DataError: If a row has no label, more than one, or one that the task does not have.
    """
    index = batch.schema.get_field_index(task.label)
    rows = batch.num_rows
    column = None if index < 0 else batch.column(index)
    if column is None or pa.types.is_null(column.type):
        raise DataError(f"label {task.label!r}: no row has one")
    sizes = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    if (sizes != 1).any():
        raise DataError(
            f"label {task.label!r}: {(sizes != 1).sum():,} of {rows:,} rows have no value, or "
            "several"
        )
    return encode_values(task, column.flatten().to_numpy(zero_copy_only=False))


def encode_values(task: Task, values: np.ndarray) -> np.ndarray:
    """Encodes one label of each row, [rows]; see `encode_labels`."""
    labels, rows = task.encode(values), len(values)
    if (bad := ~np.isfinite(labels)).any():
        example = values[bad][0]
        shown = repr(example.decode("utf-8", "replace") if isinstance(example, bytes) else example)
        wrong = "not finite" if task.kind == REGRESSION else f"none of {_some(task.classes)}"
        raise DataError(
            f"label {task.label!r}: {bad.sum():,} of {rows:,} rows have a value that is {wrong}, "
            f"such as {shown}"
        )
    return labels


def count_labels(files: Sequence[str], schema: schema_pb2.Schema, task: Task) -> Sample:
    """Reads and checks the labels and the example weights of a split.

    Args:
      files: Gzipped TFRecords of raw examples.
      schema: Their schema.
      task: The task.

    Raises:
      DataError: See `encode_labels`; or if a weight is absent, negative or not finite, or all are
        0.
    """
    needed = {task.label, task.example_weight}
    columns = schema_pb2.Schema(feature=[f for f in schema.feature if f.name in needed])
    rows, classes = 0, max(len(task.classes), 1)
    sums, squares = np.zeros(classes), np.zeros(classes)
    for batch in read_record_batches(files, columns, _BATCH):
        labels = encode_labels(task, batch)
        ids = labels.astype(int) if task.classes else np.zeros(len(labels), int)
        weights = np.ones(len(labels))
        if task.example_weight:
            weights = numbers(batch, task.example_weight)
            if not (np.isfinite(weights) & (weights >= 0)).all():
                raise DataError(f"{task.example_weight!r}: a weight is negative, or not finite")
        rows += len(labels)
        sums += np.bincount(ids, weights, classes)
        squares += np.bincount(ids, weights**2, classes)
    if rows and not sums.sum():
        raise DataError(f"{task.example_weight!r}: every weight is 0")
    effective = np.divide(sums**2, squares, out=np.zeros(classes), where=squares > 0)
    return Sample(rows, tuple(effective.tolist()))


def _some(classes: Sequence[str]) -> str:
    """The classes, or the first few of many."""
    shown = ", ".join(repr(name) for name in classes[:10])
    return f"the classes {shown}" + (" and so on" if len(classes) > 10 else "")
