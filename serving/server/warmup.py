"""Replays the warm-up requests that come with a version, so that no client has to wait for it."""

from __future__ import annotations

import logging
from pathlib import Path

import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from serving.server import batching, inference
from serving.server.errors import ServingError
from serving.server.logs import log_event
from serving.server.models import LoadedModel
from serving.server.signatures import DEFAULT_SIGNATURE
from serving.server.tensors import check_inputs

# Where TensorFlow Serving looks for them, below a version's folder.
WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"
_MAX_BYTES = 1 << 30
_SECONDS = 60.0


def warm_up(model: LoadedModel, folder: str) -> int:
    """Replays the Predict requests of a version's warm-up file, if it has one.

    Requests that do not fit the model are passed over: the same file serves the SavedModel and the
    TFLite model, which have other signatures.

    Args:
      model: The version.
      folder: Its folder.

    Returns:
      How many requests were answered.

    Raises:
      ServingError: If the model fails over one.
      tf.errors.DataLossError: If the file is damaged.
    """
    path = Path(folder) / WARMUP_FILE
    if not path.exists():
        return 0
    answered = 0
    for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
        log = prediction_log_pb2.PredictionLog.FromString(record)
        if not log.HasField("predict_log"):
            continue
        request = log.predict_log.request
        signature = request.model_spec.signature_name
        try:
            inputs = inference.read_inputs(request, _MAX_BYTES)
            check_inputs(inference.find_signature(model, signature), inputs)
        except ServingError as error:
            log_event("warm-up passed over", logging.WARNING, folder=folder, reason=error.message)
            continue
        inference.predict(model, signature, inputs, request.output_filter, _SECONDS)
        batching.learn(model, signature or DEFAULT_SIGNATURE, inputs)
        answered += 1
    return answered
