"""Plays the strategies of serving on what the runs of a backtest left.

It runs in a process that has TFX imported; see `local.helper_process`.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from components.serving_monitor.comparison import Rules
from ml.artifacts import serving_model_uri, split_files
from ml.examples import raw_values
from ml.predictors import load_predictor
from ml.tasks import Task
from orchestration.backtest.months import Month
from orchestration.backtest.strategies import MonthRows, serve
from orchestration.local import tfx_internals
from storage.errors import DataError, UserError
from storage.tfrecords import read_records

_TEST = "test"
_BATCH_ROWS = 8192
# Of a month whose rows have no time.
_BLOCKS = 30


def play(
    metadata_path: str,
    lock_path: str,
    months: Sequence[Month],
    task: str,
    time_column: str,
    block_seconds: float,
    rules: Mapping[str, Any],
    actions: Mapping[str, str],
) -> list[dict[str, Any]]:
    """Plays the strategies.

    Args:
      metadata_path: SQLite file of ML Metadata.
      lock_path: Lock file of ML Metadata.
      months: The results of the backtest, oldest first.
      task: JSON of the task of the model.
      time_column: Column with the time of a row, by which it is of a block; "" for none: the rows
        of a month are then cut into thirty blocks of the same size, as they are in its files.
      block_seconds: Length of a block.
      rules: Fields of `Rules`.
      actions: See `strategies.serve`.

    Returns:
      Fields of `strategies.Served`, for each month.

    Raises:
      UserError: If the artifacts of a run are gone.
    """
    store = tfx_internals.LockedMetadata(metadata_path, lock_path)
    learned = Task.from_json(task)
    blocks = _Blocks(time_column, block_seconds)
    rows = _read(store, months, learned, blocks)
    return [dataclasses.asdict(one) for one in serve(learned, rows, Rules(**rules), actions)]


@dataclasses.dataclass
class _Blocks:
    """The blocks of time of rows, ascending from month to month."""

    time_column: str
    seconds: float
    given: int = 0

    def of(self, records: list[np.ndarray]) -> np.ndarray:
        if self.time_column:
            parts = [raw_values(batch, self.time_column) for batch in records]
            return np.floor(np.concatenate(parts).astype(float) / self.seconds).astype(int)
        count = sum(len(batch) for batch in records)
        first, self.given = self.given, self.given + _BLOCKS
        return first + np.arange(count) * _BLOCKS // max(count, 1)


def _read(
    store: tfx_internals.LockedMetadata, months: Sequence[Month], task: Task, blocks: _Blocks
) -> Iterator[MonthRows]:
    pushed = {month.version: month.run_id for month in months if month.version}
    for month in months:
        examples = _output(store, month.run_id, "SpanExampleGen", "examples")
        files = split_files(examples, _TEST)
        records = [batch.numpy() for batch in read_records(files).batch(_BATCH_ROWS)]
        if not records:
            raise UserError(f"run {month.run_id} left no rows of {month.month} in {examples.uri}")
        labels = np.concatenate([task.encode(raw_values(part, task.label)) for part in records])
        weights = np.ones(len(labels))
        if task.example_weight:
            found = [raw_values(part, task.example_weight) for part in records]
            weights = np.nan_to_num(np.concatenate(found).astype(float))
        predict = partial(_predict, store, pushed, records)
        yield MonthRows(
            month.month, month.served_version, labels, weights, blocks.of(records), predict
        )


def _predict(
    store: tfx_internals.LockedMetadata,
    pushed: Mapping[int, str],
    records: list[np.ndarray],
    version: int,
) -> np.ndarray:
    if version not in pushed:
        raise UserError(f"no run of the backtest pushed version {version}")
    # Not from the Serving directory, which deletes old versions.
    artifact = _output(store, pushed[version], "Quantizer", "quantized_model")
    model = load_predictor(serving_model_uri(artifact))
    try:
        return np.concatenate([model.predict(batch) for batch in records])
    except (DataError, tf.errors.InvalidArgumentError) as error:
        raise UserError(f"version {version} cannot predict the rows: {error}") from error


def _output(store: tfx_internals.LockedMetadata, run_id: str, node: str, name: str) -> Any:
    found = tfx_internals.find_executions(store, run_id)
    if node in found:
        artifact = tfx_internals.read_outputs(store, found[node]).get(name)
        if artifact and os.path.isdir(artifact.uri):
            return artifact
    raise UserError(
        f"run {run_id} left no {name} of {node}: its artifacts were deleted; run the backtest "
        "again in another directory"
    )
