"""Uses each signature of a version once before clients do, so that none of them has to wait for it.

First come the requests that the version brings along, as in TensorFlow Serving. That refuses a
version if one of them names an input that the loaded form lacks, so the file holds none for a
signature that the SavedModel and the TFLite model do not share, as `serving_default`. Requests for
the signatures that are left are made here, of a row of the others.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError
from tensorflow.core.example import example_pb2
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from serving.server import batching, inference
from serving.server.errors import ServingError
from serving.server.logs import log_event
from serving.server.models import Arrays, LoadedModel
from serving.server.record_file import read_record_file
from serving.server.signatures import Signature
from serving.server.tensors import check_inputs
from storage.names import DEFAULT_SIGNATURE, WARMUP_FILE

_MAX_BYTES = 1 << 30
_SECONDS = 60.0
# Of a request that is made here, and that the model may refuse.
_MADE_BYTES = 1 << 26
_MADE_SECONDS = 10.0


def warm_up(model: LoadedModel, folder: str, given_up: threading.Event) -> int:
    """Runs the requests of a version's warm-up file, and makes some for what they leave out.

    Requests of the file that do not fit the model are passed over: the same file serves the
    SavedModel and the TFLite model, which have other signatures. So are
    requests that are made here and that the model refuses.

    Args:
      model: The version.
      folder: Its folder.
      given_up: Set when the version is no longer wanted.

    Returns:
      How many requests of the file were run.

    Raises:
      ServingError: If the model fails over a request of the file.
      ValueError: If the file is damaged.
      InterruptedError: If the version is no longer wanted.
    """
    runs = 0
    warm: list[Signature] = []
    row: Arrays = {}
    for request in read_requests(folder):
        _go_on(given_up)
        name = request.model_spec.signature_name or DEFAULT_SIGNATURE
        try:
            inputs = inference.read_inputs(request, _MAX_BYTES)
            signature = inference.find_signature(model, name)
            check_inputs(signature, inputs)
        except ServingError as error:
            log_event("warm-up passed over", logging.WARNING, folder=folder, reason=error.message)
            continue
        try:
            inference.predict(model, name, inputs, request.output_filter, _SECONDS)
        except ServingError as error:
            reason = f"a request for {name} in {WARMUP_FILE} fails: {_explain(error)}"
            raise ServingError(error.code, reason) from error
        batching.learn(model, name, inputs)
        runs += 1
        warm.append(signature)
        if not _takes_examples(signature):
            row = row or inputs
    for name, signature in sorted(model.signatures.items()):
        if any(signature is one for one in warm):  # A TFLite model has one under several names.
            continue
        _go_on(given_up)
        try:
            inputs = make_inputs(signature, row)
            inference.predict(model, name, inputs, (), _MADE_SECONDS)
            if row and _takes_examples(signature):  # Zeros would tell too little.
                batching.learn(model, name, inputs)
        except (ServingError, KeyError, ValueError) as error:
            log_event("warm-up passed over", signature=name, folder=folder, reason=_explain(error))
            continue
        warm.append(signature)
    return runs


def _explain(error: Exception) -> str:
    """Why a request fails, without what the model says: that may quote a row, and it is logged."""
    return error.code.name if isinstance(error, ServingError) and error.quotes else str(error)


def _go_on(given_up: threading.Event) -> None:
    if given_up.is_set():
        raise InterruptedError("the version is no longer wanted")


def read_requests(folder: str) -> Iterator[predict_pb2.PredictRequest]:
    """The requests of a version's warm-up file; none if it has no such file.

    Raises:
      ValueError: If the file is damaged.
    """
    path = Path(folder) / WARMUP_FILE
    if not path.exists():
        return
    try:
        for record in read_record_file(path):
            log = prediction_log_pb2.PredictionLog.FromString(record)
            if log.HasField("predict_log"):
                yield log.predict_log.request
    except (ValueError, DecodeError) as error:
        raise ValueError(f"{WARMUP_FILE} is damaged: {error}") from error


def _takes_examples(signature: Signature) -> bool:
    return [info.dtype for info in signature.inputs.values()] == [types_pb2.DT_STRING]


def make_inputs(signature: Signature, row: Arrays) -> Arrays:
    """Inputs of one row: as a tf.Example if the signature may take one, else of zeros.

    Raises:
      KeyError: If an input has a dtype that the server does not know.
      ValueError: If an input is too large to be made up.
    """
    if _takes_examples(signature):
        return {name: np.array([_to_example(row)], object) for name in signature.inputs}
    inputs = {}
    for name, info in signature.inputs.items():
        shape = (1,) if info.shape is None else tuple(size or 1 for size in info.shape)
        if math.prod(shape) * 8 > _MADE_BYTES:
            raise ValueError(f'input "{name}" has the shape {list(shape)}')
        nothing = b"" if info.dtype == types_pb2.DT_STRING else 0
        inputs[name] = np.full(shape, nothing, info.numpy_dtype)
    return inputs


def _to_example(row: Arrays) -> bytes:
    """The first row of inputs by name as a serialized tf.Example, without what is absent."""
    example = example_pb2.Example()
    for name, array in row.items():
        values = list(np.atleast_1d(array)[:1].ravel())
        if array.dtype == object:
            values = [value for value in values if value]
        elif array.dtype.kind == "f" and len(values) == 1:
            # Of a vector no value is left out: it has a fixed length.
            values = [value for value in values if not np.isnan(value)]
        if not values:
            continue  # An empty list is not absent: a parser refuses it.
        feature = example.features.feature[name]
        if array.dtype == object:
            feature.bytes_list.value.extend(values)
        elif array.dtype.kind == "f":
            feature.float_list.value.extend(values)
        else:
            feature.int64_list.value.extend(map(int, values))
    return example.SerializeToString()
