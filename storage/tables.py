"""Reads tables: Parquet, CSV and JSON lines, the last two also gzipped.

Text is read in a stream, with the types that the caller names, and becomes Parquet first: all that
comes after it reads row groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
from pyarrow import fs

from storage.csv_files import first_rows, read_csv
from storage.errors import DataError, one_line
from storage.json_files import first_names, read_json
from storage.parquet import open_file, write_row_groups
from storage.table_formats import Format, TextFormat, check_names

ROWS_PER_GROUP = 16_384
# The end of the year 9999, seconds since the Unix epoch.
LATEST = 253_402_300_799
TIME_EXPECTED = "a timestamp, a date or whole seconds since 1970 are expected"
_TIME = pa.timestamp("us")


def read_schema(path: str, files: fs.FileSystem, text: TextFormat) -> list[str]:
    """The names of a file's columns, of which the rows are not read.

    Raises:
      DataError: If it cannot be read, or two columns have the same name but for capitals.
    """
    kind = Format.of(path)
    with readable(path):
        if kind is Format.PARQUET:
            with open_file(path, files) as parquet:
                names = list(parquet.schema_arrow.names)
        elif kind is Format.CSV:
            names, _ = first_rows(path, files, text)
        else:
            names = first_names(path, files, text)
    check_names(path, names)
    return names


def read_times(path: str, files: fs.FileSystem, column: str, text: TextFormat) -> list[np.ndarray]:
    """The times of a file's rows.

    Returns:
      For each row group, as the file has them or `as_parquet` makes them, int64 seconds since the
      Unix epoch, shape [rows].

    Raises:
      DataError: If the column is not there, is no time, or a row has none.
    """
    names = read_schema(path, files, text)
    if column not in names:
        raise DataError(f"{path}: column {column!r} is missing; it has {', '.join(names)}")
    with readable(path):
        if Format.of(path) is Format.PARQUET:
            with open_file(path, files) as parquet:
                return [
                    seconds_of(
                        path, parquet.read_row_group(group, columns=[column])[column], column
                    )
                    for group in range(parquet.num_row_groups)
                ]
        batches = iter_batches(path, files, {column: _TIME}, text, [column])
        seconds = np.concatenate([seconds_of(path, batch.column(0), column) for batch in batches])
        return np.split(seconds, range(ROWS_PER_GROUP, len(seconds), ROWS_PER_GROUP))


def is_time(kind: pa.DataType) -> bool:
    """Whether a type may be that of the time column."""
    checks = (pa.types.is_timestamp, pa.types.is_date, pa.types.is_integer)
    return any(check(kind) for check in checks)


def seconds_of(path: str, values: pa.Array | pa.ChunkedArray, column: str) -> np.ndarray:
    """Times as int64 seconds since the Unix epoch, shape [rows].

    Raises:
      DataError: If the column has no times, or lacks one; it begins with `path`.
    """
    if not is_time(values.type):
        raise DataError(f"{path}: column {column!r} is {values.type}; {TIME_EXPECTED}")
    if values.null_count:
        raise DataError(
            f"{path}: column {column!r} is null in {values.null_count} rows; every row needs a time"
        )
    if pa.types.is_integer(values.type):
        seconds = values.cast(pa.int64()).to_numpy()
        if len(seconds) and not -LATEST <= seconds.min() <= seconds.max() <= LATEST:
            raise DataError(
                f"{path}: column {column!r} has {seconds.max()}, no number of seconds since 1970: "
                "divide it if it counts milliseconds or less"
            )
        return seconds
    zone = getattr(values.type, "tz", None)
    return values.cast(pa.timestamp("s", zone), safe=False).cast(pa.int64()).to_numpy()


def as_parquet(
    path: str,
    files: fs.FileSystem,
    targets: fs.FileSystem,
    target: str,
    types: Mapping[str, pa.DataType],
    text: TextFormat,
    others: Sequence[str] = (),
) -> list[str]:
    """Writes columns of a text file as Parquet, in row groups of `ROWS_PER_GROUP` rows.

    Args:
      path: The text file.
      files: Its file system.
      targets: The file system of `target`.
      target: The Parquet file.
      types: The columns to keep, and the type of each.
      text: How text is written.
      others: More columns to keep, of any type: strings in CSV, what they look like in JSON lines.

    Returns:
      The names of the other columns, which are left out.

    Raises:
      DataError: If it cannot be read as that, naming the row and the column.
    """
    left_out: set[str] = set()
    columns = [*types, *others]
    with readable(path):
        if Format.of(path) is Format.CSV:
            names = read_schema(path, files, text)
            left_out |= set(names) - set(columns)
            columns = [name for name in names if name in columns]
            if not columns:
                raise DataError(
                    f"{path}: none of its columns {', '.join(names)} is in the schema: is the "
                    f"first row a header, and data.separator {text.separator!r} right?"
                )
            batches = read_csv(path, files, types, text, columns)
        else:
            batches = read_json(path, files, types, text, columns, left_out)
        with targets.open_output_stream(target) as out:
            write_row_groups(batches, out, ROWS_PER_GROUP)
    return sorted(left_out)


def read_table(
    path: str,
    files: fs.FileSystem,
    types: Mapping[str, pa.DataType],
    text: TextFormat,
    columns: list[str],
) -> pa.Table:
    """Reads columns of a file of any format into memory; see `iter_batches`."""
    with readable(path):
        if Format.of(path) is Format.PARQUET:
            with open_file(path, files) as parquet:
                return parquet.read(columns)
        return pa.Table.from_batches(iter_batches(path, files, types, text, columns))


def iter_batches(
    path: str,
    files: fs.FileSystem,
    types: Mapping[str, pa.DataType],
    text: TextFormat,
    columns: list[str] | None = None,
) -> Iterator[pa.RecordBatch]:
    """The rows of a file of any format, some thousand at a time.

    Args:
      path: The file.
      files: Its file system.
      types: Type of each column of text that matters; Parquet has types of its own.
      text: How text is written.
      columns: Which to read; None for all.

    Raises:
      DataError: If it cannot be read as that, naming the row and the column.
    """
    with readable(path):
        kind = Format.of(path)
        if kind is Format.PARQUET:
            with open_file(path, files) as parquet:
                yield from parquet.iter_batches(columns=columns)
        elif kind is Format.CSV:
            yield from read_csv(path, files, types, text, columns)
        else:
            yield from read_json(path, files, types, text, columns, set())


@contextmanager
def readable(path: str) -> Iterator[None]:
    """Names the file in errors of reading it; a block of nothing else.

    Raises:
      DataError: If it cannot be read.
    """
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError, EOFError) as error:
        raise DataError(f"{path} cannot be read: {one_line(error)}") from error
