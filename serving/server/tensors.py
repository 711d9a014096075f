"""Arrays to and from the tensors of TensorFlow's protocol."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2, types_pb2

from serving.server.errors import ServingError, invalid
from serving.server.signatures import NUMPY_DTYPES, PROTO_DTYPES, Signature

_MAX_RANK = 32  # of an array in numpy 1

# Fields of a TensorProto that hold the values of a dtype; small integers share one.
_VALUES = {
    types_pb2.DT_FLOAT: "float_val",
    types_pb2.DT_DOUBLE: "double_val",
    types_pb2.DT_INT64: "int64_val",
    types_pb2.DT_UINT32: "uint32_val",
    types_pb2.DT_UINT64: "uint64_val",
    types_pb2.DT_BOOL: "bool_val",
    types_pb2.DT_STRING: "string_val",
}


def to_array(name: str, proto: tensor_pb2.TensorProto, max_bytes: int) -> np.ndarray:
    """The array that a tensor says.

    Args:
      name: Its name, for messages.
      proto: The tensor.
      max_bytes: Largest size of the array; a short message can stand for a large one.

    Returns:
      The array; strings are bytes objects.

    Raises:
      ServingError: If dtype, shape and values do not make an array.
    """
    if proto.dtype not in NUMPY_DTYPES:
        kind = types_pb2.DataType.Name(proto.dtype) if _is_dtype(proto.dtype) else proto.dtype
        raise invalid(f'input "{name}" has the dtype {kind}, which is not supported')
    shape = [dim.size for dim in proto.tensor_shape.dim]
    if proto.tensor_shape.unknown_rank or any(size < 0 for size in shape):
        raise invalid(f'input "{name}" has no complete shape: {shape}')
    if len(shape) > _MAX_RANK:
        raise invalid(f'input "{name}" has {len(shape)} dimensions, {_MAX_RANK} are allowed')
    size = math.prod(shape)
    dtype = NUMPY_DTYPES[proto.dtype]
    # Sizes that numpy cannot hold are too large even if there is a 0 among them.
    if math.prod(filter(None, shape)) * dtype.itemsize > max_bytes:
        raise _too_large(name, shape, max_bytes)
    if proto.tensor_content and dtype.kind != "O":
        if len(proto.tensor_content) != size * dtype.itemsize:
            raise invalid(
                f'input "{name}" of shape {shape} has {len(proto.tensor_content)} bytes of '
                f"tensor_content, not {size * dtype.itemsize}"
            )
        return np.frombuffer(proto.tensor_content, dtype).reshape(shape)
    values = getattr(proto, _VALUES.get(proto.dtype, "int_val"))
    if len(values) > size or (size and not values):
        raise invalid(f'input "{name}" of shape {shape} has {len(values)} values, not {size}')
    if dtype.kind == "O":
        if len(values) < size and len(values[-1]) * (size - len(values)) > max_bytes:
            raise _too_large(name, shape, max_bytes)
        array = np.empty(len(values), object)
        array[:] = list(values)
    elif proto.dtype in _VALUES:
        array = np.fromiter(values, dtype, len(values))
    else:  # Small integers share a field of larger ones, and wrap as they do in TensorFlow.
        array = np.fromiter(values, np.int64, len(values)).astype(dtype)
    if len(values) < size:  # The last value stands for the rest.
        array = np.pad(array, (0, size - len(values)), "edge")
    return array.reshape(shape)


def to_proto(array: np.ndarray) -> tensor_pb2.TensorProto:
    """The tensor of an array, its values in the field of their dtype as TensorFlow Serving does."""
    dtype = PROTO_DTYPES[array.dtype]
    proto = tensor_pb2.TensorProto(
        dtype=dtype,
        tensor_shape=tensor_shape_pb2.TensorShapeProto(
            dim=[tensor_shape_pb2.TensorShapeProto.Dim(size=size) for size in array.shape]
        ),
    )
    getattr(proto, _VALUES.get(dtype, "int_val")).extend(array.ravel().tolist())
    return proto


def check_inputs(signature: Signature, inputs: Mapping[str, np.ndarray]) -> None:
    """Checks that the inputs are those of a signature, and are of one batch.

    Raises:
      ServingError: Naming what is missing, unknown, or of another dtype, shape or batch size.
    """
    unknown = sorted(inputs.keys() - signature.inputs.keys())
    missing = sorted(signature.inputs.keys() - inputs.keys())
    if unknown or missing:
        raise invalid(
            f"input size does not match signature: {len(inputs)}!={len(signature.inputs)}. "
            f"Sent extra: {{{','.join(unknown)}}}. Missing but required: {{{','.join(missing)}}}."
        )
    batch: tuple[str, int] | None = None
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
        if info.shape and info.shape[0] is None:
            if batch and array.shape[0] != batch[1]:
                raise invalid(
                    f'input "{name}" has {array.shape[0]} rows and "{batch[0]}" has {batch[1]}'
                )
            batch = batch or (name, array.shape[0])


def _too_large(name: str, shape: list[int], max_bytes: int) -> ServingError:
    return invalid(f'input "{name}" of shape {shape} is larger than {max_bytes:,} bytes')


def _is_dtype(number: int) -> bool:
    return number in types_pb2.DataType.values()
