"""Converts columns of tables to features of tf.Examples."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tensorflow_metadata.proto.v0 import schema_pb2

from storage.errors import DataError
from storage.table_formats import check_names, difference, fold_name
from storage.tables import TIME_EXPECTED, is_time


@dataclass(frozen=True)
class Columns:
    """The columns that the schema requires of a file.

    Attributes:
      types: TFMD feature type (`schema_pb2.FeatureType`) by column.
      required: Columns that every file must have.
      time: The column with the time of a row; "" where rows have none.
      lengths: Number of values of columns that are vectors.
      switches: Columns that are true or false.
    """

    types: dict[str, int]
    required: frozenset[str]
    time: str
    lengths: dict[str, int] = field(default_factory=dict)
    switches: frozenset[str] = frozenset()

    @classmethod
    def from_schema(cls, schema: schema_pb2.Schema, time_column: str) -> "Columns":
        """Reads the columns from a TFMD schema."""
        required = {
            f.name for f in schema.feature if f.presence.min_fraction or f.presence.min_count
        }
        return cls(
            types={feature.name: feature.type for feature in schema.feature},
            required=frozenset(required | ({time_column} if time_column else set())),
            time=time_column,
            lengths={f.name: length for f in schema.feature if (length := _length(f)) > 1},
            switches=frozenset(f.name for f in schema.feature if f.HasField("bool_domain")),
        )

    @property
    def key(self) -> str:
        """Identifies the content."""
        facts = (sorted(self.types.items()), sorted(self.required), self.time)
        return repr((*facts, sorted(self.lengths.items()), sorted(self.switches)))

    @property
    def read(self) -> frozenset[str]:
        """The columns that are read of a file; the others are left out."""
        return frozenset(self.types) | ({self.time} if self.time else set())

    @property
    def text_types(self) -> Mapping[str, pa.DataType]:
        """The Arrow type that a column of a text file is read as."""
        kinds = {name: _TEXT_TYPES[kind] for name, kind in self.types.items()}
        kinds |= {name: pa.list_(kinds[name]) for name in self.lengths}
        kinds |= dict.fromkeys(self.switches & kinds.keys(), pa.bool_())
        return kinds | ({self.time: pa.timestamp("us")} if self.time else {})

    def check(self, path: str, found: pa.Schema) -> None:
        """Checks the columns of one file. Those that the schema lacks may have any type.

        Raises:
          DataError: If one is missing, or has a type that does not convert without loss.
        """
        check_names(path, found.names)
        similar = {fold_name(name): name for name in found.names}
        for name in sorted(self.read - set(found.names)):
            if other := similar.get(fold_name(name)):
                raise DataError(
                    f"{path}: column {name!r} is missing; it has {other!r}, which differs in "
                    f"{difference(other, name)} alone: rename it"
                )
        for name in sorted(self.required - set(found.names)):
            raise DataError(f"{path}: column {name!r} is missing; it has {', '.join(found.names)}")
        for column in found:
            if column.name in self.types or column.name == self.time:
                self.check_type(path, column)

    def check_type(self, path: str, column: pa.Field) -> None:
        """Checks that a column converts to its feature's type in the schema."""
        name, kind = column.name, column.type
        if pa.types.is_null(kind) and name != self.time:
            return
        if name == self.time and not is_time(kind):
            raise DataError(f"{path}: column {name!r} is {kind}; {TIME_EXPECTED}")
        is_vector = is_list(kind)
        if is_vector and name not in self.lengths:
            raise DataError(
                f"{path}: column {name!r} is {kind}; one value is expected (a vector has its "
                "length as `shape` in the schema)"
            )
        if name in self.lengths and not is_vector:
            raise DataError(
                f"{path}: column {name!r} is {kind}; a list of {self.lengths[name]} values is "
                "expected"
            )
        natural = feature_type(kind.value_type if is_vector else kind)
        wanted = self.types.get(name, natural)
        widened = (natural, wanted) == (schema_pb2.INT, schema_pb2.FLOAT)
        if natural is None or not (natural == wanted or widened):
            allowed = _ALLOWED.get(wanted, "a type that the schema knows")
            raise DataError(f"{path}: column {name!r} is {kind}; {allowed} is expected")


def to_example_batch(
    batch: pa.RecordBatch, columns: Columns, rounded: set[str] | None = None
) -> pa.RecordBatch:
    """Converts flat columns to the list columns that tfx_bsl encodes as tf.Examples.

    Args:
      batch: Columns of strings, numbers, booleans, dates or timestamps, or of vectors of them; null
        or NaN where absent.
      columns: The feature type of each; columns without one are left out.
      rounded: Gets the names of columns with numbers that a 32-bit float rounds so that it shows:
        whole numbers, and numbers that hardly differ.

    Returns:
      The columns as lists of bytes, int64 or float32, null where absent.

    Raises:
      DataError: If a vector has another length than the schema says, or a number is too large for a
        32-bit float, or different numbers become equal as one.
    """
    rounded = set() if rounded is None else rounded
    names, arrays = [], []
    for name, array in zip(batch.schema.names, batch.columns, strict=True):
        kind = columns.types.get(name)
        if kind is None or pa.types.is_null(array.type):
            continue
        names.append(name)
        if is_list(array.type):
            arrays.append(_to_vectors(name, array, columns, rounded))
            continue
        arrays.append(_to_lists(convert_values(name, array, kind, rounded)))
    return pa.RecordBatch.from_arrays(arrays, names)


_TEXTS = (pa.string(), pa.large_string(), pa.binary(), pa.large_binary())
_WHOLE = (
    pa.types.is_integer,
    pa.types.is_boolean,
    pa.types.is_timestamp,
    pa.types.is_date,
)
_TEXT_TYPES = {
    schema_pb2.BYTES: pa.string(),
    schema_pb2.INT: pa.int64(),
    schema_pb2.FLOAT: pa.float64(),
}
# Largest whole number up to which a 32-bit float holds all of them.
_EXACT = 2**24
# Share of different numbers that rounding may make equal.
_MELTED = 0.1
# Digits by which numbers differ: those behind are noise of calculations.
_DIGITS = 12
# Error of rounding, in standard deviations of the column, from which it is told.
_COARSE = 1e-3
# Fewer different numbers may be alike by chance.
_SEVERAL = 10
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
    if any(is_kind(kind) for is_kind in _WHOLE):
        return schema_pb2.INT
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return schema_pb2.FLOAT
    return None


def convert_values(name: str, array: pa.Array, kind: int | None, rounded: set[str]) -> pa.Array:
    """Converts values to a feature's type.

    Args:
      name: Name of the column, for messages.
      array: Strings, numbers, booleans, dates or timestamps.
      kind: TFMD type of the feature.
      rounded: Gets the name if a 32-bit float rounds whole numbers.

    Returns:
      Bytes, int64 or float32, null where absent.

    Raises:
      DataError: See `to_example_batch`.
    """
    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    if pa.types.is_date(array.type):
        array = array.cast(pa.timestamp("s"))
    if pa.types.is_timestamp(array.type):
        array = _floor_to_seconds(array)
    if kind == schema_pb2.BYTES:
        return array.cast(pa.binary())
    if kind == schema_pb2.INT:
        try:
            return array.cast(pa.int64())
        except pa.ArrowInvalid as error:  # An unsigned value is too large.
            raise DataError(f"column {name!r}: {error}") from error
    if pa.types.is_float32(array.type):
        return _without_nan(array)
    exact = _without_nan(_widen(array))
    narrow = pc.cast(exact, pa.float32(), safe=False)
    if _is_rounded(name, array, exact, narrow):
        rounded.add(name)
    return narrow


def _without_nan(array: pa.Array) -> pa.Array:
    """Floating point numbers, null where they are NaN: both say that there is no number."""
    absent = pc.is_nan(array)
    if not pc.any(absent).as_py():
        return array
    # With a null scalar, pyarrow returns wrong values of a slice (apache/arrow, issue 49410).
    return pc.if_else(absent, pa.nulls(len(array), array.type), array)


def _floor_to_seconds(times: pa.Array) -> pa.Array:
    """Timestamps as whole seconds since the epoch, int64, also before it rounded down."""
    unit = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[times.type.unit]
    counts = times.cast(pa.int64())
    if unit == 1:
        return counts
    seconds = np.floor_divide(counts.fill_null(0).to_numpy(), unit)
    return pa.array(seconds, mask=~np.asarray(counts.is_valid()))


def _widen(array: pa.Array) -> pa.Array:
    """Numbers as float64."""
    if pa.types.is_decimal(array.type) or pa.types.is_float16(array.type):
        return pa.array(array.to_pandas().astype(np.float64), from_pandas=True)
    if pa.types.is_boolean(array.type):
        array = array.cast(pa.int8())
    return array.cast(pa.float64(), safe=False)


def _is_rounded(name: str, array: pa.Array, exact: pa.Array, narrow: pa.Array) -> bool:
    """Whether a 32-bit float rounds whole numbers.

    Raises:
      DataError: If it does not hold a number at all, or different numbers become one.
    """
    before, after = (column.drop_null().to_numpy() for column in (exact, narrow))
    too_large = np.isinf(after) & np.isfinite(before)
    if too_large.any():
        raise DataError(
            f"column {name!r} has {before[too_large][0]}, which is too large for a 32-bit float: "
            "scale the column, or leave it out of the schema"
        )
    if not after.any() and len(np.unique(before)) > 1 and before.any():
        raise DataError(
            f"column {name!r} has {before[before != 0][0]:g}, and a 32-bit float makes 0 of all "
            "such numbers: scale the column, or leave it out of the schema"
        )
    # Beyond 2**24, whole numbers are rounded, and times with fractions of a second.
    large = before[(np.abs(before) > _EXACT) & np.isfinite(before)]
    if pa.types.is_integer(array.type) and array.type.bit_width == 64:
        values = array.drop_null().to_numpy()
        large = values[np.abs(before) > _EXACT]
    kept = large.astype(np.float32)
    lost = kept.astype(np.float64) != large.astype(np.float64)
    several, left = _count_different(large), len(np.unique(kept))
    if left < several * (1 - _MELTED):
        raise DataError(
            f"column {name!r} has {_show(large[lost][0])}, and a 32-bit float leaves {left} of "
            f"{several} such numbers: make it an INT feature, or a string if it is an id"
        )
    whole = large == np.floor(large)
    return bool(lost[whole].any()) or _is_coarse(before, after)


def _is_coarse(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether rounding makes numbers equal that differ by as much as such numbers do."""
    finite = np.isfinite(before)
    before, after = before[finite], after[finite].astype(np.float64)
    if not len(before):
        return False
    with np.errstate(over="ignore", invalid="ignore"):
        error, spread = np.sqrt(np.mean((before - after) ** 2)), before.std()
    if not error > _COARSE * spread:
        return False
    several = _count_different(before)
    return several >= _SEVERAL and len(np.unique(after)) < several * (1 - _MELTED)


def _show(number: float) -> str:
    return f"{number:.0f}" if number == np.floor(number) else f"{number:.15g}"


def _count_different(numbers: np.ndarray) -> int:
    """The number of different numbers, floats by their first digits."""
    if numbers.dtype.kind == "f" and len(numbers):
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            digits = _DIGITS - 1 - np.floor(np.log10(np.abs(numbers)))
            scale = 10.0 ** np.clip(np.where(np.isfinite(digits), digits, 0), -300, 300)
            numbers = np.round(numbers * scale) / scale
    return len(np.unique(numbers))


def is_list(kind: pa.DataType) -> bool:
    """Whether a value of a type is a list."""
    return (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _to_vectors(name: str, array: pa.Array, columns: Columns, rounded: set[str]) -> pa.ListArray:
    """A column of vectors, null where absent."""
    values = array.drop_null().flatten()
    present = np.asarray(array.is_valid())
    if pa.types.is_fixed_size_list(array.type):
        lengths = np.full(len(array), array.type.list_size)
    else:
        lengths = np.asarray(array.value_lengths().fill_null(0))
    wanted = columns.lengths[name]
    if (wrong := lengths[present] != wanted).any():
        raise DataError(
            f"column {name!r} has a vector of {lengths[present][wrong][0]} values; {wanted} are "
            "expected"
        )
    kind = columns.types[name]
    offsets = np.zeros(len(array) + 1, np.int32)
    np.cumsum(present * wanted, out=offsets[1:])
    absent = np.append(~present, False)
    values = convert_values(name, values, kind, rounded)
    if values.null_count:
        raise DataError(f"column {name!r} has vectors in which a value is absent, or NaN")
    return pa.ListArray.from_arrays(pa.array(offsets, mask=absent), values)


def _length(feature: schema_pb2.Feature) -> int:
    """How many values a feature has, if its shape says it; else 1."""
    return math.prod(dim.size for dim in feature.shape.dim)


def _to_lists(array: pa.Array) -> pa.ListArray:
    """One list per value; a null value becomes a null list, which is an absent feature."""
    present = np.asarray(array.is_valid())
    offsets = np.zeros(len(array) + 1, np.int32)
    np.cumsum(present, out=offsets[1:])
    absent = np.append(~present, False)
    return pa.ListArray.from_arrays(pa.array(offsets, mask=absent), array.drop_null())
