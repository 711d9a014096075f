"""The files of a table that is to be predicted, cut into shards."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pyarrow import fs

from ml.example_columns import Columns
from ml.text_columns import TextColumns
from storage.csv_files import first_rows
from storage.errors import DataError, UserError, one_line
from storage.json_files import LINE, read_json
from storage.parquet import ParquetFile, open_file, write_row_groups
from storage.spans import DataSource, filesystem, find_spans
from storage.table_formats import Format, TextFormat, check_names, types_as_written
from storage.tables import ROWS_PER_GROUP, iter_batches, read_schema, readable
from storage.uris import open_uri

ROWS_PER_SHARD = 65_536
# A Parquet file with larger row groups is copied: one of them would be all the work of one worker.
_MOST_ROWS_OF_A_GROUP = 4 * ROWS_PER_SHARD
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class InputFile:
    """A file of the table.

    Attributes:
      path: Its path in the file system of the input.
      version: Size and time of change.
      digest: SHA-256 of its content; its version if it is in an object store.
    """

    path: str
    version: str
    digest: str

    @property
    def name(self) -> str:
        """Its name without the folder."""
        return os.path.basename(self.path)


@dataclass(frozen=True)
class Shard:
    """Row groups of a Parquet file, which become one file of predictions.

    Attributes:
      number: Number of the shard in the whole table.
      file: The file of the table.
      copy: URI of the Parquet file to read in its place; "" for the file itself.
      row_groups: The row groups.
      first_row: Number of the first row in the file, from 1.
    """

    number: int
    file: InputFile
    copy: str
    row_groups: tuple[int, ...]
    first_row: int


@dataclass(frozen=True)
class Table:
    """The files of a table.

    Attributes:
      uri: The file, or the folder of the files.
      text: How text files are written.
      format: The format of all its files.
      files: The files, in the order of their names.
    """

    uri: str
    text: TextFormat
    format: Format
    files: tuple[InputFile, ...]

    @classmethod
    def find(cls, uri: str, text: TextFormat) -> Table:
        """Finds the files, and takes the digest of each.

        Raises:
          DataError: If there are none, or something else besides them.
        """
        files, path = filesystem(uri)
        kind = files.get_file_info(path).type
        if kind == fs.FileType.NotFound:
            raise DataError(f"--input {uri} does not exist")
        if kind == fs.FileType.Unknown:
            raise DataError(f"--input {uri} is neither a file nor a folder")
        (span,) = find_spans(DataSource(uri, text=text))
        found = []
        for path, version in zip(span.files, span.versions, strict=True):
            digest = version
            if isinstance(files, fs.LocalFileSystem):
                digest = _digest(path)
            found.append(InputFile(path, version, digest))
        format = Format.of(span.files[0])
        assert format is not None  # `find_spans` finds no other files.
        return cls(uri, text, format, tuple(found))

    @property
    def facts(self) -> dict[str, Any]:
        """What tells it from another table, as JSON."""
        return {file.name: file.digest for file in self.files}

    def text_columns(self, columns: Columns) -> TextColumns | None:
        """The types that the strings of CSV files become; None for other formats.

        Args:
          columns: Types of the schema.
        """
        if self.format is not Format.CSV:
            return None
        files, _ = filesystem(self.uri)
        with readable(self.files[0].path):
            names, first = first_rows(self.files[0].path, files, self.text)
        known = {name: kind for name, kind in columns.text_types.items() if name in names}
        types = types_as_written(known, first)
        for name in sorted(types.keys() & columns.lengths.keys()):
            raise DataError(
                f"{self.files[0].path}: column {name!r} is a list of {columns.lengths[name]} "
                "values, which no CSV file holds: use Parquet or JSON lines"
            )
        return TextColumns(types, self.text.null_values)

    def shards(
        self,
        columns: Columns,
        copies_uri: str,
        with_lines: bool,
        check: Callable[[str, pa.Schema], None],
    ) -> list[Shard]:
        """Cuts the table into shards; text files are copied as Parquet.

        Args:
          columns: Types of the schema, by which JSON lines are read.
          copies_uri: Folder of the copies, which all workers can read.
          with_lines: Whether copies of JSON lines have the column `LINE`.
          check: Checks the columns of a file; called with its name and its Arrow schema.

        Raises:
          DataError: If a file cannot be read, has other columns than the first, or changes
            meanwhile, or if there is no row.
        """
        files, _ = filesystem(self.uri)
        shards: list[Shard] = []
        first: pa.Schema | None = None
        for number, file in enumerate(self.files):
            copy = ""
            if self.format is not Format.PARQUET or _has_large_groups(file, files):
                copy = f"{copies_uri}/{number:05d}.parquet"
                self._copy(file, columns, copy, with_lines)
            with open_table(self, file, copy) as parquet:
                found = parquet.schema_arrow
                if with_lines:
                    found = without_line(found)
                check_names(file.path, found.names)
                check(file.path, found)
                if first is not None and _types(found) != _types(first):
                    raise DataError(
                        f"{file.path}: its columns are not those of {self.files[0].path}: "
                        f"{_difference(first, found)}"
                    )
                first = first or found
                rows = [
                    parquet.metadata.row_group(group).num_rows
                    for group in range(parquet.num_row_groups)
                ]
            for groups, first_row in _portions(rows):
                shards.append(Shard(len(shards), file, copy, groups, first_row))
            self.check_unchanged(file)
        if not shards:
            raise DataError(f"{self.uri} has no row")
        return shards

    def check_unchanged(self, file: InputFile) -> None:
        """Checks that a file is as it was found.

        Raises:
          DataError: If it is not.
        """
        files, _ = filesystem(self.uri)
        info = files.get_file_info(file.path)
        if f"{info.size} {info.mtime_ns}" != file.version:
            raise DataError(
                f"{file.path} changed while it was read: predict it again, into another folder"
            )

    def _copy(self, file: InputFile, columns: Columns, copy: str, with_lines: bool) -> None:
        files, _ = filesystem(self.uri)
        if self.format is Format.JSONL:
            batches = self._json_lines(file, columns, with_lines)
        elif self.format is Format.CSV:  # As written: the types of values are the workers' matter.
            text = TextFormat(self.text.separator, self.text.encoding, ())
            batches = iter_batches(file.path, files, {}, text)
        else:
            batches = iter_batches(file.path, files, {}, self.text)
        targets, path = open_uri(copy)
        try:
            targets.create_dir(os.path.dirname(path), recursive=True)
            with targets.open_output_stream(path) as out:
                write_row_groups(_batches(file.path, batches), out, ROWS_PER_GROUP)
        except OSError as error:
            raise UserError(f"--output: {copy} cannot be written: {error}") from error

    def _json_lines(
        self, file: InputFile, columns: Columns, with_lines: bool
    ) -> Iterator[pa.RecordBatch]:
        files, _ = filesystem(self.uri)
        names = read_schema(file.path, files, self.text)
        types = dict(columns.text_types)
        for batch in read_json(file.path, files, types, self.text, None, set(), with_lines):
            yield _select(batch, [*names, LINE] if with_lines else names)


def without_line(schema: pa.Schema) -> pa.Schema:
    """The columns of a copy without `LINE`, which the table does not have."""
    return pa.schema([field for field in schema if field.name != LINE])


def _batches(path: str, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The batches of a file, whose errors name it: another file is written meanwhile."""
    with readable(path):
        yield from batches


def open_table(table: Table, file: InputFile, copy: str) -> ParquetFile:
    """Opens a file of a table, or its Parquet copy.

    Raises:
      DataError: If it cannot be opened.
    """
    files, path = open_uri(copy) if copy else (filesystem(table.uri)[0], file.path)
    try:
        parquet = open_file(path, files)
        _ = parquet.schema_arrow.names  # Fails if a name is not UTF-8.
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = one_line(error)
        raise DataError(f"{file.path} is not a readable Parquet file: {reason}") from error
    return parquet


def _digest(path: str) -> str:
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    return digest.hexdigest()


def _has_large_groups(file: InputFile, files: fs.FileSystem) -> bool:
    try:
        with open_file(file.path, files) as parquet:
            groups = range(parquet.num_row_groups)
            rows = [parquet.metadata.row_group(group).num_rows for group in groups]
    except (pa.ArrowException, OSError):
        return False  # `open_table` says why.
    return max(rows, default=0) > _MOST_ROWS_OF_A_GROUP


def _portions(rows: list[int]) -> Iterator[tuple[tuple[int, ...], int]]:
    """Row groups that make up a shard, and the number of the first row, from 1."""
    pending: list[int] = []
    first = 1
    for group in range(len(rows)):
        pending.append(group)
        held = sum(rows[one] for one in pending)
        if held >= ROWS_PER_SHARD or group + 1 == len(rows):
            if held:
                yield tuple(pending), first
            first += held
            pending = []


def _select(batch: pa.RecordBatch, names: list[str]) -> pa.RecordBatch:
    """The columns in this order."""
    places = [batch.schema.get_field_index(name) for name in names]
    return pa.RecordBatch.from_arrays([batch.column(place) for place in places], names)


def _types(schema: pa.Schema) -> list[tuple[str, pa.DataType]]:
    return list(zip(schema.names, schema.types, strict=True))


def _difference(first: pa.Schema, found: pa.Schema) -> str:
    """The first difference of two tables' columns, for a person."""
    ours, theirs = dict(_types(first)), dict(_types(found))
    for name in ours | theirs:
        if name not in theirs:
            return f"{name!r} is absent"
        if name not in ours:
            return f"{name!r} is additional"
        if ours[name] != theirs[name]:
            return f"{name!r} is {theirs[name]}, not {ours[name]}"
    return f"their order is {', '.join(found.names)}"
