"""The files of a window: copied as small row groups where needed, and what was found is kept."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import pyarrow as pa
import tensorflow as tf

from components.span_example_gen.parquet import open_parquet, unreadable
from components.span_example_gen.row_order import RowOrder, hash_rows, within
from ml import progress
from ml.example_columns import Columns
from storage.parquet import ParquetFile, write_row_groups
from storage.span_store import ShardName, SpanStore
from storage.spans import DataSource, Span, filesystem
from storage.table_formats import Format
from storage.tables import ROWS_PER_GROUP, as_parquet, readable

_Item = TypeVar("_Item")
_FOLDER = ".staged"
# Kinds of entries of the store.
EXAMPLES, _ROWS, _DIGEST = "examples", "rows", "digest"
# Version of the format of kept entries; others are not used.
_ENCODING = 3
# A Parquet file with a row group of more rows is copied: a row group is read as a whole, and
# becomes one file of examples.
_MOST_ROWS_OF_A_GROUP = 2 * ROWS_PER_GROUP


@dataclass(frozen=True)
class FileRows:
    """The rows of a file.

    Attributes:
      places: Places of the rows in the `RowOrder`, int64, one array per row group.
      left_out: Columns that are not read.
    """

    places: list[np.ndarray]
    left_out: tuple[str, ...]

    def encode(self) -> bytes:
        """Writes it as a line of JSON and compressed integers."""
        facts = {"groups": [len(group) for group in self.places], "left_out": self.left_out}
        rows = b"".join(group.astype("<i8").tobytes() for group in self.places)
        return json.dumps(facts).encode() + b"\n" + zlib.compress(rows, 1)

    @classmethod
    def decode(cls, content: bytes) -> FileRows:
        """Reads what `encode` wrote.

        Raises:
          ValueError: If it did not.
        """
        line, _, rows = content.partition(b"\n")
        facts = json.loads(line)
        if not isinstance(facts, dict):
            raise ValueError("an object is expected")
        groups = _list_of(facts.get("groups"), int)
        left_out = _list_of(facts.get("left_out"), str)
        size = 8 * sum(groups)
        if min(groups, default=0) < 0:
            raise ValueError("a row group has a negative number of rows")
        stream = zlib.decompressobj()
        try:
            places = np.frombuffer(stream.decompress(rows, size + 1), "<i8").astype(np.int64)
        except zlib.error as error:
            raise ValueError(str(error)) from error
        if 8 * len(places) != size:
            raise ValueError("another number of rows is expected")
        return cls(np.split(places, np.cumsum(groups)[:-1]) if groups else [], tuple(left_out))


@dataclass
class SourceFiles:
    """Reads the files of a window.

    Attributes:
      source: The data.
      columns: The columns to read.
      order: By what rows are split.
      store: What earlier runs found.
      folder: Folder of the files' Parquet copies, which all workers can read.
      known: The rows of the files that were read, by path and version.
      copies: Folder and path of the copy of each file that has one.
      lacking: The columns that each copy lacks.
      left_out: Columns of the files that are not read.
    """

    source: DataSource
    columns: Columns
    order: RowOrder
    store: SpanStore
    folder: str
    copies: dict[str, tuple[str, str]] = field(default_factory=dict)
    known: dict[tuple[str, str], FileRows] = field(default_factory=dict)
    lacking: dict[str, list[str]] = field(default_factory=dict)
    left_out: set[str] = field(default_factory=set)

    def read_rows(self, span: Span, path: str, version: str) -> list[np.ndarray]:
        """The places of a file's rows, by row group, after its columns were checked.

        Raises:
          DataError: If it cannot be read, or has the wrong columns.
        """
        if (path, version) not in self.known:
            rows = self.known[path, version] = self._read_rows(span, path, version)
            self.left_out |= set(rows.left_out)
        return self.known[path, version].places

    def digest(
        self,
        span: Span,
        path: str,
        version: str,
        groups: Sequence[int],
        after: int | None,
        until: int | None,
    ) -> str:
        """Identifies the rows of some row groups that are within the bounds of a `Shard`.

        A file that grows has the same rows as before, but another version.
        """
        key = self._key(path, version, tuple(groups), after, until)
        kept = self.store.read(_DIGEST, _number(span), key)
        if kept is not None and len(kept) == 64 and kept.isalnum():
            return kept.decode()
        digest = hashlib.sha256()
        with self.open(path) as parquet:
            names = sorted(self.columns.read & set(parquet.schema_arrow.names))
            digest.update(repr(names).encode())
            for group in groups:
                try:
                    table = parquet.read_row_group(group, columns=names)
                except (pa.ArrowException, OSError) as error:
                    raise unreadable(path, group, error) from error
                keep = within(self.known[path, version].places[group], after, until)
                digest.update(hash_rows(table, names)[keep].tobytes())
        self.store.write(_DIGEST, _number(span), key, digest.hexdigest().encode())
        return digest.hexdigest()

    @contextmanager
    def open(self, path: str) -> Iterator[ParquetFile]:
        """Opens a file, or the copy of one that needs a copy, which is made if it is not there."""
        self.copy(path)
        if path in self.copies:
            files, target = filesystem(self.folder)[0], self.copies[path][1]
        else:
            files, target = filesystem(self.source.uri)[0], path
        with open_parquet(files, target, path) as parquet:
            yield parquet

    def copy(self, path: str) -> None:
        """Copies a file that needs it, once."""
        copier = Copier(self.source, self.columns, self.order)
        if path in self.copies or not copier.is_needed(path):
            return
        progress.report(f"reading {os.path.basename(path)}")
        tf.io.gfile.makedirs(self.folder)
        targets, root = filesystem(self.folder)
        target = f"{root}/{len(self.copies):06d}.parquet"
        self.lacking[path] = copier.copy(path, targets, target)
        self.copies[path] = self.folder, target

    def copy_unkept(self, shards: Iterable[tuple[str, ShardName]]) -> None:
        """Copies the files that need it, and of which examples are not kept.

        Args:
          shards: The file and the name of each shard.
        """
        for path, name in shards:
            if path not in self.copies and not self.store.holds(EXAMPLES, name.span, name.key):
                self.copy(path)

    def _read_rows(self, span: Span, path: str, version: str) -> FileRows:
        key = self._key(path, version)
        kept = self.store.read(_ROWS, _number(span), key)
        if kept is not None:
            with contextlib.suppress(ValueError, RecursionError, OverflowError):
                return FileRows.decode(kept)
        with self.open(path) as parquet:
            found = parquet.schema_arrow
            self.columns.check(path, found)
            places = [
                self.order.read(parquet, path, group) for group in range(parquet.num_row_groups)
            ]
        left_out = {*found.names, *self.lacking.get(path, ())} - self.columns.read
        rows = FileRows(places, tuple(sorted(left_out - set(self.order.key_columns))))
        self.store.write(_ROWS, _number(span), key, rows.encode())
        return rows

    def _key(self, *facts: object) -> str:
        all_facts = (_ENCODING, self.columns.key, self.order, self.source.text, *facts)
        return hashlib.sha256(repr(all_facts).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Copier:
    """Writes text files, and Parquet files of large row groups, as Parquet of small ones.

    Attributes:
      source: The data.
      columns: The columns to read.
      order: By what rows are split.
    """

    source: DataSource
    columns: Columns
    order: RowOrder

    def is_needed(self, path: str) -> bool:
        """Whether a file is read from a copy.

        Raises:
          DataError: If it is not a Parquet file, and no text file.
        """
        if Format.of(path) is not Format.PARQUET:
            return True
        with open_parquet(filesystem(self.source.uri)[0], path, path) as parquet:
            return has_large_groups(parquet)

    def copy(self, path: str, targets: pa.fs.FileSystem, target: str) -> list[str]:
        """Writes a file; returns the names of columns that are left out.

        Raises:
          DataError: If it cannot be read; see `storage.tables.as_parquet`.
        """
        files, _ = filesystem(self.source.uri)
        if Format.of(path) is Format.PARQUET:
            with (
                readable(path),
                open_parquet(files, path, path) as parquet,
                targets.open_output_stream(target) as out,
            ):
                batches = parquet.iter_batches(ROWS_PER_GROUP, use_threads=False)
                write_row_groups(batches, out, ROWS_PER_GROUP)
            return []
        types = self.columns.text_types
        others = [name for name in self.order.key_columns if name not in types]
        return as_parquet(path, files, targets, target, types, self.source.text, others)


@contextmanager
def source_files(
    source: DataSource, columns: Columns, order: RowOrder, store: SpanStore, uri: str
) -> Iterator[SourceFiles]:
    """Opens the files of a window, and deletes the copies of text files in the end.

    Args:
      source: The data.
      columns: The columns to read.
      order: By what rows are split.
      store: What earlier runs found.
      uri: Folder of the examples.
    """
    folder = os.path.join(uri, _FOLDER)
    try:
        yield SourceFiles(source, columns, order, store, folder)
    finally:
        if tf.io.gfile.exists(folder):
            tf.io.gfile.rmtree(folder)


def has_large_groups(parquet: ParquetFile) -> bool:
    """Whether a row group of a file has too many rows for one file of examples."""
    groups = range(parquet.num_row_groups)
    rows = (parquet.metadata.row_group(group).num_rows for group in groups)
    return max(rows, default=0) > _MOST_ROWS_OF_A_GROUP


def _number(span: Span) -> int:
    """Under which number what is found in a span's files is kept."""
    return 0 if span.within else span.number


def _list_of(value: object, kind: type[_Item]) -> list[_Item]:
    if not (isinstance(value, list) and all(type(item) is kind for item in value)):
        raise ValueError(f"a list of {kind.__name__} is expected")
    return value
