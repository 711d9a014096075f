"""Opens Parquet files safely; use it everywhere, because a file can otherwise run code.

Up to pyarrow 14, a column of the type `arrow.py_extension_type` is a pickle that is loaded with the
file's footer, before anybody reads a column (CVE-2023-47248). TFX 1.16 needs pyarrow 10.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow_hotfix  # noqa: F401  Its import has pyarrow refuse such a column.
from pyarrow import fs
from pyarrow.parquet import ParquetFile, ParquetWriter

# Size in memory at which a row group is written.
_GROUP_BYTES = 64 << 20


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
    with ParquetWriter(out, pending[0].schema, compression="lz4", version="2.6") as writer:
        for batch in batches:
            pending.append(batch)
            if sum(part.num_rows for part in pending) >= rows:
                table = pa.Table.from_batches(pending)
                whole = len(table) // rows * rows
                writer.write_table(table.slice(0, whole), row_group_size=rows)
                pending = table.slice(whole).to_batches()
        if pending:
            writer.write_table(pa.Table.from_batches(pending), row_group_size=rows)


class ParquetBuffer:
    """A Parquet file that is written in memory, with all its types as they are.

    Args:
      schema: Its columns.

    Attributes:
      schema: Its columns.
      rows: Number of rows so far.

    Example:
      >>> buffer = ParquetBuffer(pa.schema([("x", pa.int8())]))
      >>> buffer.add(pa.table({"x": pa.array([7], pa.int8())}))
      >>> buffer.close()[:4]
      b'PAR1'
    """

    def __init__(self, schema: pa.Schema):
        self.schema = schema
        self.rows = 0
        self._pending: list[pa.Table] = []
        self._out = io.BytesIO()
        self._writer = ParquetWriter(self._out, schema, version="2.6")

    def add(self, rows: pa.Table) -> None:
        """Adds rows."""
        self.rows += len(rows)
        self._pending.append(rows)
        if sum(part.nbytes for part in self._pending) >= _GROUP_BYTES:
            self._flush()

    def close(self) -> bytes:
        """Ends the file, and returns it."""
        self._flush()
        self._writer.close()
        return self._out.getvalue()

    def _flush(self) -> None:
        if self._pending:
            self._writer.write_table(pa.concat_tables(self._pending))
        self._pending = []
