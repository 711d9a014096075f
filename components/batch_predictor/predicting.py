"""Predicts the shards of a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from tensorflow_metadata.proto.v0 import schema_pb2

from components.batch_predictor.contributions import Contributions
from components.batch_predictor.input_files import Shard, Table, open_table
from components.batch_predictor.output_folder import OutputFolder
from components.batch_predictor.output_format import OutputFormat, TableBuffer
from ml.column_inputs import ColumnInputs
from ml.row_problems import Problems
from ml.table_models import PackedModel, TableModel
from ml.tasks import BINARY, MULTICLASS, Task
from ml.text_columns import TextColumns
from storage.errors import DataError, UserError, one_line
from storage.names import PREDICTION_PREFIX
from storage.text_buffers import TextError

_ROWS_OF_A_BATCH = 8192
_LONGEST_REASON = 300
# A model that fails on more rows, one after the other, is no matter of rows.
_MOST_FAILURES = 1000
# Columns of explained predictions: the base value and, by feature, the contribution.
_SHAP, _BASE = "shap.", "base_value"
# Columns of rows without a prediction: file, number of the row in it from 1, and reason.
_OF_REJECTED = ("rejected.file", "rejected.row", "rejected.reason")


@dataclass(frozen=True)
class Prediction:
    """The columns that predictions become.

    Attributes:
      task: What the model predicts.
      output: Name of its output.
      names: Names of the columns, in their order.
      explained: What the base value and the contributions beside them are of, by column; empty if
        predictions are not explained.
    """

    task: Task
    output: str
    names: tuple[str, ...]
    explained: Mapping[str, str]

    @classmethod
    def of(
        cls, task: Task, output: str, taken: list[str], features: Sequence[str] | None = None
    ) -> Prediction:
        """Names the columns, so that they are not those of the table.

        Example:
          >>> task = Task("multiclass", "size", ("small", "large"))
          >>> Prediction.of(task, "scores", ["prediction.class"]).names
          ('prediction.class_2', 'prediction.scores')

        Args:
          task: What the model predicts.
          output: Name of its output.
          taken: Columns of the table.
          features: What contributes to predictions; None if they are not explained.
        """
        wanted = ("class", output) if task.kind == MULTICLASS else (output,)
        names = free_names([PREDICTION_PREFIX + n for n in wanted], taken)
        if features is None:
            return cls(task, output, names, {})
        shap = [f"{_SHAP}{_BASE}", *(_SHAP + name for name in features)]
        columns = free_names(shap, [*taken, *names])
        return cls(task, output, names, dict(zip(columns, (_BASE, *features), strict=True)))

    def columns(self, values: np.ndarray) -> list[pa.Array]:
        """The columns of predictions, float32 [rows, outputs]."""
        if self.task.kind != MULTICLASS:
            return [pa.array(values[:, 0], pa.float32())]
        names = pa.array(self.task.class_names, pa.string())
        offsets = np.arange(0, values.size + 1, values.shape[1], dtype=np.int32)
        lists = pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.ravel(), pa.float32()))
        return [names.take(pa.array(values.argmax(axis=1))), lists]

    def schema(self, columns: pa.Schema) -> pa.Schema:
        """The columns of a file of predictions, of those of the table."""
        empty = np.empty((0, self.task.outputs), np.float32)
        for name, array in zip(self.names, self.columns(empty), strict=True):
            columns = columns.append(pa.field(name, array.type))
        for name in self.explained:
            columns = columns.append(pa.field(name, pa.float32()))
        return columns

    def describe(self) -> dict[str, str]:
        """What is in each column, for a person."""
        if self.task.kind == MULTICLASS:
            of_classes = f"probability of each class: {', '.join(self.task.class_names)}"
            return dict(
                zip(self.names, ("class of the highest probability", of_classes), strict=True)
            )
        if self.task.kind == BINARY:
            return {self.names[0]: f"probability of {self.task.class_names[1]}"}
        return {self.names[0]: f"predicted {self.task.label}"}


def free_names(wanted: Sequence[str], taken: Sequence[str]) -> tuple[str, ...]:
    """Names that differ from others, and from each other, not by capitals alone."""
    used = {name.casefold() for name in taken}
    found = []
    for name in wanted:
        free, number = name, 1
        while free.casefold() in used:
            number += 1
            free = f"{name}_{number}"
        used.add(free.casefold())
        found.append(free)
    return tuple(found)


@dataclass(frozen=True)
class Work:
    """All that a worker needs; it travels to workers with the Beam job.

    Attributes:
      table: The table.
      output: Where predictions go.
      format: How they are written.
      model: The verified files of the model.
      schema: Serialized schema of the columns.
      text: Types of the columns of CSV files; None for other formats.
      prediction: The columns that predictions become.
      background: The rows of the version that predictions are explained with; None for none.
    """

    table: Table
    output: OutputFolder
    format: OutputFormat
    model: PackedModel
    schema: bytes
    text: TextColumns | None
    prediction: Prediction
    background: bytes | None


class PredictShard(beam.DoFn):
    """Predicts the rows of a `Shard`.

    A shard that a runner tries again is written again under the same names with the same bytes.
    """

    def __init__(self, work: Work):
        self._work = work

    def setup(self) -> None:
        """Loads the model, once in each worker."""
        self._rows = RowPredictor(self._work)

    def process(self, shard: Shard) -> Iterator[None]:
        """Writes the files of a shard; yields nothing."""
        predictions, rejected, record = self._rows.predict_shard(shard)
        ending = self._work.format.ending
        try:
            self._work.output.write_shard(shard.number, ending, predictions, rejected, record)
        except OSError as error:
            uri = self._work.output.uri
            raise UserError(f"--output {uri} cannot be written: {error}") from error
        yield from ()


class RowPredictor:
    """A loaded model with all that is needed to predict rows of a table.

    Args:
      work: What to predict with.
    """

    def __init__(self, work: Work):
        self._work = work
        self._model: TableModel = work.model.load()
        schema = schema_pb2.Schema.FromString(work.schema)
        self._inputs = ColumnInputs(self._model.inputs, schema)
        self._contributions = None
        if work.background is not None:
            self._contributions = Contributions(work.background, self._model, work.prediction.task)
        self._failed_in_a_row = 0

    def predict_shard(self, shard: Shard) -> tuple[bytes, bytes | None, dict[str, Any]]:
        """Predicts the rows of a shard.

        Returns:
          The file of the rows with a prediction, that of the others or None, and the facts of a
          `ShardRecord`.

        Raises:
          DataError: If the file cannot be read, or has changed, or the format of the output does
            not hold a value.
        """
        table, written = self._work.table, self._work.format
        table.check_unchanged(shard.file)
        row, reason = shard.first_row, ""
        try:
            with open_table(table, shard.file, shard.copy) as parquet:
                found = parquet.schema_arrow
                columns = written.columns(found, self._work.text)
                predicted = written.open(self._work.prediction.schema(columns))
                rejected = written.open(_rejected_schema(found, written.columns(found, None)))
                batches = parquet.iter_batches(
                    _ROWS_OF_A_BATCH, row_groups=list(shard.row_groups), use_threads=False
                )
                for batch in batches:
                    problems = self._predict(batch, predicted)
                    if problems:
                        kept = written.rows(batch, batch)
                        _reject(kept, problems, shard.file.name, row, rejected)
                        reason = reason or problems[min(problems)]
                    row += batch.num_rows
        except TextError as error:
            raise DataError(f"{shard.file.path}: {error}") from error
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{shard.file.path} cannot be read: {one_line(error)}") from error
        table.check_unchanged(shard.file)
        record = {"rows": predicted.rows, "rejected": rejected.rows, "reason": reason}
        return predicted.close(), rejected.close() if rejected.rows else None, record

    def _predict(self, batch: pa.RecordBatch, predicted: TableBuffer) -> Problems:
        """Writes the rows that have a prediction, and returns why the others have none."""
        typed, problems = self._work.text.parse(batch) if self._work.text else (batch, {})
        inputs = self._inputs.convert(typed)
        problems = inputs.problems | problems
        rows = np.setdiff1d(np.arange(batch.num_rows), list(problems))
        arrays = inputs.arrays
        if problems:
            arrays = {name: array[rows] for name, array in arrays.items()}
        values, failed = self._run(arrays, len(rows))
        finite = np.isfinite(values).all(axis=1)
        for place in np.flatnonzero(~finite).tolist():
            problems[int(rows[place])] = failed.get(place, "the prediction is not a finite number")
        kept = self._work.format.rows(batch, typed)
        if problems:
            kept = kept.take(pa.array(rows[finite]))
        columns = [*kept.columns, *self._work.prediction.columns(values[finite])]
        if self._contributions:
            if not finite.all():
                arrays = {name: array[finite] for name, array in arrays.items()}
            explained = self._contributions.explain(arrays, values[finite])
            columns += [pa.array(column) for column in explained.T]
        predicted.add(pa.Table.from_arrays(columns, schema=predicted.schema))
        return problems

    def _run(self, arrays: Mapping[str, np.ndarray], rows: int) -> tuple[np.ndarray, Problems]:
        """Predictions, float32 [rows, outputs], NaN in rows on which the model fails; and why."""
        outputs = self._work.prediction.task.outputs
        if not rows:
            return np.empty((0, outputs), np.float32), {}
        try:
            values = self._model.predict_features(arrays)
        except Exception as error:  # Whatever the model has to say about a row.
            if rows == 1:
                reason = one_line(error)[:_LONGEST_REASON]
                self._failed_in_a_row += 1
                if self._failed_in_a_row > _MOST_FAILURES:
                    raise UserError(
                        f"the model fails on {_MOST_FAILURES:,} rows one after the other: {reason}"
                    ) from error
                return np.full((1, outputs), np.nan, np.float32), {0: f"the model fails: {reason}"}
        else:
            self._failed_in_a_row = 0
            if values.size != rows * outputs:
                raise UserError(
                    f"the model returns {list(values.shape)} for {rows} rows; a "
                    f"{self._work.prediction.task.kind} task has {outputs} output(s)"
                )
            return values.reshape(rows, outputs), {}
        middle = rows // 2
        first, problems = self._run({n: a[:middle] for n, a in arrays.items()}, middle)
        second, others = self._run({n: a[middle:] for n, a in arrays.items()}, rows - middle)
        problems |= {middle + place: reason for place, reason in others.items()}
        return np.concatenate([first, second]), problems


def _rejected_schema(found: pa.Schema, columns: pa.Schema) -> pa.Schema:
    """The columns of a file of rows without a prediction.

    Args:
      found: The columns of the table, whose names are taken.
      columns: Those of them that are written.
    """
    names = free_names(_OF_REJECTED, found.names)
    for name, kind in zip(names, (pa.string(), pa.int64(), pa.string()), strict=True):
        columns = columns.append(pa.field(name, kind))
    return columns


def _reject(
    batch: pa.RecordBatch, problems: Problems, file: str, first_row: int, rejected: TableBuffer
) -> None:
    """Writes rows without a prediction, as they were read, with their place and the reason."""
    places = sorted(problems)
    kept = batch.take(pa.array(places))
    facts = [
        pa.array([file] * len(places)),
        pa.array([first_row + place for place in places], pa.int64()),
        pa.array([problems[place] for place in places]),
    ]
    rejected.add(pa.Table.from_arrays([*kept.columns, *facts], schema=rejected.schema))
