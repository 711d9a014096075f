"""Writes the shards of a window as tf.Examples, or reuses those of an earlier run."""

import os
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import apache_beam as beam
import pyarrow as pa
import tensorflow as tf
from tfx_bsl.coders import example_coder

from components.span_example_gen.parquet import open_parquet, unreadable
from components.span_example_gen.plan import ROWS_PER_SHARD, Shard
from components.span_example_gen.row_order import within
from components.span_example_gen.source_files import EXAMPLES, Copier
from ml import progress
from ml.artifacts import split_uri
from ml.example_columns import to_example_batch
from storage.errors import DataError
from storage.parquet import ParquetFile
from storage.span_store import SpanStore
from storage.spans import filesystem
from storage.tfrecords import open_records, read_records

_PART_BYTES = 1 << 20
# Namespace of the counters of columns of which numbers were rounded.
ROUNDED = "rounded"


class WriteShard(beam.DoFn):
    """Reads the row groups of a `Shard` and writes them as one TFRecord file of tf.Examples.

    A shard that a runner retries is written again under the same name with the same rows.
    """

    def __init__(
        self, copier: Copier, copies: dict[str, tuple[str, str]], uri: str, store: SpanStore
    ):
        self._copier = copier
        self._copies = copies
        self._examples_uri = uri
        self._store = store

    def process(self, shard: Shard) -> Iterator[None]:
        """Writes a shard; yields nothing."""
        folder = split_uri(self._examples_uri, shard.split)
        tf.io.gfile.makedirs(folder)
        output = os.path.join(folder, str(shard.name))
        if self._take_kept(shard, output):
            did = "as kept"
        else:
            self._encode(shard, output)
            did = f"{shard.rows:,} rows"
            with tf.io.gfile.GFile(output, "rb") as written:
                self._store.write(EXAMPLES, shard.name.span, shard.name.key, written.read())
        progress.report(f"{shard.split} {shard.name.span} file {shard.name.number}: {did}")
        yield from ()

    def _take_kept(self, shard: Shard, output: str) -> bool:
        """Copies the kept file of a shard, if it is intact: others may write to the store."""
        kept = self._store.read(EXAMPLES, shard.name.span, shard.name.key)
        if kept is None or not _is_whole(kept):
            return False
        with tf.io.gfile.GFile(output, "wb") as out:
            out.write(kept)
        return _count_records(output) == shard.rows

    def _encode(self, shard: Shard, output: str) -> None:
        """Writes the rows of a shard."""
        encoder = example_coder.RecordBatchToExamplesEncoder()
        with self._open(shard.path) as parquet, open_records(output) as out:
            for group in shard.row_groups:
                for batch in self._read(parquet, shard, group):
                    for example in encoder.encode(batch):
                        out.write(example)

    @contextmanager
    def _open(self, path: str) -> Iterator[ParquetFile]:
        """Opens a file, or its copy."""
        if path in self._copies:
            uri, copy = self._copies[path]
            with open_parquet(filesystem(uri)[0], copy, path) as parquet:
                yield parquet
        elif not self._copier.is_needed(path):
            with open_parquet(filesystem(self._copier.source.uri)[0], path, path) as parquet:
                yield parquet
        else:  # Its examples were kept, but are damaged.
            with tempfile.TemporaryDirectory() as folder:
                copy = os.path.join(folder, "rows.parquet")
                local = pa.fs.LocalFileSystem()
                self._copier.copy(path, local, copy)
                with open_parquet(local, copy, path) as parquet:
                    yield parquet

    def _read(self, parquet: ParquetFile, shard: Shard, group: int) -> Iterator[pa.RecordBatch]:
        rounded: set[str] = set()
        try:
            table = parquet.read_row_group(group)
            if shard.after is not None or shard.until is not None:
                places = self._copier.order.places(table, shard.path)
                table = table.filter(pa.array(within(places, shard.after, shard.until)))
            columns = self._copier.columns
            batches = [to_example_batch(b, columns, rounded) for b in table.to_batches()]
        except DataError as error:
            raise DataError(f"{shard.path}: {error}") from error
        except (pa.ArrowException, OSError) as error:
            raise unreadable(shard.path, group, error) from error
        for name in rounded:
            beam.metrics.Metrics.counter(ROUNDED, name).inc()
        yield from batches


def _is_whole(gzipped: bytes) -> bool:
    """Whether a gzip file is complete and unchanged, by its checksum."""
    stream = zlib.decompressobj(wbits=31)
    try:
        rest = gzipped
        while rest and not stream.eof:  # In parts: a small file may unpack to more than memory.
            stream.decompress(rest, _PART_BYTES)
            rest = stream.unconsumed_tail
    except zlib.error:
        return False
    return stream.eof and not stream.unused_data


def _count_records(path: str) -> int:
    """The number of records in a gzipped TFRecord file; -1 if it is not one."""
    records = read_records(path).batch(ROWS_PER_SHARD).as_numpy_iterator()
    try:
        return sum(map(len, records))
    except tf.errors.OpError:
        return -1
