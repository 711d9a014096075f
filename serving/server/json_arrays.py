"""Makes arrays of JSON values, and finds the value that does not fit."""

from __future__ import annotations

import math
from itertools import chain
from typing import Any

import numpy as np

from serving.server.json_document import INFINITY, MEANT, show, to_bytes, type_name
from serving.server.signatures import NUMPY_DTYPES, TensorInfo
from serving.server.tensors import MAX_RANK

# Python types that the JSON values of an input may have, by the kind of its numpy dtype.
_ALLOWED_TYPES = {
    "f": frozenset((float, int)),
    "i": frozenset((int,)),
    "u": frozenset((int,)),
    "b": frozenset((bool,)),
    "O": frozenset((str, dict)),
}

# Dtypes that TensorFlow Serving reads and writes as JSON.
JSON_DTYPES = frozenset(
    number
    for number, dtype in NUMPY_DTYPES.items()
    if dtype.kind in _ALLOWED_TYPES and dtype != np.float16
)

INTEGER_LIMITS = {
    dtype: (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    for dtype in NUMPY_DTYPES.values()
    if dtype.kind in "iu"
}


def to_array(values: list[Any], info: TensorInfo) -> np.ndarray | None:
    """An array of JSON values, shape [len(values), ...], or None if they do not make one."""
    shape = [len(values)]
    kinds = set(map(type, values))
    while kinds == {list}:
        sizes = set(map(len, values))
        if len(sizes) > 1 or len(shape) == MAX_RANK:
            return None
        shape.append(sizes.pop())
        values = list(chain.from_iterable(values))
        kinds = set(map(type, values))
    dtype = info.numpy_dtype
    if not kinds <= _ALLOWED_TYPES[dtype.kind]:
        return None
    try:
        if dtype.kind == "O":
            values = list(map(str.encode if dict not in kinds else to_bytes, values))
        elif dtype.kind in "iu":
            smallest, largest = INTEGER_LIMITS[dtype]
            if values and (min(values) < smallest or max(values) > largest):
                return None
        if dtype.kind == "f":
            array = np.array(values, np.float64)
            if np.any(np.abs(array) >= INFINITY):
                for number, meant in MEANT.items():
                    array[array == number] = meant
            array = array.astype(dtype)
        else:
            array = np.array(values, dtype)
    except ValueError:  # no base64
        return None
    return array.reshape(shape) if len(shape) > 1 else array


def find_fault(values: list[Any], info: TensorInfo) -> tuple[list[int], str]:
    """Where and why values do not make an array, given that they don't.

    Args:
      values: JSON values of which `to_array` makes None.
      info: The input they are meant for.

    Returns:
      The index of the first value that does not fit those before it, followed by the indices
      inside it as far as there are any, and what is wrong there.
    """
    # Halving costs no more than twice what the failed attempt did, however long the list is.
    fitting, failing = 0, len(values)
    while failing - fitting > 1:
        middle = (fitting + failing) // 2
        if to_array([values[0], *values[fitting:middle]], info) is None:
            failing = middle
        else:
            fitting = middle
    value = values[fitting]
    shape, expected = _shape(value), _shape(values[0])
    if len(shape) >= MAX_RANK:
        return [fitting], f"lists are nested more than {MAX_RANK - 1} levels deep"
    if math.prod(shape) != math.prod(expected):
        reason = f"Expecting tensor size: {math.prod(expected)} but got: {math.prod(shape)}"
        return [fitting], f"{reason}, shape {shape} instead of {expected}"
    if shape != expected:
        return [fitting], f"Expecting shape {expected} but got: {shape}"
    if isinstance(value, list):
        path, reason = find_fault(value, info)
        return [fitting, *path], reason
    return [fitting], _fault_of_value(value, info)


def _fault_of_value(value: Any, info: TensorInfo) -> str:
    kind = info.numpy_dtype.kind
    shown = f"JSON Value: {show(value)}"
    if kind == "O" and isinstance(value, dict):
        return f"{shown} not formatted correctly for base64 data"
    if type(value) not in _ALLOWED_TYPES[kind]:
        name = type_name(value)
        return f"{shown} Type: {name} is not of expected type: {info.dtype_name}"
    smallest, largest = INTEGER_LIMITS[info.numpy_dtype]
    return (
        f"{shown} Type: Number is not of expected type: {info.dtype_name}, "
        f"which holds {smallest} to {largest}"
    )


def _shape(value: Any) -> list[int]:
    """The shape of a tensor, as the first list of each level says it."""
    shape: list[int] = []
    while isinstance(value, list) and len(shape) < MAX_RANK:
        shape.append(len(value))
        value = value[0] if value else None
    return shape


def show_path(path: list[int]) -> str:
    """Where in a value another one is, for messages."""
    return f" at {''.join(f'[{index}]' for index in path)}" if path else ""
