"""Explains predictions by SHAP values, with the background rows that a version brings along.

The values are those of `shap`'s permutation explainer (Lundberg and Lee, A Unified Approach to
Interpreting Model Predictions, 2017): groups of features are added to a background row in a random
order and taken away in the same order. They are computed here, since the import of `shap` takes
seconds and compiles its loops at the first request.

A row takes a number of predictions that is bounded whatever the model, in batches that are bounded
in bytes, and time is looked at before each. Explanations are large requests: one at a time, they
keep no prediction waiting.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import DecodeError
from tensorflow.core.example import example_pb2, feature_pb2

from serving.server import json_requests
from serving.server.errors import ServingError, invalid
from serving.server.json_document import parse, show
from serving.server.logs import log_event
from serving.server.model_request import ModelRequest
from serving.server.models import Arrays, LoadedModel, Served
from serving.server.signatures import Signature
from serving.server.tensors import check_inputs, count_bytes
from storage.names import BACKGROUND_FILE, RAW_SIGNATURE
from storage.uris import exists, read_file

# Rows of a request.
MOST_ROWS = 100
# Of a file of background rows.
_MOST_BYTES = 16 << 20
_MOST_BACKGROUND_ROWS = 1000
# Predictions that the explanation of a row takes, unless its features alone are more.
_EVALUATIONS = 12_000
_MOST_PERMUTATIONS = 8
# Bytes of the rows that are predicted at a time, and their number.
_BATCH_BYTES, _BATCH_ROWS = 8 << 20, 4096
_VALUE_BYTES = 48  # A short string, with its place in an array.
_SEED = 1


@dataclass(frozen=True)
class Explained:
    """The explanation of rows.

    Attributes:
      names: Names of the features and groups.
      values: SHAP values, float64 [rows, names, outputs].
      base: Mean prediction of the background, float64 [outputs].
    """

    names: Sequence[str]
    values: np.ndarray
    base: np.ndarray


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
      names: Names of the features and groups that are explained, and of the values of vectors.
      inputs: The rows by name, each [rows, ...].
      rows: Their number.
      output: Name of the output that is explained.
    """

    def __init__(self, content: bytes, model: LoadedModel):
        request = json_requests.parse_predict(
            content, lambda name: _signature(model, name), _MOST_BACKGROUND_ROWS
        )
        self.signature = _signature(model, RAW_SIGNATURE)
        rows = _count_rows(self.signature, request.inputs)
        self.output, self._outputs = _explained_output(self.signature)
        groups = _read_groups(parse(content).get("groups", {}), request.inputs)
        self.names, self._places = _divide(groups, request.inputs)
        evaluations = 2 * len(self.names)
        self.rows = min(rows, max(1, _EVALUATIONS // evaluations))
        self._permutations = max(1, _EVALUATIONS // (evaluations * self.rows))
        self._permutations = min(self._permutations, _MOST_PERMUTATIONS)
        self.inputs = {name: array[: self.rows] for name, array in request.inputs.items()}
        self._row_bytes = count_bytes(self.inputs) // self.rows + _VALUE_BYTES * len(self.names)

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
        base = self._predict(model, self.inputs, end).mean(axis=0)
        rows = len(next(iter(inputs.values())))
        values = [
            self._explain_row(model, {n: a[row : row + 1] for n, a in inputs.items()}, base, end)
            for row in range(rows)
        ]
        return Explained(self.names, np.array(values), base)

    def _explain_row(
        self, model: LoadedModel, row: Arrays, base: np.ndarray, end: float
    ) -> np.ndarray:
        """SHAP values of a row, float64 [names, outputs]."""
        chance = np.random.default_rng(_SEED)  # The same row has the same explanation.
        count = len(self.names)
        whole = self._predict(model, row, end)[0]
        values = np.zeros((count, len(base)))
        for _ in range(self._permutations):
            order = chance.permutation(count)
            # Of the row: first 1, 2, ... groups in this order, then all but 1, 2, ...
            added = np.zeros((count, count), bool)
            added[:, order] = np.tri(count, dtype=bool)
            means = self._means(model, row, np.concatenate([added[:-1], ~added[:-1]]), end)
            forward = np.concatenate([base[None], means[: count - 1], whole[None]])
            backward = np.concatenate([whole[None], means[count - 1 :], base[None]])
            values[order] += np.diff(forward, axis=0) - np.diff(backward, axis=0)
        return values / (2 * self._permutations)

    def _means(self, model: LoadedModel, row: Arrays, kept: np.ndarray, end: float) -> np.ndarray:
        """Mean predictions over the background, float64 [masks, outputs], for kept groups."""
        step = max(1, min(_BATCH_ROWS, _BATCH_BYTES // self._row_bytes) // self.rows)
        means = [np.empty((0, self._outputs))]
        for start in range(0, len(kept), step):
            part = kept[start : start + step]
            mixed = {
                name: np.where(part[:, None, self._places[name]], row[name], array).reshape(
                    -1, *array.shape[1:]
                )
                for name, array in self.inputs.items()
            }
            found = self._predict(model, mixed, end)
            means.append(found.reshape(len(part), self.rows, -1).mean(axis=1))
        return np.concatenate(means)

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
        return super().bytes + _BATCH_BYTES


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
        _count_rows(signature, inputs)
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


def _count_rows(signature: Signature, inputs: Arrays) -> int:
    """The rows of the inputs of a signature, one or more, of which all have as many."""
    check_inputs(signature, inputs)
    if any(not info.shape or info.shape[0] is not None for info in signature.inputs.values()):
        raise invalid(f"the signature {RAW_SIGNATURE} does not take rows of any number")
    counts = sorted({len(array) for array in inputs.values()})
    if len(counts) != 1 or not counts[0]:
        raise invalid(f"all inputs need one row or more, and as many; they have {counts}")
    return counts[0]


def _feature(feature: feature_pb2.Feature, dtype: np.dtype) -> list[Any]:
    """The values of a feature, none if they are of another kind than a dtype."""
    kind = {"O": "bytes_list", "f": "float_list"}.get(dtype.kind, "int64_list")
    return list(getattr(feature, kind).value)


def _signature(model: LoadedModel, name: str) -> Signature:
    if name != RAW_SIGNATURE or name not in model.signatures:
        raise invalid(f"the signature {show(name)} is not {RAW_SIGNATURE}, or not the model's")
    return model.signatures[name]


def _explained_output(signature: Signature) -> tuple[str, int]:
    """The only output of a signature: its name, and how many numbers a row has."""
    if len(signature.outputs) == 1:
        ((name, info),) = signature.outputs.items()
        sizes = list(info.shape or ())[1:]
        if info.numpy_dtype.kind == "f" and None not in sizes:
            return name, math.prod(size or 0 for size in sizes)
    raise invalid(f"the signature {RAW_SIGNATURE} has not one output of numbers")


def _read_groups(given: Any, inputs: Arrays) -> Mapping[str, Sequence[str]]:
    """The inputs of each group.

    Raises:
      ServingError: If they are no lists of inputs, or an input is in two.
    """
    groups: dict[str, Sequence[str]] = {}
    seen: set[str] = set()
    items: Iterable[tuple[str, Any]] = (
        given.items() if isinstance(given, dict) else [("groups", None)]
    )
    for name, columns in items:
        known = (
            isinstance(columns, list)
            and columns
            and all(isinstance(column, str) and column in inputs for column in columns)
        )
        if not known or seen & set(columns) or len(set(columns)) < len(columns):
            raise invalid(f"the group {show(name)} is no list of inputs, each in one group alone")
        groups[name] = columns
        seen |= set(columns)
    if taken := groups.keys() & (inputs.keys() - seen):
        raise invalid(f"the group {show(min(taken))} is called as an input")
    return groups


def _divide(
    groups: Mapping[str, Sequence[str]], inputs: Arrays
) -> tuple[list[str], dict[str, np.ndarray]]:
    """Divides the values of a row, as the node Explainer does.

    An input of no group is one itself; of a vector that is never absent each value is one.

    Returns:
      The names, and by input the place of each of its values among them, of the shape of one row.
    """
    names = list(groups)
    places = {
        name: np.full(inputs[name].shape[1:], place)
        for place, columns in enumerate(groups.values())
        for name in columns
    }
    for name, array in inputs.items():
        if name in places:
            continue
        shape = array.shape[1:]
        size = math.prod(shape)
        if size == 1 or (array.dtype.kind == "f" and np.isnan(array).any()):
            places[name] = np.full(shape, len(names))
            names.append(name)
        else:
            places[name] = np.arange(len(names), len(names) + size).reshape(shape)
            names += [f"{name}[{', '.join(map(str, place))}]" for place in np.ndindex(shape)]
    return names, places
