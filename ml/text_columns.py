"""Reads the strings of a CSV file as the types of a schema, and tells which rows do not fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from ml.row_problems import Problems, convert_rows
from storage.errors import DataError
from storage.table_formats import describe_type

_LONGEST_VALUE = 60
# As `storage.csv_files` reads them.
_TRUE, _FALSE = ("true", "1", "yes", "t"), ("false", "0", "no", "f")


@dataclass(frozen=True)
class TextColumns:
    """Types of the columns of a CSV file.

    Attributes:
      types: Arrow type by column. Columns without one stay strings, as they are written.
      null_values: Texts that stand for an absent value in a column with a type.
    """

    types: Mapping[str, pa.DataType]
    null_values: tuple[str, ...]

    def schema(self, found: pa.Schema) -> pa.Schema:
        """The columns that strings become."""
        return pa.schema([pa.field(n, self.types.get(n, pa.string())) for n in found.names])

    def parse(self, batch: pa.RecordBatch) -> tuple[pa.RecordBatch, Problems]:
        """Reads some rows.

        Example:
          >>> columns = TextColumns({"miles": pa.float64()}, ("NA",))
          >>> rows = pa.RecordBatch.from_arrays([pa.array(["1.5", "NA", "far"])], ["miles"])
          >>> parsed, problems = columns.parse(rows)
          >>> parsed.column(0).to_pylist(), problems
          ([1.5, None, None], {2: "column 'miles' is 'far'; a number is expected"})

        Args:
          batch: Columns of strings.

        Returns:
          The columns with their types, and the reason for each row with a value that does not fit.
        """
        problems: Problems = {}
        arrays = []
        for name, array in zip(batch.schema.names, batch.columns, strict=True):
            kind = self.types.get(name)
            if kind is not None:
                array, found = convert_rows(array, partial(self._parse, name, kind), kind)
                problems = found | problems
            arrays.append(array)
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema(batch.schema)), problems

    def _parse(self, name: str, kind: pa.DataType, array: pa.Array) -> pa.Array:
        absent = pc.is_in(array, value_set=pa.array(self.null_values, pa.string()))
        # With a null scalar, pyarrow returns wrong bytes of a slice (apache/arrow, issue 49410).
        array = pc.if_else(absent, pa.nulls(len(array), array.type), array)
        if pa.types.is_string(kind):
            return array
        trimmed = pc.utf8_trim_whitespace(array)
        try:
            return _parse_booleans(trimmed) if pa.types.is_boolean(kind) else trimmed.cast(kind)
        except pa.ArrowInvalid as error:
            value = str(array[0].as_py())[:_LONGEST_VALUE]
            raise DataError(
                f"column {name!r} is {value!r}; {describe_type(kind)} is expected"
            ) from error


def _parse_booleans(texts: pa.Array) -> pa.Array:
    lower = pc.utf8_lower(texts)
    true = pc.is_in(lower, value_set=pa.array(_TRUE))
    known = pc.or_(true, pc.is_in(lower, value_set=pa.array(_FALSE)))
    if not pc.all(pc.or_(known, pc.is_null(texts)), min_count=0).as_py():
        raise pa.ArrowInvalid("neither true nor false")
    return pc.if_else(pc.is_null(texts), pa.scalar(None, pa.bool_()), true)
