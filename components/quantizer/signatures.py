"""Names the signatures of a TFLite model where TensorFlow Serving looks for them.

TensorFlow Serving knows nothing of the signatures inside a TFLite model unless they are repeated in
the model's metadata. Without that the model has the one signature `serving_default`, whose inputs
are called as the tensors happen to be.
"""

from __future__ import annotations

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import flexbuffers
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import meta_graph_pb2

from ml.tflite import DTYPES, SIGNATURES_METADATA, Signatures
from storage.names import DEFAULT_SIGNATURE, PREDICT_METHOD


def name_signatures(model: schema.ModelT) -> None:
    """Repeats the signatures of a TFLite model in its metadata.

    Args:
      model: The model, which is changed. `serving_default` becomes another name of its first
        signature, if it has none of that name.
    """
    # TensorFlow Serving runs the first graph and no other.
    found = {
        part.signatureKey.decode(): _signature_def(model, part)
        for part in model.signatureDefs
        if part.subgraphIndex == 0
    }
    found.setdefault(DEFAULT_SIGNATURE, next(iter(found.values())))
    model.buffers.append(schema.BufferT())
    model.buffers[-1].data = np.frombuffer(_pack(found), np.uint8)
    entry = schema.MetadataT()
    entry.name, entry.buffer = SIGNATURES_METADATA, len(model.buffers) - 1
    model.metadata = [*(model.metadata or ()), entry]


class _Encoded(bytes):
    """Bytes where a string is wanted: flexbuffers writes strings that need not be text."""

    def encode(self, encoding: str) -> bytes:
        return bytes(self)


def _pack(signatures: Signatures) -> bytes:
    """A flexbuffer that maps the names of signatures to the signatures, serialized."""
    builder = flexbuffers.Builder()
    with builder.Map():
        for name, signature in signatures.items():
            serialized = signature.SerializeToString(deterministic=True)
            # TensorFlow Serving reads up to the first zero.
            assert b"\0" not in serialized, f"signature {name} holds an empty field"
            builder.String(name, _Encoded(serialized))
    return bytes(builder.Finish())


def _signature_def(model: schema.ModelT, part: schema.SignatureDefT) -> meta_graph_pb2.SignatureDef:
    tensors = model.subgraphs[0].tensors
    return meta_graph_pb2.SignatureDef(
        inputs={entry.name.decode(): _info(tensors[entry.tensorIndex]) for entry in part.inputs},
        outputs={entry.name.decode(): _info(tensors[entry.tensorIndex]) for entry in part.outputs},
        method_name=PREDICT_METHOD,
    )


def _info(tensor: schema.TensorT) -> meta_graph_pb2.TensorInfo:
    dtype = DTYPES.get(tensor.type)
    info = meta_graph_pb2.TensorInfo(
        name=tensor.name.decode(),
        dtype=dtype.as_datatype_enum if dtype else types_pb2.DT_INVALID,
    )
    shape = tensor.shape if tensor.shapeSignature is None else tensor.shapeSignature
    # A shape without dimensions, or a dimension of 0, would be serialized with a zero.
    if shape is not None and len(shape) and all(shape):
        for size in shape:
            info.tensor_shape.dim.add(size=int(size))
    return info
