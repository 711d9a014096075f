"""Warm-up requests: what TensorFlow Serving sends to a version when it loads it.

TensorFlow Serving sends the requests in `assets.extra/tf_serving_warmup_requests` to the format
that it loads. It refuses the version if one of them fails, for instance because this format lacks
its signature or one of its inputs.
"""

from __future__ import annotations

from collections.abc import Collection
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

# TensorFlow Serving refuses a version that has more.
MAX_WARMUP_RECORDS = 1000


def write_warmup(
    folder: str, model_name: str, examples: np.ndarray, features: Collection[str]
) -> list[str]:
    """Adds warm-up requests to a model that has none, and changes nothing else.

    Each signature that every format has with the same inputs gets requests. With a `model.tflite`,
    `serving_default` gets none: it takes serialized examples in one format and features in the
    other. A request holds one row, because TensorFlow Serving runs a TFLite model that has several
    string inputs on exactly one row.

    Args:
      folder: Local folder of the SavedModel, in which there may be a `model.tflite`.
      model_name: Name of the model in the requests.
      examples: Serialized tf.Examples, bytes [rows]; each goes to each signature, as far as
        TensorFlow Serving takes so many requests.
      features: Names of the features that the schema of the examples has.

    Returns:
      Names of the signatures that get requests; none if the model cannot be read, which the server
      will report.

    Raises:
      DataError: If an example lacks a feature that has to be there.
      UserError: If a signature has an input that is no feature.
    """
    path = Path(folder) / WARMUP_FILE
    signatures = {} if path.exists() else _common_signatures(folder, features)
    if not signatures or not len(examples):
        return []
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for name, signature in sorted(signatures.items()):
            rows = examples[: MAX_WARMUP_RECORDS // len(signatures)]
            inputs = make_inputs(signature, rows, features)
            for row in range(len(rows)):
                log = prediction_log_pb2.PredictionLog()
                log.predict_log.request.CopyFrom(predict_request(model_name, name, inputs, row))
                writer.write(log.SerializeToString(deterministic=True))
    return sorted(signatures)


def _common_signatures(folder: str, features: Collection[str]) -> Signatures:
    """The signatures that take rows and that each format has with the same inputs."""
    signatures = {
        name: signature
        for name, signature in _read_signatures(folder).items()
        if signature.method_name and accepts_rows(signature, features)
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
