"""Reads Parquet files of spans: errors name the file, times are seconds since the epoch."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.errors import DataError
from storage.parquet import ParquetFile, open_file


def open_parquet(files: pa.fs.FileSystem, path: str) -> ParquetFile:
    """Opens a file of a span.

    Raises:
      DataError: If it is no Parquet file.
    """
    try:
        parquet = open_file(path, files)
        _ = parquet.schema_arrow.names  # fails where a name is no UTF-8
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a readable Parquet file: {_one_line(error)}") from error
    return parquet


def read_times(parquet: ParquetFile, path: str, group: int, column: str) -> np.ndarray:
    """The times of a row group, int64 seconds since the epoch, shape [rows].

    Raises:
      DataError: If they cannot be read, or one is null.
    """
    try:
        values = parquet.read_row_group(group, columns=[column])[column]
    except (pa.ArrowException, OSError) as error:
        raise unreadable(path, group, error) from error
    if values.null_count:
        nulls = pc.sum(values.is_null()).as_py()
        raise DataError(
            f"{path}: row group {group}: column {column!r} is null in {nulls} row(s); "
            "every row needs a time"
        )
    return seconds_of(values)


def seconds_of(column: pa.ChunkedArray) -> np.ndarray:
    """A timestamp column as int64 seconds since the epoch, shape [rows]."""
    whole = column.cast(pa.timestamp("s", column.type.tz), safe=False)
    return whole.cast(pa.int64()).to_numpy()


def unreadable(path: str, group: int, error: Exception) -> DataError:
    """What to raise where a row group cannot be read."""
    return DataError(f"{path}: row group {group} cannot be read: {_one_line(error)}")


def _one_line(error: Exception) -> str:
    """The message of an error; Parquet's own have line breaks."""
    return " ".join(str(error).split())
