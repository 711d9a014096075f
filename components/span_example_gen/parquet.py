"""Opens Parquet files of spans; errors name the file."""

import pyarrow as pa

from storage.errors import DataError, one_line
from storage.parquet import ParquetFile, open_file


def open_parquet(files: pa.fs.FileSystem, path: str, name: str) -> ParquetFile:
    """Opens a file of a span.

    Args:
      files: Its file system.
      path: Its path there.
      name: Its name in messages.

    Raises:
      DataError: If it is not a Parquet file.
    """
    try:
        parquet = open_file(path, files)
        _ = parquet.schema_arrow.names  # Fails if a name is not UTF-8.
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{name} is not a readable Parquet file: {one_line(error)}") from error
    return parquet


def unreadable(path: str, group: int, error: Exception) -> DataError:
    """The error for a row group that cannot be read."""
    return DataError(f"{path}: row group {group} cannot be read: {one_line(error)}")
