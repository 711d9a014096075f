"""Converts the values of a column row by row where they do not convert as a whole."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa

from storage.errors import DataError

# Why a row cannot be predicted, by its number in a batch.
Problems = dict[int, str]


def convert_rows(
    array: pa.Array, convert: Callable[[pa.Array], pa.Array], kind: pa.DataType
) -> tuple[pa.Array, Problems]:
    """Converts values; those that cannot be converted become null, each with the reason.

    It halves an array that fails until it has found the values that fail.

    Example:
      >>> def convert(array):
      ...     try:
      ...         return array.cast(pa.int64())
      ...     except pa.ArrowInvalid:
      ...         raise DataError("no number")
      >>> values, problems = convert_rows(pa.array(["1", "one", "3"]), convert, pa.int64())
      >>> values.to_pylist(), problems
      ([1, None, 3], {1: 'no number'})

    Args:
      array: The values, [rows].
      convert: Converts an array to one of the type `kind`, or raises a `DataError`.
      kind: The type.

    Returns:
      The values, null where they could not be converted, and the reasons.
    """
    try:
        return convert(array), {}
    except DataError as error:
        if len(array) == 1:
            return pa.nulls(1, kind), {0: str(error)}
    middle = len(array) // 2
    first, problems = convert_rows(array.slice(0, middle), convert, kind)
    second, others = convert_rows(array.slice(middle), convert, kind)
    problems |= {middle + row: problem for row, problem in others.items()}
    return pa.concat_arrays([first, second]), problems
