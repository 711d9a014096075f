"""Explains predictions by SHAP values, with the background rows that a version brings along.

The values are those of `ml.permutation_shap`. Time is looked at before each batch of predictions.
Explanations are large requests: one at a time, they keep no prediction waiting.
"""

from __future__ import annotations

import logging
import math
import os
import time
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import DecodeError
from tensorflow.core.example import example_pb2, feature_pb2

from ml.permutation_shap import BATCH_BYTES, Explained, PermutationShap, check_groups
from serving.server import json_requests
from serving.server.errors import ServingError, invalid
from serving.server.json_document import parse, show
from serving.server.logs import log_event
from serving.server.model_request import ModelRequest
from serving.server.models import Arrays, LoadedModel, Served
from serving.server.signatures import Signature
from serving.server.tensors import check_inputs
from storage.names import BACKGROUND_FILE, RAW_SIGNATURE
from storage.uris import exists, read_file

# Rows of a request.
MOST_ROWS = 100
# Of a file of background rows.
_MOST_BYTES = 16 << 20
_MOST_BACKGROUND_ROWS = 1000


class Background:
    """Background rows of a version, and the groups of its features.

    Args:
      content: The file `background.json` of a version: a request for a prediction in column form,
        and `groups`, the features of each group.
      model: The version.

    Raises:
      ServingError: If it is no such file, or does not fit the model.

    Attributes:
      signature: The signature of raw features.
      inputs: The rows by name, each [rows, ...].
      output: Name of the output that is explained.
    """

    def __init__(self, content: bytes, model: LoadedModel):
        request = json_requests.parse_predict(
            content, lambda name: _signature(model, name), _MOST_BACKGROUND_ROWS
        )
        self.signature = _signature(model, RAW_SIGNATURE)
        _check_rows(self.signature, request.inputs)
        self.output = _explained_output(self.signature)
        try:
            groups = check_groups(parse(content).get("groups", {}), request.inputs)
        except ValueError as error:
            raise invalid(str(error)) from error
        self._shap = PermutationShap(request.inputs, groups)
        self.inputs = self._shap.background

    def explain(self, model: LoadedModel, inputs: Arrays, end: float) -> Explained:
        """Explains predictions.

        Args:
          model: The version.
          inputs: Its inputs by name, each [rows, ...].
          end: When the time of the request is over, as `time.monotonic` has it.

        Returns:
          The explanation; values and base sum to the predictions.

        Raises:
          ServingError: If time is over, or the model fails.
        """
        return self._shap.explain(lambda rows: self._predict(model, rows, end), inputs)

    def _predict(self, model: LoadedModel, inputs: Arrays, end: float) -> np.ndarray:
        left = end - time.monotonic()
        if left <= 0:
            raise ServingError(
                grpc.StatusCode.DEADLINE_EXCEEDED, "the explanation was not ready in time"
            )
        found = model.run(RAW_SIGNATURE, inputs, [self.output], left)[self.output]
        rows = len(next(iter(inputs.values())))
        if found.ndim == 0 or len(found) != rows:
            raise invalid(f'output "{self.output}" has not as many rows as the inputs')
        return found.reshape(rows, -1).astype(float)


class ExplainRequest(ModelRequest):
    """A request for predictions and their explanations; `write` computes these."""

    is_logged = False  # Whoever wants an explanation has had the prediction.

    @property
    def bytes(self) -> int:
        """Bytes that its inputs take, and the rows that are made of them at a time."""
        return super().bytes + BATCH_BYTES


def read_background(folder: str, model: LoadedModel) -> Background | None:
    """The background rows of a version; None if it brings none, or none that fit it.

    Args:
      folder: Its provenance, in a private copy.
      model: The version.
    """
    uri = os.path.join(folder, BACKGROUND_FILE)
    if not exists(uri):
        return None
    try:
        return Background(read_file(uri, _MOST_BYTES), model)
    except (ServingError, OSError) as error:
        reason = f"{BACKGROUND_FILE}: {error}"
        log_event("predictions cannot be explained", logging.WARNING, reason=reason)
        return None


def find_background(served: Served) -> Background:
    """The background rows of a version.

    Raises:
      ServingError: If it has none.
    """
    background = served.model.background
    if background is None:
        raise ServingError(
            grpc.StatusCode.UNIMPLEMENTED,
            f"version {served.version} of {served.name} has no background rows that fit it, so "
            "its predictions cannot be explained",
        )
    return background


def raw_inputs(inputs: Arrays, signature: Signature) -> Arrays:
    """The raw features of a request.

    Args:
      inputs: Inputs of a request: those of the signature, or serialized tf.Examples alone.
      signature: The signature of raw features.

    Returns:
      The inputs of the signature.

    Raises:
      ServingError: If they are neither, or an example has not what the signature takes.
    """
    examples = next(iter(inputs.values()))
    if inputs.keys() == signature.inputs.keys() or len(inputs) != 1 or examples.dtype != object:
        _check_rows(signature, inputs)
        return inputs
    if not examples.size:
        raise invalid("Input is empty.")
    columns: dict[str, list[np.ndarray]] = {name: [] for name in signature.inputs}
    for row, content in enumerate(np.ravel(examples)):
        try:
            features = example_pb2.Example.FromString(content).features.feature
        except DecodeError:
            raise invalid(f"row {row} is no tf.Example", quotes=False) from None
        for name, info in signature.inputs.items():
            shape = [size or 0 for size in tuple(info.shape or ())[1:]]
            values = _feature(features[name], info.numpy_dtype) if name in features else []
            absent = {"O": b"", "f": np.nan}.get(info.numpy_dtype.kind)
            if not values and not shape and absent is not None:
                values = [absent]
            if len(values) != math.prod(shape):
                raise invalid(
                    f"feature {name} of row {row} has {len(values)} values of "
                    f"{info.dtype_name}, which is not what the model takes",
                    quotes=False,
                )
            columns[name].append(np.array(values, info.numpy_dtype).reshape(shape))
    return {name: np.stack(values) for name, values in columns.items()}


def _check_rows(signature: Signature, inputs: Arrays) -> None:
    """Checks that the inputs of a signature have one row or more, and all as many."""
    check_inputs(signature, inputs)
    if any(not info.shape or info.shape[0] is not None for info in signature.inputs.values()):
        raise invalid(f"the signature {RAW_SIGNATURE} does not take rows of any number")
    counts = sorted({len(array) for array in inputs.values()})
    if len(counts) != 1 or not counts[0]:
        raise invalid(f"all inputs need one row or more, and as many; they have {counts}")


def _feature(feature: feature_pb2.Feature, dtype: np.dtype) -> list[Any]:
    """The values of a feature, none if they are of another kind than a dtype."""
    kind = {"O": "bytes_list", "f": "float_list"}.get(dtype.kind, "int64_list")
    return list(getattr(feature, kind).value)


def _signature(model: LoadedModel, name: str) -> Signature:
    if name != RAW_SIGNATURE or name not in model.signatures:
        raise invalid(f"the signature {show(name)} is not {RAW_SIGNATURE}, or not the model's")
    return model.signatures[name]


def _explained_output(signature: Signature) -> str:
    """The only output of a signature."""
    if len(signature.outputs) == 1:
        ((name, info),) = signature.outputs.items()
        sizes = list(info.shape or ())[1:]
        if info.numpy_dtype.kind == "f" and None not in sizes:
            return name
    raise invalid(f"the signature {RAW_SIGNATURE} has not one output of numbers")
