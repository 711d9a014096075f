"""The order by which rows are split: their time, or a hash if they have none."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa

from components.span_example_gen.parquet import unreadable
from storage.errors import DataError
from storage.parquet import ParquetFile
from storage.tables import seconds_of


@dataclass(frozen=True)
class RowOrder:
    """The order of rows.

    Attributes:
      time_column: Time of a row; "" where rows have none.
      key_columns: Columns whose values decide on a row's split, so that rows with the same values
        are in the same split.
      columns: The columns that do so if there is no key, as far as a file has them.
    """

    time_column: str
    key_columns: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()

    BUCKETS: ClassVar[int] = 10_000

    def read(self, parquet: ParquetFile, path: str, group: int) -> np.ndarray:
        """The places of the rows of a row group.

        Args:
          parquet: The file.
          path: Its name in messages.
          group: Index of the row group.

        Returns:
          int64 seconds since the Unix epoch, or a number below `BUCKETS`, shape [rows].

        Raises:
          DataError: If they cannot be read, or a row has no time.
        """
        names = parquet.schema_arrow.names
        needed = [self.time_column] if self.time_column else list(self.key_columns)
        if missing := [name for name in needed if name not in names]:
            raise DataError(
                f"{path}: column {missing[0]!r} is missing (data.key_columns); it has "
                f"{', '.join(names)}"
            )
        needed = needed or [name for name in self.columns if name in names]
        try:
            table = parquet.read_row_group(group, columns=needed)
        except (pa.ArrowException, OSError) as error:
            raise unreadable(path, group, error) from error
        return self.places(table, f"{path}: row group {group}")

    def places(self, table: pa.Table, where: str) -> np.ndarray:
        """The places of the rows of a table; see `read`."""
        if self.time_column:
            return seconds_of(where, table[self.time_column], self.time_column)
        names = self.key_columns or sorted(set(self.columns) & set(table.column_names))
        mixed = pd.util.hash_array(hash_rows(table, names))
        return (mixed % np.uint64(self.BUCKETS)).astype(np.int64)


def within(places: np.ndarray, after: int | None, until: int | None) -> np.ndarray:
    """Which places are after one bound and not after the other, bool, shape [rows]."""
    keep = np.ones(len(places), bool)
    if after is not None:
        keep &= places > after
    if until is not None:
        keep &= places <= until
    return keep


def hash_rows(table: pa.Table, names: Sequence[str]) -> np.ndarray:
    """A hash of each row, uint64, shape [rows], the same in every process and for every file.

    Args:
      table: The rows.
      names: The columns that count.
    """
    hashes = np.zeros(len(table), np.uint64)
    for name in names:
        salt = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
        hashes = hashes * np.uint64(31) + (_hash(table[name]) ^ np.uint64(salt))
    return hashes


def _hash(column: pa.ChunkedArray) -> np.ndarray:
    """A hash of each value, uint64; 0 for an absent one."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
        column = column.cast(kind)
    if pa.types.is_null(kind):
        return np.zeros(len(column), np.uint64)
    present = column.is_valid().to_numpy()
    if pa.types.is_temporal(kind) and not pa.types.is_duration(kind):
        # Numbers of their unit, so that a zone makes no difference.
        column = column.cast(pa.int64() if kind.bit_width == 64 else pa.int32())
        kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        wide = pa.uint64() if pa.types.is_uint64(kind) else pa.int64()
        values = column.cast(wide).fill_null(0).to_numpy()
    elif pa.types.is_float16(kind) or pa.types.is_decimal(kind):
        values = column.to_pandas().astype(np.float64).fillna(0.0).to_numpy()
    elif pa.types.is_floating(kind):
        values = column.cast(pa.float64()).fill_null(0.0).to_numpy()
    else:
        values = np.array(
            [value if isinstance(value, bytes) else repr(value) for value in column.to_pylist()],
            object,
        )
    hashes = pd.util.hash_array(values, categorize=False)
    return np.where(present, hashes, np.uint64(0))
