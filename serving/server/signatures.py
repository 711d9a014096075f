"""Signatures of a model: the names, dtypes and shapes of its inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np
from tensorflow.core.framework import tensor_shape_pb2, types_pb2
from tensorflow.core.protobuf import meta_graph_pb2

from serving.tensorflow_import import import_tensorflow
from storage.names import PREDICT_METHOD

# The field of a model's metadata that holds its signatures.
SIGNATURE_DEF = "signature_def"

# Number of a dtype in TensorFlow's protocol, and the numpy dtype of its arrays; strings are bytes
# objects.
NUMPY_DTYPES: dict[int, np.dtype] = {
    types_pb2.DT_FLOAT: np.dtype(np.float32),
    types_pb2.DT_DOUBLE: np.dtype(np.float64),
    types_pb2.DT_INT8: np.dtype(np.int8),
    types_pb2.DT_INT16: np.dtype(np.int16),
    types_pb2.DT_INT32: np.dtype(np.int32),
    types_pb2.DT_INT64: np.dtype(np.int64),
    types_pb2.DT_UINT8: np.dtype(np.uint8),
    types_pb2.DT_UINT16: np.dtype(np.uint16),
    types_pb2.DT_UINT32: np.dtype(np.uint32),
    types_pb2.DT_UINT64: np.dtype(np.uint64),
    types_pb2.DT_BOOL: np.dtype(bool),
    types_pb2.DT_STRING: np.dtype(object),
    types_pb2.DT_HALF: np.dtype(np.float16),
    types_pb2.DT_BFLOAT16: np.dtype(ml_dtypes.bfloat16),
    types_pb2.DT_COMPLEX64: np.dtype(np.complex64),
    types_pb2.DT_COMPLEX128: np.dtype(np.complex128),
}
PROTO_DTYPES = {dtype: number for number, dtype in NUMPY_DTYPES.items()}


@dataclass(frozen=True)
class TensorInfo:
    """One input or output.

    Attributes:
      dtype: Number of its dtype in TensorFlow's protocol (`types_pb2.DT_FLOAT`).
      shape: Its shape, with None for a size that varies, as the batch's does; None if anything
        goes.
      name: Name of the tensor in the graph.
    """

    dtype: int
    shape: tuple[int | None, ...] | None
    name: str = ""

    @property
    def numpy_dtype(self) -> np.dtype:
        """Its dtype in numpy; object for strings, which are bytes."""
        return NUMPY_DTYPES[self.dtype]

    @property
    def dtype_name(self) -> str:
        """Its dtype as TensorFlow's messages say it: `float`, `int64`, `string`."""
        return str(types_pb2.DataType.Name(self.dtype)).removeprefix("DT_").lower()

    @classmethod
    def from_proto(cls, info: meta_graph_pb2.TensorInfo) -> TensorInfo:
        """From TensorFlow's protocol."""
        sizes = [dim.size for dim in info.tensor_shape.dim]
        shape = tuple(None if size < 0 else size for size in sizes)
        return cls(info.dtype, None if info.tensor_shape.unknown_rank else shape, info.name)

    def to_proto(self) -> meta_graph_pb2.TensorInfo:
        """As TensorFlow's protocol says it."""
        shape = tensor_shape_pb2.TensorShapeProto(unknown_rank=self.shape is None)
        for size in self.shape or ():
            shape.dim.add(size=-1 if size is None else size)
        return meta_graph_pb2.TensorInfo(name=self.name, dtype=self.dtype, tensor_shape=shape)


@dataclass(frozen=True)
class Signature:
    """A signature of a model.

    Attributes:
      inputs: Its inputs by name.
      outputs: Its outputs by name.
      defaults: What an input is that a request leaves out, by name.
    """

    inputs: Mapping[str, TensorInfo]
    outputs: Mapping[str, TensorInfo]
    defaults: Mapping[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def from_proto(cls, signature: meta_graph_pb2.SignatureDef) -> Signature:
        """From TensorFlow's protocol."""
        return cls(
            {name: TensorInfo.from_proto(info) for name, info in sorted(signature.inputs.items())},
            {name: TensorInfo.from_proto(info) for name, info in sorted(signature.outputs.items())},
            {
                name: import_tensorflow().make_ndarray(proto)
                for name, proto in signature.defaults.items()
            },
        )

    def unknown_dtypes(self) -> list[str]:
        """The inputs and outputs whose dtype the server does not know, with it."""
        tensors = [*self.inputs.items(), *self.outputs.items()]
        return [f"{name} ({i.dtype_name})" for name, i in tensors if i.dtype not in NUMPY_DTYPES]

    def to_proto(self) -> meta_graph_pb2.SignatureDef:
        """As TensorFlow's protocol says it."""
        return meta_graph_pb2.SignatureDef(
            inputs={name: info.to_proto() for name, info in self.inputs.items()},
            outputs={name: info.to_proto() for name, info in self.outputs.items()},
            method_name=PREDICT_METHOD,
        )
