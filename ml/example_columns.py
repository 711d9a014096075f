"""Columns of tables as features of tf.Examples: what converts, and how."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from tensorflow_metadata.proto.v0 import schema_pb2

from storage.errors import DataError


@dataclass(frozen=True)
class Columns:
    """What the schema asks of a Parquet file.

    Attributes:
      types: TFMD feature type (`schema_pb2.FeatureType`) by column.
      required: Columns that every file must have.
      time: The timestamp column that orders rows.
    """

    types: dict[str, int]
    required: frozenset[str]
    time: str

    @classmethod
    def from_schema(cls, schema: schema_pb2.Schema, time_column: str) -> "Columns":
        """Reads the columns off a TFMD schema."""
        required = {
            f.name for f in schema.feature if f.presence.min_fraction or f.presence.min_count
        }
        return cls(
            types={feature.name: feature.type for feature in schema.feature},
            required=frozenset(required | {time_column}),
            time=time_column,
        )

    @property
    def key(self) -> str:
        """Changes with all that it says."""
        return repr((sorted(self.types.items()), sorted(self.required), self.time))

    def check(self, path: str, found: pa.Schema) -> None:
        """Checks the columns of one file.

        Raises:
          DataError: If one is missing, or has a type that does not convert without loss.
        """
        for name in sorted(self.required - set(found.names)):
            raise DataError(f"{path}: column {name!r} is missing; it has {', '.join(found.names)}")
        for name, count in Counter(found.names).items():
            if count > 1:
                raise DataError(f"{path}: column {name!r} is there {count} times")
        for field in found:
            self.check_type(path, field)

    def check_type(self, path: str, field: pa.Field) -> None:
        """Checks that a column converts to the type its feature has in the schema."""
        if pa.types.is_null(field.type) and field.name != self.time:
            return
        natural = feature_type(field.type)
        if field.name == self.time and not pa.types.is_timestamp(field.type):
            raise DataError(
                f"{path}: column {field.name!r} is {field.type}; a timestamp is expected"
            )
        wanted = self.types.get(field.name, natural)
        widened = (natural, wanted) == (schema_pb2.INT, schema_pb2.FLOAT)
        if natural is None or not (natural == wanted or widened):
            allowed = _ALLOWED.get(wanted, "integer, floating point or string")
            raise DataError(f"{path}: column {field.name!r} is {field.type}; {allowed} is expected")


def to_example_batch(batch: pa.RecordBatch, columns: Columns) -> pa.RecordBatch:
    """Converts flat columns to the list columns that tfx_bsl encodes as tf.Examples.

    Args:
      batch: Columns of strings, numbers, booleans or timestamps; null where absent.
      columns: The feature type of each.

    Returns:
      The same columns as lists of bytes, int64 or float32, null where absent.
    """
    names, arrays = [], []
    for name, array in zip(batch.schema.names, batch.columns, strict=True):
        if pa.types.is_null(array.type):
            continue
        kind = columns.types.get(name, feature_type(array.type))
        names.append(name)
        arrays.append(_to_lists(_convert(array, kind)))
    return pa.RecordBatch.from_arrays(arrays, names)


_TEXTS = (pa.string(), pa.large_string(), pa.binary(), pa.large_binary())
_ALLOWED = {
    schema_pb2.BYTES: "string",
    schema_pb2.INT: "integer",
    schema_pb2.FLOAT: "floating point or integer",
}


def feature_type(kind: pa.DataType) -> int | None:
    """The TFMD type that holds values of an Arrow type without loss, or None."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if kind in _TEXTS:
        return schema_pb2.BYTES
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_timestamp(kind):
        return schema_pb2.INT
    if pa.types.is_floating(kind):
        return schema_pb2.FLOAT
    return None


def _convert(array: pa.Array, kind: int | None) -> pa.Array:
    if pa.types.is_timestamp(array.type):
        array = array.cast(pa.timestamp("s", array.type.tz), safe=False).cast(pa.int64())
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if kind == schema_pb2.BYTES:
        return array.cast(pa.binary())
    if kind == schema_pb2.INT:
        return array.cast(pa.int64())  # raises where an unsigned value is too large
    return array.cast(pa.float32(), safe=False)


def _to_lists(array: pa.Array) -> pa.ListArray:
    """One list per value; a null value becomes a null list, which is an absent feature."""
    present = np.asarray(array.is_valid())
    offsets = np.zeros(len(array) + 1, np.int32)
    np.cumsum(present, out=offsets[1:])
    absent = np.append(~present, False)
    return pa.ListArray.from_arrays(pa.array(offsets, mask=absent), array.drop_null())
