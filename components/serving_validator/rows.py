"""Turns serialized tf.Examples into the inputs of a serving signature."""

from __future__ import annotations

import base64
import itertools
import json
import os
import random
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import predict_pb2

from ml.parsing import can_parse, check_known, parse_examples
from storage.errors import DataError, UserError
from storage.tfrecords import read_records

Inputs = Mapping[str, np.ndarray]

_SEED = 7
_BATCH = 8192


def sample_rows(files: Sequence[str], count: int) -> tuple[np.ndarray, list[int]]:
    """Samples rows from a whole split, the same ones each time.

    Args:
      files: Its files, compressed TFRecords.
      count: How many rows to take, at most.

    Returns:
      Serialized tf.Examples, bytes [rows], and the number of each within the split, from 0.

    Raises:
      DataError: If there are no rows.
    """
    # Algorithm R (Vitter, Random Sampling with a Reservoir, 1985): one pass, however long.
    chance = random.Random(_SEED)
    kept: list[tuple[int, bytes]] = []
    batches = read_records(files).batch(_BATCH).as_numpy_iterator()
    for number, row in enumerate(itertools.chain.from_iterable(batches)):
        if len(kept) < count:
            kept.append((number, row))
        elif (place := chance.randrange(number + 1)) < count:
            kept[place] = (number, row)
    if not kept:
        raise DataError(f"{os.path.dirname(files[0])} has no rows")
    kept.sort()
    return np.array([row for _, row in kept], object), [number for number, _ in kept]


def accepts_rows(signature: meta_graph_pb2.SignatureDef, features: Collection[str]) -> bool:
    """Whether serialized tf.Examples can be turned into the inputs of a signature.

    Args:
      signature: The signature.
      features: Names of the features that the schema of the examples has.
    """
    return _takes_examples(signature, features) or (
        bool(signature.inputs)
        and all(
            can_parse(tf.as_dtype(info.dtype))
            and info.tensor_shape.dim
            and -1 not in _row_shape(info)
            for info in signature.inputs.values()
        )
    )


def make_inputs(
    signature: meta_graph_pb2.SignatureDef, examples: np.ndarray, features: Collection[str]
) -> Inputs:
    """Turns examples into the inputs of a signature.

    A signature whose only input is a string, and no feature, takes the serialized examples. Any
    other takes features by name; see `parse_examples`.

    Args:
      signature: The signature.
      examples: Serialized tf.Examples, bytes [batch].
      features: Names of the features that the schema of the examples has.

    Returns:
      Its inputs by name, each [batch, ...].

    Raises:
      DataError: If an example lacks a feature that has to be there.
      UserError: If an input has a shape or dtype that no tf.Example holds, or is no feature.
    """
    if _takes_examples(signature, features):
        return dict.fromkeys(signature.inputs, examples)
    if not accepts_rows(signature, features):
        raise UserError(
            "no example can be turned into the inputs of the signature: "
            + ", ".join(
                f"{name} ({types_pb2.DataType.Name(info.dtype)}, {_row_shape(info)} a row)"
                for name, info in sorted(signature.inputs.items())
            )
        )
    check_known(signature.inputs, features, "the signature")
    inputs = {
        name: (tf.as_dtype(info.dtype), _row_shape(info)) for name, info in signature.inputs.items()
    }
    return parse_examples(examples, inputs, "the signature")


def predict_request(
    model_name: str, signature_name: str, inputs: Inputs, row: int
) -> predict_pb2.PredictRequest:
    """A request for one row, as TensorFlow Serving's gRPC interface takes it."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model_name
    request.model_spec.signature_name = signature_name
    for name, column in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(column[row : row + 1]))
    return request


def rest_body(signature_name: str, inputs: Inputs, row: int) -> bytes:
    """The body of a request for one row, as TensorFlow Serving's REST interface takes it."""
    instance = {
        name: _as_json(column[row : row + 1].tolist()[0]) for name, column in inputs.items()
    }
    # NaN is no JSON, but TensorFlow Serving reads and writes it.
    return json.dumps({"signature_name": signature_name, "instances": [instance]}).encode()


def examples_request(kind: Any, model_name: str, signature_name: str, example: bytes) -> Any:
    """A request to classify or to regress one row over gRPC.

    Args:
      kind: `ClassificationRequest` or `RegressionRequest`.
      model_name: Name of the model.
      signature_name: Name of the signature.
      example: Serialized tf.Example.
    """
    request = kind()
    request.model_spec.name = model_name
    request.model_spec.signature_name = signature_name
    request.input.example_list.examples.add().ParseFromString(example)
    return request


def rest_examples_body(signature_name: str, example: bytes) -> bytes:
    """The body of a request to classify or to regress one row over REST."""
    features = tf.train.Example.FromString(example).features.feature
    row = {}
    for name, feature in features.items():
        if kind := feature.WhichOneof("kind"):
            values = [_as_json(value) for value in getattr(feature, kind).value]
            row[name] = values[0] if len(values) == 1 else values
    return json.dumps({"signature_name": signature_name, "examples": [row]}).encode()


def _as_json(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"b64": base64.b64encode(value).decode()}
    return [_as_json(part) for part in value] if isinstance(value, list) else value


def _takes_examples(signature: meta_graph_pb2.SignatureDef, features: Collection[str]) -> bool:
    dtypes = [info.dtype for info in signature.inputs.values()]
    return dtypes == [types_pb2.DT_STRING] and not set(signature.inputs) & set(features)


def _row_shape(info: meta_graph_pb2.TensorInfo) -> list[int]:
    return [dim.size for dim in info.tensor_shape.dim[1:]]
