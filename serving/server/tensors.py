"""Arrays to and from the tensors of TensorFlow's protocol."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NoReturn

import numpy as np
from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2, types_pb2

from serving.server.errors import ServingError, exhausted, invalid
from serving.server.signatures import NUMPY_DTYPES, PROTO_DTYPES, Signature

MAX_RANK = 32  # of an array in numpy 1
_STRING_BYTES = 33  # of a bytes object, besides what is in it

# Fields of a TensorProto that hold the values of a dtype; small integers share one.
_VALUES = {
    types_pb2.DT_FLOAT: "float_val",
    types_pb2.DT_DOUBLE: "double_val",
    types_pb2.DT_INT64: "int64_val",
    types_pb2.DT_UINT32: "uint32_val",
    types_pb2.DT_UINT64: "uint64_val",
    types_pb2.DT_BOOL: "bool_val",
    types_pb2.DT_STRING: "string_val",
    types_pb2.DT_HALF: "half_val",
    types_pb2.DT_BFLOAT16: "half_val",
    types_pb2.DT_COMPLEX64: "scomplex_val",
    types_pb2.DT_COMPLEX128: "dcomplex_val",
}
_BITS = (types_pb2.DT_HALF, types_pb2.DT_BFLOAT16)


def count_bytes(arrays: Mapping[str, np.ndarray]) -> int:
    """Bytes that arrays take; strings count each, as they do for a model."""
    size = 0
    for array in arrays.values():
        size += array.nbytes
        if array.dtype == object:
            size += array.size * _STRING_BYTES + sum(map(len, array.flat))
    return size


def check_rows(name: str, rows: int, max_rows: int) -> None:
    """Raises a `ServingError` if an input has more rows than a request may have."""
    if rows > max_rows:
        raise exhausted(
            f'input "{name}" has {rows:,} rows, {max_rows:,} are allowed in a request',
            http_status=413,
        )


def check_context(context: bytes, rows: int, max_bytes: int) -> None:
    """Raises a `ServingError` if a context is too large once it is in each of the examples."""
    if len(context) * rows > max_bytes:
        raise exhausted(
            f"the context of {len(context):,} bytes is larger than {max_bytes:,} bytes in "
            f"{rows:,} examples",
            http_status=413,
        )


def to_array(
    name: str, proto: tensor_pb2.TensorProto, max_bytes: int, max_rows: int | None = None
) -> np.ndarray:
    """The array that a tensor says.

    Args:
      name: Its name, for messages.
      proto: The tensor.
      max_bytes: Largest size of the array; a short message can stand for a large one.
      max_rows: Largest first size, if there is any.

    Returns:
      The array; strings are bytes objects.

    Raises:
      ServingError: If dtype, shape and values do not make an array, or one that is too large.
    """
    number = proto.dtype
    dtype = NUMPY_DTYPES.get(number)
    if dtype is None:
        unknown = types_pb2.DataType.Name(number) if _is_dtype(number) else number
        raise invalid(f'input "{name}" has the dtype {unknown}, which is not supported')
    kind = dtype.kind
    shape = [dim.size for dim in proto.tensor_shape.dim]
    if proto.tensor_shape.unknown_rank or min(shape, default=0) < 0:
        raise invalid(f'input "{name}" has no complete shape: {shape}')
    if len(shape) > MAX_RANK:
        raise invalid(f'input "{name}" has {len(shape)} dimensions, {MAX_RANK} are allowed')
    if shape and max_rows is not None:
        check_rows(name, shape[0], max_rows)
    size = math.prod(shape)
    # Sizes that numpy cannot hold are too large even if there is a 0 among them.
    if (size or math.prod(filter(None, shape))) * dtype.itemsize > max_bytes:
        raise _too_large(name, shape, max_bytes)
    if kind != "O" and (content := proto.tensor_content):
        if len(content) != size * dtype.itemsize:
            raise invalid(
                f'input "{name}" of shape {shape} has {len(content)} bytes of '
                f"tensor_content, not {size * dtype.itemsize}"
            )
        return np.frombuffer(content, dtype).reshape(shape)
    values = getattr(proto, _VALUES.get(number, "int_val"))
    given = len(values)
    if kind == "c":  # The real part of each value, then its imaginary part.
        given, odd = divmod(given, 2)
        if odd:
            raise invalid(f'input "{name}" has half a complex value')
    if given > size or (size and not given):
        raise invalid(f'input "{name}" of shape {shape} has {given} values, not {size}')
    if kind == "O":
        if given < size and len(values[-1]) * (size - given) > max_bytes:
            raise _too_large(name, shape, max_bytes)
        array = np.empty(given, object)
        array[:] = values
    elif kind == "c":
        part = np.float32 if dtype == np.complex64 else np.float64
        array = np.fromiter(values, part, len(values)).view(dtype)
    elif number in _BITS:
        # Of what is more than 16 bits, TensorFlow takes the lower ones.
        array = np.fromiter(values, np.int64, given).astype(np.uint16).view(dtype)
    elif number in _VALUES:
        array = np.fromiter(values, dtype, given)
    else:  # Small integers share a field of larger ones, and wrap as they do in TensorFlow.
        array = np.fromiter(values, np.int64, given).astype(dtype)
    if given < size:  # The last value stands for the rest.
        array = np.concatenate([array, np.repeat(array[-1:], size - given)])
    return array if len(shape) == 1 else array.reshape(shape)


def to_proto(array: np.ndarray) -> tensor_pb2.TensorProto:
    """The tensor of an array, its values in the field of their dtype as TensorFlow Serving does."""
    dtype = PROTO_DTYPES[array.dtype]
    proto = tensor_pb2.TensorProto(
        dtype=dtype,
        tensor_shape=tensor_shape_pb2.TensorShapeProto(
            dim=[tensor_shape_pb2.TensorShapeProto.Dim(size=size) for size in array.shape]
        ),
    )
    values = array.ravel()
    if array.dtype.kind == "c":
        values = values.view(np.float32 if array.dtype == np.complex64 else np.float64)
    elif dtype in _BITS:
        values = values.view(np.uint16)
    getattr(proto, _VALUES.get(dtype, "int_val")).extend(values.tolist())
    return proto


def check_inputs(signature: Signature, inputs: Mapping[str, np.ndarray]) -> None:
    """Checks that the inputs are those of a signature.

    Raises:
      ServingError: Naming what is missing, unknown, or of another dtype or shape.
    """
    if inputs.keys() != signature.inputs.keys():
        _refuse_names(signature, inputs)
    for name, info in signature.inputs.items():
        array = inputs[name]
        if PROTO_DTYPES[array.dtype] != info.dtype:
            given = types_pb2.DataType.Name(PROTO_DTYPES[array.dtype])[3:].lower()
            raise invalid(f'input "{name}" has the dtype {given}, {info.dtype_name} is expected')
        if info.shape is None:
            continue
        if len(array.shape) != len(info.shape) or any(
            wanted not in (None, size) for wanted, size in zip(info.shape, array.shape, strict=True)
        ):
            wanted_shape = ["?" if size is None else size for size in info.shape]
            raise invalid(
                f'input "{name}" has the shape {list(array.shape)}, '
                f"[{', '.join(map(str, wanted_shape))}] is expected"
            )


def _refuse_names(signature: Signature, inputs: Mapping[str, np.ndarray]) -> NoReturn:
    unknown = sorted(inputs.keys() - signature.inputs.keys())
    missing = sorted(signature.inputs.keys() - inputs.keys())
    raise invalid(
        f"input size does not match signature: {len(inputs)}!={len(signature.inputs)}. "
        f"Sent extra: {{{','.join(unknown)}}}. Missing but required: {{{','.join(missing)}}}."
    )


def _too_large(name: str, shape: list[int], max_bytes: int) -> ServingError:
    return invalid(f'input "{name}" of shape {shape} is larger than {max_bytes:,} bytes')


def _is_dtype(number: int) -> bool:
    return number in types_pb2.DataType.values()
