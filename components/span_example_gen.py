"""SpanExampleGen: monthly Parquet spans in; `train`, `eval` and `test` by time out."""

import hashlib
import json
import os
import traceback
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx import v1 as tfx
from tfx_bsl.coders import example_coder

from ml import progress
from ml.artifacts import load_schema
from storage import spans
from storage.errors import DataError, from_worker_traceback
from storage.parquet import ParquetFile, open_file
from storage.span_store import ShardName, SpanStore
from storage.tfrecords import open_records, read_records

SPLITS = ("train", "eval", "test")

_ROWS_PER_SHARD = 16_384
# Level 1 costs a quarter of zlib's default 6 and gives files a third larger.
_KIND = "examples"
_PART_BYTES = 1 << 20
# Of how rows are written; another one leaves what is kept unused.
_ENCODING = 1


@tfx.dsl.components.component(use_beam=True)
def SpanExampleGen(
    schema: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Schema],
    examples: tfx.dsl.components.OutputArtifact[tfx.types.standard_artifacts.Examples],
    data_uri: tfx.dsl.components.Parameter[str],
    time_column: tfx.dsl.components.Parameter[str],
    as_of: tfx.dsl.components.Parameter[int] = 0,
    window: tfx.dsl.components.Parameter[int] = 6,
    eval_days: tfx.dsl.components.Parameter[int] = 7,
    fingerprint: tfx.dsl.components.Parameter[str] = "",
    beam_pipeline: tfx.dsl.components.BeamComponentParameter[beam.Pipeline] = None,
) -> None:
    """Writes a window of monthly spans as tf.Examples, split by time.

    Nulls become absent features. Timestamps become int64 seconds since the Unix epoch. Every month
    is cut where its last days begin, so that it consists of the same files whether it is judged on,
    held out or learned from: those of a month that an earlier run has read are taken out of the
    `SpanStore` of the environment as they are.

    Args:
      schema: Types of the columns, and which of them every file must have.
      examples: Component `outputs` contains: the splits `train` (the window without its last
        days), `eval` (its last days) and `test` (the month `as_of`), as gzipped TFRecords. The
        custom properties `rows` and `spans` say in JSON how many rows each split has and which
        months it was made of.
      data_uri: Directory that holds the spans, one folder `span-YYYYMM` per month.
      time_column: Timestamp column by which `eval` is held out.
      as_of: Month of the `test` split, YYYYMM; 0 means the newest there is.
      window: How many months before `as_of` to learn from.
      eval_days: How many days at the end of the window become `eval`.
      fingerprint: Content of the window as the caller saw it, part of the cache key; an empty one
        is not compared.
      beam_pipeline: Supplied by TFX.

    Raises:
      DataError: If a span, file, row group or column is missing, unreadable, empty or mistyped, if
        rows are of another month than their span, or if the data is no longer what `fingerprint`
        says.
    """
    chosen = spans.resolve_window(data_uri, as_of, window)
    if fingerprint and fingerprint != chosen.fingerprint:
        raise DataError(
            f"the spans under {data_uri!r} changed after the run had started: run again"
        )
    columns = Columns.from_schema(load_schema(schema), time_column)
    shards, rows = plan_shards(data_uri, chosen, columns, timedelta(days=eval_days))
    store = SpanStore.of_environment()
    try:
        with beam_pipeline as pipeline:
            _ = (
                pipeline
                | "Shards" >> beam.Create(shards)
                | "Write" >> beam.ParDo(_WriteShard(data_uri, columns, examples.uri, store))
            )
    except Exception as error:
        raised = "".join(traceback.format_exception_only(error))
        if user_error := from_worker_traceback(raised):
            raise user_error from None
        raise
    examples.split_names = json.dumps(SPLITS)
    examples.set_string_custom_property("rows", json.dumps(rows))
    months = {"train": [s.month for s in chosen.train], "test": [chosen.test.month]}
    examples.set_string_custom_property("spans", json.dumps(months))


@dataclass(frozen=True)
class Columns:
    """What the schema asks of a Parquet file.

    Attributes:
      types: TFMD feature type (`schema_pb2.FeatureType`) by column.
      required: Columns that every file must have.
      time: The timestamp column that orders rows.
    """

    types: dict[str, int]
    required: frozenset[str]
    time: str

    @classmethod
    def from_schema(cls, schema: schema_pb2.Schema, time_column: str) -> "Columns":
        """Reads the columns off a TFMD schema."""
        required = {
            f.name for f in schema.feature if f.presence.min_fraction or f.presence.min_count
        }
        return cls(
            types={feature.name: feature.type for feature in schema.feature},
            required=frozenset(required | {time_column}),
            time=time_column,
        )

    @property
    def key(self) -> str:
        """Changes with all that it says."""
        return repr((sorted(self.types.items()), sorted(self.required), self.time))

    def check(self, path: str, found: pa.Schema) -> None:
        """Checks the columns of one file.

        Raises:
          DataError: If one is missing, or has a type that does not convert without loss.
        """
        for name in sorted(self.required - set(found.names)):
            raise DataError(f"{path}: column {name!r} is missing; it has {', '.join(found.names)}")
        for name, count in Counter(found.names).items():
            if count > 1:
                raise DataError(f"{path}: column {name!r} is there {count} times")
        for field in found:
            self.check_type(path, field)

    def check_type(self, path: str, field: pa.Field) -> None:
        """Checks that a column converts to the type its feature has in the schema."""
        if pa.types.is_null(field.type) and field.name != self.time:
            return
        natural = _feature_type(field.type)
        if field.name == self.time and not pa.types.is_timestamp(field.type):
            raise DataError(
                f"{path}: column {field.name!r} is {field.type}; a timestamp is expected"
            )
        wanted = self.types.get(field.name, natural)
        widened = (natural, wanted) == (schema_pb2.INT, schema_pb2.FLOAT)
        if natural is None or not (natural == wanted or widened):
            allowed = _ALLOWED.get(wanted, "integer, floating point or string")
            raise DataError(f"{path}: column {field.name!r} is {field.type}; {allowed} is expected")


@dataclass(frozen=True)
class Shard:
    """Row groups of one Parquet file that become one TFRecord file of one split.

    Attributes:
      split: Name of the split.
      name: Name of the TFRecord file.
      path: The Parquet file.
      row_groups: Indices of the row groups to read.
      after: Seconds since the epoch; rows at or before it are left out. None: no such bound.
      until: Seconds since the epoch; rows after it are left out. None: no such bound.
      rows: How many rows that leaves.
    """

    split: str
    name: ShardName
    path: str
    row_groups: tuple[int, ...]
    after: int | None
    until: int | None
    rows: int


def plan_shards(
    data_uri: str, window: spans.Window, columns: Columns, eval_span: timedelta
) -> tuple[list[Shard], dict[str, int]]:
    """Cuts a window into shards, having looked at footers and the time column alone.

    Args:
      data_uri: Directory that holds the spans.
      window: The spans to read.
      columns: What every file must have.
      eval_span: How much time at the end of the window becomes `eval`.

    Returns:
      The shards, and the number of rows of each split.

    Raises:
      DataError: If a file cannot be read, has the wrong columns or rows of another month, or if a
        span or split has no row.
    """
    files, _ = spans.filesystem(data_uri)
    seconds = int(eval_span.total_seconds())
    times = {
        span.month: _read_span_times(files, span, columns) for span in (*window.train, window.test)
    }
    cutoff = max(_bounds(times[span.month])[1] for span in window.train) - seconds
    shards: list[Shard] = []
    rows = dict.fromkeys(SPLITS, 0)
    for span in (*window.train, window.test):
        of_span = times[span.month]
        first, last = _bounds(of_span)
        cuts = sorted({last - seconds, cutoff} if first <= cutoff < last else {last - seconds})
        index = 0
        for piece, (after, until) in enumerate(zip([None, *cuts], [*cuts, None], strict=True)):
            split = "train" if (last if until is None else until) <= cutoff else "eval"
            split = "test" if span == window.test else split
            for path, groups in of_span.items():
                counts = [_count(group, after, until) for group in groups]
                rows[split] += sum(counts)
                for portion in _portions(counts):
                    count = sum(counts[group] for group in portion)
                    facts = (_ENCODING, span.fingerprint, path, portion, after, until, columns.key)
                    key = hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
                    name = ShardName(span.month, piece, index, key)
                    shards.append(Shard(split, name, path, portion, after, until, count))
                    index += 1
    for split in SPLITS:
        if not rows[split]:
            raise DataError(
                f"the {split} split has no row; the window has {len(window.train)} month(s)"
            )
    return shards, rows


class _WriteShard(beam.DoFn):
    """Reads the row groups of a `Shard` and writes them as one TFRecord file of tf.Examples.

    A shard that a runner tries twice is written twice under one name with the same rows.
    """

    def __init__(self, data_uri: str, columns: Columns, examples_uri: str, store: SpanStore):
        self._data_uri = data_uri
        self._columns = columns
        self._examples_uri = examples_uri
        self._store = store

    def process(self, shard: Shard) -> Iterator[None]:
        folder = os.path.join(self._examples_uri, f"Split-{shard.split}")
        tf.io.gfile.makedirs(folder)
        output = os.path.join(folder, str(shard.name))
        if self._take_kept(shard, output):
            did = "as kept"
        else:
            self._encode(shard, output)
            did = f"{shard.rows:,} rows"
            with tf.io.gfile.GFile(output, "rb") as written:
                self._store.write(_KIND, shard.name.month, shard.name.key, written.read())
        progress.report(f"{shard.split} {shard.name.month} file {shard.name.number}: {did}")
        yield from ()

    def _take_kept(self, shard: Shard, output: str) -> bool:
        """Writes what is kept of a shard; it may be anything that somebody wrote there."""
        kept = self._store.read(_KIND, shard.name.month, shard.name.key)
        if kept is None or not _is_whole(kept):
            return False
        with tf.io.gfile.GFile(output, "wb") as out:
            out.write(kept)
        return _count_records(output) == shard.rows

    def _encode(self, shard: Shard, output: str) -> None:
        """Writes the rows of a shard."""
        files, _ = spans.filesystem(self._data_uri)
        encoder = example_coder.RecordBatchToExamplesEncoder()
        with (
            _open(files, shard.path) as parquet,
            open_records(output) as out,
        ):
            for group in shard.row_groups:
                for batch in self._read(parquet, shard, group):
                    for example in encoder.encode(batch):
                        out.write(example)

    def _read(self, parquet: ParquetFile, shard: Shard, group: int) -> Iterator[pa.RecordBatch]:
        try:
            table = parquet.read_row_group(group)
            seconds = _seconds(table[self._columns.time])
            keep = pa.array(_within(seconds, shard.after, shard.until))
            batches = [to_example_batch(b, self._columns) for b in table.filter(keep).to_batches()]
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(shard.path, group, error) from error
        yield from batches


def to_example_batch(batch: pa.RecordBatch, columns: Columns) -> pa.RecordBatch:
    """Converts flat columns to the list columns that tfx_bsl encodes as tf.Examples.

    Args:
      batch: Columns of strings, numbers, booleans or timestamps; null where absent.
      columns: The feature type of each.

    Returns:
      The same columns as lists of bytes, int64 or float32, null where absent.
    """
    names, arrays = [], []
    for name, array in zip(batch.schema.names, batch.columns, strict=True):
        if pa.types.is_null(array.type):
            continue
        kind = columns.types.get(name, _feature_type(array.type))
        names.append(name)
        arrays.append(_to_lists(_convert(array, kind)))
    return pa.RecordBatch.from_arrays(arrays, names)


_ALLOWED = {
    schema_pb2.BYTES: "string",
    schema_pb2.INT: "integer",
    schema_pb2.FLOAT: "floating point or integer",
}


def _feature_type(kind: pa.DataType) -> int | None:
    """The TFMD type that holds values of an Arrow type without loss, or None."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind):
        return schema_pb2.BYTES
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_timestamp(kind):
        return schema_pb2.INT
    if pa.types.is_floating(kind):
        return schema_pb2.FLOAT
    return None


def _convert(array: pa.Array, kind: int | None) -> pa.Array:
    if pa.types.is_timestamp(array.type):
        array = array.cast(pa.timestamp("s", array.type.tz), safe=False).cast(pa.int64())
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if kind == schema_pb2.BYTES:
        return array.cast(pa.binary())
    if kind == schema_pb2.INT:
        return array.cast(pa.int64())  # raises where an unsigned value is too large
    return array.cast(pa.float32(), safe=False)


def _to_lists(array: pa.Array) -> pa.ListArray:
    """One list per value; a null value becomes a null list, which is an absent feature."""
    present = np.asarray(array.is_valid())
    offsets = np.zeros(len(array) + 1, np.int32)
    np.cumsum(present, out=offsets[1:])
    absent = np.append(~present, False)
    return pa.ListArray.from_arrays(pa.array(offsets, mask=absent), array.drop_null())


def _seconds(column: pa.ChunkedArray) -> np.ndarray:
    """A timestamp column as int64 seconds since the epoch, shape [rows]."""
    whole = column.cast(pa.timestamp("s", column.type.tz), safe=False)
    return whole.cast(pa.int64()).to_numpy()


def _within(seconds: np.ndarray, after: int | None, until: int | None) -> np.ndarray:
    keep = np.ones(len(seconds), bool)
    if after is not None:
        keep &= seconds > after
    if until is not None:
        keep &= seconds <= until
    return keep


def _is_whole(gzipped: bytes) -> bool:
    """Whether nothing of a gzip file is missing or was changed: it ends in a checksum."""
    stream = zlib.decompressobj(wbits=31)
    try:
        rest = gzipped
        while rest and not stream.eof:  # In parts: what is small may unpack to more than memory.
            stream.decompress(rest, _PART_BYTES)
            rest = stream.unconsumed_tail
    except zlib.error:
        return False
    return stream.eof and not stream.unused_data


def _count_records(path: str) -> int:
    """How many records a gzipped TFRecord file has; -1 if it is none."""
    records = read_records(path).batch(_ROWS_PER_SHARD).as_numpy_iterator()
    try:
        return sum(map(len, records))
    except tf.errors.OpError:
        return -1


def _bounds(times: dict[str, list[np.ndarray]]) -> tuple[int, int]:
    """The first and the last time of a span, in seconds since the epoch."""
    seconds = np.concatenate([group for groups in times.values() for group in groups])
    return int(seconds.min()), int(seconds.max())


def _count(seconds: np.ndarray, after: int | None, until: int | None) -> int:
    return int(_within(seconds, after, until).sum())


def _portions(counts: list[int]) -> Iterator[tuple[int, ...]]:
    """Groups the row groups that have rows into portions of about one shard."""
    portion: list[int] = []
    size = 0
    for group, count in enumerate(counts):
        if not count:
            continue
        portion.append(group)
        size += count
        if size >= _ROWS_PER_SHARD:
            yield tuple(portion)
            portion, size = [], 0
    if portion:
        yield tuple(portion)


def _read_span_times(
    files: pa.fs.FileSystem, span: spans.Span, columns: Columns
) -> dict[str, list[np.ndarray]]:
    """The times of each row group of each file of a span, after the columns were checked."""
    times = {}
    for path in span.files:
        with _open(files, path) as parquet:
            columns.check(path, parquet.schema_arrow)
            times[path] = [
                _read_times(parquet, path, g, columns.time) for g in range(parquet.num_row_groups)
            ]
        _check_month(path, span.month, times[path], columns.time)
    if not any(len(group) for groups in times.values() for group in groups):
        raise DataError(f"span-{span.month} has no row: {', '.join(span.files)}")
    return times


def _check_month(path: str, month: int, times: list[np.ndarray], column: str) -> None:
    """Checks that the rows of a file are of its span's month, give or take a day for time zones."""
    begin, end = spans.month_bounds(month)
    seconds = np.concatenate([np.empty(0, np.int64), *times])
    outside = seconds[(seconds < begin) | (seconds >= end)]
    if len(outside):
        first, last = np.array([outside.min(), outside.max()]).astype("datetime64[s]")
        raise DataError(
            f"{path}: {len(outside):,} of {len(seconds):,} rows are not of the month {month}: "
            f"their {column!r} is {first} to {last}, UTC"
        )


def _read_times(parquet: ParquetFile, path: str, group: int, column: str) -> np.ndarray:
    try:
        values = parquet.read_row_group(group, columns=[column])[column]
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, group, error) from error
    if values.null_count:
        nulls = pc.sum(values.is_null()).as_py()
        raise DataError(
            f"{path}: row group {group}: column {column!r} is null in {nulls} row(s); "
            "every row needs a time"
        )
    return _seconds(values)


def _open(files: pa.fs.FileSystem, path: str) -> ParquetFile:
    try:
        parquet = open_file(path, files)
        _ = parquet.schema_arrow.names  # fails where a name is no UTF-8
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a readable Parquet file: {_one_line(error)}") from error
    return parquet


def _unreadable(path: str, group: int, error: Exception) -> DataError:
    return DataError(f"{path}: row group {group} cannot be read: {_one_line(error)}")


def _one_line(error: Exception) -> str:
    """The message of an error; Parquet's own have line breaks."""
    return " ".join(str(error).split())
