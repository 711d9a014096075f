"""Warm-up requests: what TensorFlow Serving asks a version of itself when it loads it.

TensorFlow Serving replays the requests in `assets.extra/tf_serving_warmup_requests`, in whichever
format it loads the version, and refuses the version if one of them fails: one that names a
signature, or an input, that this format lacks.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2
from tensorflow_serving.apis import prediction_log_pb2

from components.serving_validator.rows import accepts_rows, make_inputs, predict_request
from ml import tflite
from ml.tflite import Signatures
from storage.names import SAVED_MODEL, TFLITE_MODEL, WARMUP_FILE

# With more, TensorFlow Serving refuses the version.
MAX_WARMUP_RECORDS = 1000


def write_warmup(folder: str, model_name: str, examples: np.ndarray) -> list[str]:
    """Adds warm-up requests to a model that has none, and changes nothing else of it.

    A request goes to each signature that every format has with the same inputs: with a
    `model.tflite` these are the ones that it has besides `serving_default`, which takes serialized
    examples in the one format and features in the other. A request holds one row, since TensorFlow
    Serving runs a TFLite model with several string inputs on no other number.

    Args:
      folder: Local folder of the SavedModel, in which there may be a `model.tflite`.
      model_name: Name of the model in the requests.
      examples: Serialized tf.Examples, bytes [rows]; each goes to each signature, as far as
        TensorFlow Serving takes so many requests.

    Returns:
      Names of the signatures that are warmed up; none where the model cannot be read, which the
      server will say.

    Raises:
      DataError: If an example lacks a feature that has to be there.
    """
    path = Path(folder) / WARMUP_FILE
    signatures = {} if path.exists() else _common_signatures(folder)
    if not signatures or not len(examples):
        return []
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for name, signature in sorted(signatures.items()):
            rows = examples[: MAX_WARMUP_RECORDS // len(signatures)]
            inputs = make_inputs(signature, rows)
            for row in range(len(rows)):
                log = prediction_log_pb2.PredictionLog()
                log.predict_log.request.CopyFrom(predict_request(model_name, name, inputs, row))
                writer.write(log.SerializeToString(deterministic=True))
    return sorted(signatures)


def _common_signatures(folder: str) -> Signatures:
    """The signatures that take rows and that each format has with the same inputs."""
    signatures = {
        name: signature
        for name, signature in _read_signatures(folder).items()
        if signature.method_name and accepts_rows(signature)
    }
    path = Path(folder) / TFLITE_MODEL
    if not path.exists():
        return signatures
    named = tflite.read_signatures(path.read_bytes())
    return {
        name: signature
        for name, signature in signatures.items()
        if name in named and _dtypes(signature) == _dtypes(named[name])
    }


def _read_signatures(folder: str) -> Signatures:
    """The signatures of a SavedModel by name; none if it cannot be read."""
    try:
        saved = saved_model_pb2.SavedModel.FromString((Path(folder) / SAVED_MODEL).read_bytes())
    except DecodeError:
        return {}
    for graph in saved.meta_graphs:
        if tf.saved_model.SERVING in graph.meta_info_def.tags:
            return dict(graph.signature_def)
    return {}


def _dtypes(signature: meta_graph_pb2.SignatureDef) -> dict[str, int]:
    return {name: info.dtype for name, info in signature.inputs.items()}
