"""By what rows are split: by their time, or by a hash of a key where they have none."""

from __future__ import annotations

import hashlib
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
        are in the same split; none for all columns.
    """

    time_column: str
    key_columns: tuple[str, ...] = ()

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
        columns = [self.time_column] if self.time_column else list(self.key_columns)
        try:
            table = parquet.read_row_group(group, columns=columns or None)
        except (pa.ArrowException, OSError) as error:
            raise unreadable(path, group, error) from error
        if missing := [name for name in columns if name not in table.column_names]:
            raise DataError(f"{path}: column {missing[0]!r} is missing")
        return self.places(table, f"{path}: row group {group}")

    def places(self, table: pa.Table, where: str) -> np.ndarray:
        """The places of the rows of a table; see `read`."""
        if self.time_column:
            return seconds_of(where, table[self.time_column], self.time_column)
        names = self.key_columns or tuple(sorted(table.column_names))
        hashes = np.zeros(len(table), np.uint64)
        for name in names:
            salt = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
            hashes = hashes * np.uint64(31) + (_hash(table[name]) ^ np.uint64(salt))
        mixed = pd.util.hash_array(hashes)
        return (mixed % np.uint64(self.BUCKETS)).astype(np.int64)


def _hash(column: pa.ChunkedArray) -> np.ndarray:
    """A hash of each value, uint64, the same in every process."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type):
        texts = [None if row is None else repr(row) for row in column.to_pylist()]
        return pd.util.hash_array(np.array(texts, object), categorize=False)
    values = column.to_pandas()
    if values.dtype == object:
        values = values.map(str, na_action="ignore")
    return np.asarray(pd.util.hash_pandas_object(values, index=False))
