"""Reads a split of examples into memory: as arrays for networks, or as a table."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx import v1 as tfx
from tfx_bsl.coders import example_coder

from ml.artifacts import split_files
from ml.record_batches import RecordBatchDecoder, read_record_batches
from ml.stored_columns import Columns, ColumnWriter
from ml.vectors import pack, to_matrix
from storage.errors import UserError
from storage.tfrecords import read_records

_BATCH = 8192


def read_columns(
    examples: tfx.dsl.Artifact, split: str, schema: schema_pb2.Schema, rows_in_memory: int = 0
) -> Columns:
    """Reads a split of transformed examples.

    Args:
      examples: Transformed examples, every feature dense.
      split: Name of the split.
      schema: Schema of the transformed examples.
      rows_in_memory: Largest number of rows that are held in memory; the arrays of more are in
        temporary files, see `ml.stored_columns`. 0 for any number.

    Returns:
      By feature, an array of shape [rows, width].

    Raises:
      UserError: If the split is missing or empty.
    """
    return columns_of_files(split_files(examples, split), schema, rows_in_memory)


def columns_of_files(
    patterns: list[str], schema: schema_pb2.Schema, rows_in_memory: int = 0
) -> Columns:
    """Reads transformed examples of the files that match patterns; see `read_columns`.

    Rows are in the order of the files' names. That of `tfxio.TFExampleRecord` depends on the number
    of cores, and what is learned depends on the order.
    """
    glob = tf.io.gfile.glob
    files = [file for pattern in patterns for file in sorted(glob(pattern))]
    record_batches = read_record_batches(files, schema, _BATCH) if files else ()
    batches: list[Columns] = []
    rows, stored = 0, None
    for record_batch in record_batches:
        names = record_batch.schema.names
        matrices = map(_to_matrix, record_batch.columns)
        batches.append(dict(zip(names, matrices, strict=True)))
        rows += record_batch.num_rows
        if rows_in_memory and rows > rows_in_memory:
            stored = stored or ColumnWriter()
            for kept in batches:
                stored.add(kept)
            batches = []
    if stored:
        return stored.close()
    if not batches:
        raise UserError(f"there are no examples in {', '.join(patterns)}")
    # A column leaves the batches when it is whole: no more than one is in memory twice.
    return {name: np.concatenate([batch.pop(name) for batch in batches]) for name in [*batches[0]]}


def _to_matrix(column: pa.Array) -> np.ndarray:
    """A column of lists of one length as an array of shape [rows, length]."""
    return np.asarray(column.flatten()).reshape(len(column), -1)


def read_rows(
    examples: tfx.dsl.Artifact, split: str, schema: schema_pb2.Schema, step: int = 1
) -> pd.DataFrame:
    """Reads the rows of a split into memory.

    Args:
      examples: Examples in gzipped TFRecords.
      split: Name of the split.
      schema: Its features become the columns.
      step: 1 reads every row, 2 every second, and so on.

    Returns:
      A column per feature with its first value; NaN or None if absent or not finite. Of a vector of
      the schema, a column per value: `name[0]`, `name[1]` and so on.
    """
    records = read_records(split_files(examples, split)).shard(step, 0)
    decode = RowDecoder(schema)
    batches = [decode.batch(batch) for batch in records.batch(_BATCH)]
    return decode.rows(pa.Table.from_batches(batches, decode.arrow_schema))


class RowDecoder:
    """Decodes serialized examples to the columns of `read_rows`.

    Args:
      schema: Its features become the columns.
    """

    def __init__(self, schema: schema_pb2.Schema):
        self._decoder = RecordBatchDecoder(schema)
        self._widths = {feature.name: vector_width(feature) for feature in schema.feature}

    @property
    def arrow_schema(self) -> pa.Schema:
        """Schema of the record batches."""
        return self._decoder.arrow_schema

    def batch(self, examples: tf.Tensor | np.ndarray) -> pa.RecordBatch:
        """Decodes serialized examples, bytes [rows]."""
        return self._decoder.decode(examples)

    def rows(self, table: pa.Table) -> pd.DataFrame:
        """The columns of record batches; see `read_rows`."""
        columns = {}
        for name in table.column_names:
            values, width = table[name], self._widths[name]
            if width is None:
                columns[name] = _without_infinity(first_values(values))
            else:
                vectors = _without_infinity(_vectors(values, width))
                columns |= {f"{name}[{i}]": vectors[:, i] for i in range(width)}
        return pd.DataFrame(columns)


def vector_width(feature: schema_pb2.Feature) -> int | None:
    """Number of values of a vector; None if a row has one value, or any number of them."""
    width = math.prod(dim.size for dim in feature.shape.dim)
    return width if width > 1 else None


def read_vectors(examples: tfx.dsl.Artifact, split: str, name: str, width: int) -> np.ndarray:
    """Reads a feature of a split into memory, with all its values.

    Args:
      examples: Examples in gzipped TFRecords.
      split: Name of the split.
      name: A feature of floats.
      width: Values that a row has.

    Returns:
      float64 [rows, width]; NaN where a row has another number of values.
    """
    schema = schema_pb2.Schema(feature=[schema_pb2.Feature(name=name, type=schema_pb2.FLOAT)])
    absent = np.full(width, np.nan, np.float32).tobytes()
    parts = [np.empty((0, width))]
    for batch in read_record_batches(split_files(examples, split), schema, _BATCH):
        table = pa.Table.from_batches([batch])
        packed = pack(table[name], width, schema_pb2.FLOAT)
        parts.append(to_matrix((absent if row is None else row for row in packed), width))
    return np.concatenate(parts).astype(float)


def raw_values(records: Sequence[bytes] | np.ndarray, name: str) -> np.ndarray:
    """The first value of a feature in each serialized tf.Example; NaN or None if it is absent."""
    batch = example_coder.ExamplesToRecordBatchDecoder().DecodeBatch(list(records))
    table = pa.Table.from_batches([batch])
    if name not in table.column_names or pa.types.is_null(table[name].type):
        return np.full(len(records), np.nan)
    return first_values(table[name])


def first_values(column: pa.ChunkedArray) -> np.ndarray:
    """The first value of each list, shape [rows]; NaN or None if there is none."""
    present = pc.fill_null(pc.list_value_length(column), 0).to_numpy() > 0
    values = pc.list_element(column.filter(pa.array(present)), 0)
    # pandas gets equal texts as one object, numpy an object for each row.
    return _with_absent(values.to_pandas().to_numpy(), present)


def _vectors(column: pa.ChunkedArray, width: int) -> np.ndarray:
    """Lists of one length, [rows, width]; NaN or None in a row whose list has another length."""
    present = pc.fill_null(pc.list_value_length(column), 0).to_numpy() == width
    values = pc.list_flatten(column.filter(pa.array(present))).to_numpy()
    return _with_absent(values.reshape(-1, width), present)


def _without_infinity(values: np.ndarray) -> np.ndarray:
    """Values with NaN in place of infinity."""
    if values.dtype.kind != "f" or not (infinite := np.isinf(values)).any():
        return values
    return np.where(infinite, np.nan, values)


def _with_absent(values: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Values of the rows that have one, [rows, ...], with NaN or None for the others."""
    if present.all():
        return values
    absent = None if values.dtype == object else np.nan
    shape = (len(present), *values.shape[1:])
    found = np.full(shape, absent, dtype=object if absent is None else float)
    found[present] = values
    return found
