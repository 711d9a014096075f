"""Opens Parquet files safely; use it everywhere, because a file can otherwise run code.

Up to pyarrow 14, a column of the type `arrow.py_extension_type` is a pickle that is loaded with the
file's footer, before anybody reads a column (CVE-2023-47248). TFX 1.16 needs pyarrow 10.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow_hotfix  # noqa: F401  Its import has pyarrow refuse such a column.
from pyarrow import fs
from pyarrow.parquet import ParquetFile, ParquetWriter


def open_file(path: str, files: fs.FileSystem | None = None) -> ParquetFile:
    """Opens a Parquet file, of which nothing but the footer is read yet.

    Args:
      path: Path in the file system.
      files: The file system; None for the local one.

    Raises:
      pa.ArrowException: If it is not a Parquet file, or would run code.
      OSError: If it cannot be read.
    """
    try:
        return ParquetFile((files or fs.LocalFileSystem()).open_input_file(path))
    except (pa.ArrowException, OSError):
        raise
    except Exception as error:  # pyarrow_hotfix may raise anything when it parses the pickle.
        raise pa.ArrowInvalid(
            "a column is a Python object (arrow.py_extension_type), which could run code"
        ) from error


def write_row_groups(batches: Iterable[pa.RecordBatch], out: Any, rows: int) -> None:
    """Writes a Parquet file.

    Args:
      batches: Its rows, at least one batch.
      out: The stream to write to.
      rows: How many rows each row group but the last has.

    Raises:
      pa.ArrowException: If the batches do not have the same columns.
    """
    batches = iter(batches)
    pending = [next(batches)]
    with ParquetWriter(out, pending[0].schema, compression="lz4") as writer:
        for batch in batches:
            pending.append(batch)
            if sum(part.num_rows for part in pending) >= rows:
                table = pa.Table.from_batches(pending)
                whole = len(table) // rows * rows
                writer.write_table(table.slice(0, whole), row_group_size=rows)
                pending = table.slice(whole).to_batches()
        if pending:
            writer.write_table(pa.Table.from_batches(pending), row_group_size=rows)
