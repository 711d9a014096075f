"""TFLite files: how they are parsed and packed, and the signatures that TensorFlow Serving sees."""

from __future__ import annotations

from collections.abc import Mapping

import flatbuffers
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from flatbuffers import flexbuffers
from tensorflow.core.protobuf import meta_graph_pb2

# Where TensorFlow Serving looks for the signatures of a TFLite model.
SIGNATURES_METADATA = b"signature_defs_metadata"
DTYPES = {
    schema.TensorType.BOOL: tf.bool,
    schema.TensorType.FLOAT16: tf.float16,
    schema.TensorType.FLOAT32: tf.float32,
    schema.TensorType.INT8: tf.int8,
    schema.TensorType.INT16: tf.int16,
    schema.TensorType.INT32: tf.int32,
    schema.TensorType.INT64: tf.int64,
    schema.TensorType.STRING: tf.string,
    schema.TensorType.UINT8: tf.uint8,
}

Signatures = Mapping[str, meta_graph_pb2.SignatureDef]


def parse(content: bytes) -> schema.ModelT:
    """The tables of a TFLite model, to read or to change. The content is not verified."""
    return schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content, 0))


def pack(model: schema.ModelT) -> bytes:
    """The file of a TFLite model."""
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def read_signatures(content: bytes) -> Signatures:
    """The signatures that TensorFlow Serving finds in a TFLite model, by name.

    They are in the metadata of the model. There are none where nobody wrote them there, or where
    the content is no TFLite model.
    """
    try:
        Interpreter(model_content=content)  # It verifies the file, which the parser does not.
    except ValueError:
        return {}
    model = parse(content)
    for entry in model.metadata or ():
        if entry.name == SIGNATURES_METADATA:
            packed = flexbuffers.GetRoot(bytes(model.buffers[entry.buffer].data)).AsMap
            return {
                name.AsKey: meta_graph_pb2.SignatureDef.FromString(value.AsStringBytes)
                for name, value in zip(packed.Keys, packed.Values, strict=True)
            }
    return {}
