"""Prepares a model for TensorFlow Serving: warm-up requests, and names for the TFLite signatures.

TensorFlow Serving replays the requests in `assets.extra/tf_serving_warmup_requests` when it loads a
version, in whichever form it loads it, and refuses the version if one of them fails: one that names
a signature, or an input, that this form lacks. Of the signatures inside a TFLite model it knows
nothing, unless they are repeated in the model's metadata; without that the TFLite form has the one
signature `serving_default`, whose inputs are called as the tensors happen to be.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import flatbuffers
import numpy as np
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from flatbuffers import flexbuffers
from google.protobuf.message import DecodeError
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2
from tensorflow_serving.apis import prediction_log_pb2

from components.serving_validator.rows import accepts_rows, make_inputs, predict_request
from storage.names import DEFAULT_SIGNATURE, PREDICT_METHOD, SAVED_MODEL, TFLITE_MODEL, WARMUP_FILE
from storage.uris import copy_tree

# With more, TensorFlow Serving refuses the version.
MAX_WARMUP_RECORDS = 1000

# Where TensorFlow Serving looks for the signatures of a TFLite model.
_SIGNATURES_METADATA = b"signature_defs_metadata"

Signatures = Mapping[str, meta_graph_pb2.SignatureDef]


def make_candidate(
    model_uri: str, folder: str, model_name: str, examples: np.ndarray, warmup_rows: int
) -> list[str]:
    """Copies a model, names the signatures of its TFLite form and adds warm-up requests.

    A warm-up request goes to each signature that every form has with the same inputs: with a
    `model.tflite` these are the ones that it has besides `serving_default`, which takes serialized
    examples in the one form and features in the other. A request holds one row, since TensorFlow
    Serving runs a TFLite model with several string inputs on no other number.

    Args:
      model_uri: Folder of the SavedModel, in which there may be a `model.tflite`.
      folder: Local folder for the copy.
      model_name: Name of the model that is asked.
      examples: Serialized tf.Examples to ask with, bytes [rows].
      warmup_rows: How many of them to send to each signature, at most; 0 writes no requests.

    Returns:
      Names of the signatures that are warmed up; none where the model cannot be read, which the
      server will say.

    Raises:
      DataError: If an example lacks a feature that has to be there.
    """
    copy_tree(model_uri, folder)
    signatures = {
        name: signature
        for name, signature in read_signatures(folder).items()
        if signature.method_name and accepts_rows(signature)
    }
    tflite = Path(folder) / TFLITE_MODEL
    if tflite.exists():
        content = name_signatures(tflite.read_bytes())
        tflite.write_bytes(content)
        named = read_tflite_signatures(content)
        signatures = {
            name: signature
            for name, signature in signatures.items()
            if name in named and _dtypes(signature) == _dtypes(named[name])
        }
    _write_warmup(folder, model_name, signatures, examples[:warmup_rows])
    return sorted(signatures) if warmup_rows else []


def read_signatures(folder: str) -> Signatures:
    """The signatures of a SavedModel by name; none if it cannot be read."""
    try:
        saved = saved_model_pb2.SavedModel.FromString((Path(folder) / SAVED_MODEL).read_bytes())
    except DecodeError:
        return {}
    for graph in saved.meta_graphs:
        if tf.saved_model.SERVING in graph.meta_info_def.tags:
            return dict(graph.signature_def)
    return {}


def name_signatures(content: bytes) -> bytes:
    """Repeats the signatures of a TFLite model where TensorFlow Serving looks for them.

    Args:
      content: The model.

    Returns:
      The model with its signatures, and `serving_default` as another name of the first, in its
      metadata; as it was if they are there already, it has none, or it cannot be read.
    """
    model = _parse(content)
    if model is None or not model.signatureDefs or read_tflite_signatures(content):
        return content
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
    entry.name, entry.buffer = _SIGNATURES_METADATA, len(model.buffers) - 1
    model.metadata = [*(model.metadata or ()), entry]
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def read_tflite_signatures(content: bytes) -> Signatures:
    """The signatures that TensorFlow Serving finds in the metadata of a TFLite model, by name."""
    model = _parse(content)
    if model is None:
        return {}
    for entry in model.metadata or ():
        if entry.name == _SIGNATURES_METADATA:
            packed = flexbuffers.GetRoot(bytes(model.buffers[entry.buffer].data)).AsMap
            return {
                name.AsKey: meta_graph_pb2.SignatureDef.FromString(value.AsStringBytes)
                for name, value in zip(packed.Keys, packed.Values, strict=True)
            }
    return {}


def _parse(content: bytes) -> schema.ModelT | None:
    try:
        Interpreter(model_content=content)  # It verifies the file, which the parser does not.
    except ValueError:
        return None
    return schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content, 0))


class _Encoded(bytes):
    """Bytes where a string is asked for: flexbuffers writes strings that need not be text."""

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
    info = meta_graph_pb2.TensorInfo(
        name=tensor.name.decode(), dtype=_DTYPES.get(tensor.type, types_pb2.DT_INVALID)
    )
    shape = tensor.shape if tensor.shapeSignature is None else tensor.shapeSignature
    # A shape without dimensions, or a dimension of 0, would be serialized with a zero.
    if shape is not None and len(shape) and all(shape):
        for size in shape:
            info.tensor_shape.dim.add(size=int(size))
    return info


_DTYPES = {
    schema.TensorType.FLOAT32: types_pb2.DT_FLOAT,
    schema.TensorType.INT32: types_pb2.DT_INT32,
    schema.TensorType.UINT8: types_pb2.DT_UINT8,
    schema.TensorType.INT64: types_pb2.DT_INT64,
    schema.TensorType.STRING: types_pb2.DT_STRING,
    schema.TensorType.BOOL: types_pb2.DT_BOOL,
    schema.TensorType.INT16: types_pb2.DT_INT16,
    schema.TensorType.INT8: types_pb2.DT_INT8,
}


def _dtypes(signature: meta_graph_pb2.SignatureDef) -> dict[str, int]:
    return {name: info.dtype for name, info in signature.inputs.items()}


def _write_warmup(
    folder: str, model_name: str, signatures: Signatures, examples: np.ndarray
) -> None:
    records = []
    for name, signature in sorted(signatures.items()):
        rows = examples[: MAX_WARMUP_RECORDS // len(signatures)]
        if not len(rows):
            return
        inputs = make_inputs(signature, rows)
        for row in range(len(rows)):
            log = prediction_log_pb2.PredictionLog()
            log.predict_log.request.CopyFrom(predict_request(model_name, name, inputs, row))
            records.append(log.SerializeToString(deterministic=True))
    if records:
        path = Path(folder) / WARMUP_FILE
        path.parent.mkdir(exist_ok=True)
        with tf.io.TFRecordWriter(str(path)) as writer:
            for record in records:
                writer.write(record)
