"""Features of several values in tables: each row's values as one bytes object.

Bytes can be compared and joined on, and take the memory of the numbers alone.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tensorflow_metadata.proto.v0 import schema_pb2

DTYPES: dict[int, np.dtype] = {
    schema_pb2.FLOAT: np.dtype(np.float32),
    schema_pb2.INT: np.dtype(np.int64),
}


def widths_of(schema: schema_pb2.Schema) -> dict[str, int]:
    """Number of values of each feature of numbers that has several, by its `shape`."""
    sizes = {f.name: int(np.prod([d.size for d in f.shape.dim], dtype=int)) for f in schema.feature}
    return {f.name: sizes[f.name] for f in schema.feature if sizes[f.name] > 1 and f.type in DTYPES}


def pack(column: pa.ChunkedArray, width: int, kind: int) -> np.ndarray:
    """Packs the lists of a column.

    Args:
      column: Lists of numbers, [rows].
      width: Values that a row has.
      kind: TFMD type of the values, INT or FLOAT.

    Returns:
      Bytes objects [rows]; None if a row has another number of values.
    """
    fits = np.equal(pc.fill_null(pc.list_value_length(column), -1).to_numpy(), width)
    packed = np.full(len(fits), None, object)
    lists = column.filter(pa.array(fits))
    values = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in lists.chunks]
    numbers = np.concatenate([np.empty(0, DTYPES[kind]), *values])
    size = width * DTYPES[kind].itemsize
    content = numbers.astype(DTYPES[kind]).tobytes()
    packed[fits] = [content[begin : begin + size] for begin in range(0, len(content), size)]
    return packed


def unpack(packed: Iterable[bytes | None], kind: int) -> pa.ListArray:
    """The column of lists that `pack` packed, null where there is None."""
    dtype = DTYPES[kind]
    rows = [None if row is None or row != row else np.frombuffer(row, dtype) for row in packed]
    return pa.array(rows, pa.list_(pa.from_numpy_dtype(dtype)))


def to_matrix(packed: Iterable[bytes], width: int) -> np.ndarray:
    """Packed vectors of floats as float32 [rows, width]."""
    return np.frombuffer(b"".join(packed), np.float32).reshape(-1, width)
