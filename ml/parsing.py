"""Parses serialized tf.Examples into the inputs of a model."""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from storage.errors import DataError, UserError

# Dtype of an input, and the dtype of the feature that it is parsed from.
_KINDS = {
    tf.string: tf.string,
    **dict.fromkeys((tf.float16, tf.float32, tf.float64), tf.float32),
    **dict.fromkeys((tf.int64, tf.int32, tf.int16, tf.int8, tf.uint8, tf.bool), tf.int64),
}
_ABSENT = {tf.string: "", tf.float32: math.nan}

# Dtype and shape of one row, by name of the input.
Inputs = Mapping[str, tuple[tf.DType, Sequence[int]]]


def can_parse(dtype: tf.DType) -> bool:
    """Whether tf.Examples can hold values of a dtype."""
    return dtype in _KINDS


def check_known(inputs: Iterable[str], features: Collection[str], reader: str) -> None:
    """Checks that the inputs of a model are features that examples may have.

    Without this check an input that no example knows would always be NaN or "".

    Args:
      inputs: Names of the model's inputs.
      features: Names of the features that the schema of the examples has.
      reader: Name of the model in error messages.

    Raises:
      UserError: If an input is none of them.
    """
    if unknown := sorted(set(inputs) - set(features)):
        raise UserError(
            f"{reader} has the input {', '.join(map(repr, unknown))}, which is no feature of the "
            "schema: add it to the schema, or use a model that does not read it"
        )


def parse_examples(examples: np.ndarray, inputs: Inputs, reader: str) -> dict[str, np.ndarray]:
    """Parses examples into the inputs of a model.

    An absent feature of one value is "" if it is a string and NaN if it is a float. Integers and
    features of several values are required.

    Args:
      examples: Serialized tf.Examples, bytes [batch].
      inputs: Dtype and shape of the model's inputs.
      reader: Name of the model in error messages.

    Returns:
      The inputs by name, each [batch, ...].

    Raises:
      DataError: If an example lacks a required feature.
    """
    plan = tuple((name, dtype, tuple(shape)) for name, (dtype, shape) in sorted(inputs.items()))
    try:
        columns = tf.raw_ops.ParseExampleV2(serialized=examples, **_arguments(plan)).dense_values
    except tf.errors.InvalidArgumentError as error:
        raise DataError(f"an example does not fit {reader}: {error.message}") from error
    return {
        name: column.numpy().astype(dtype.as_numpy_dtype)
        for (name, dtype, _), column in zip(plan, columns, strict=True)
    }


@functools.lru_cache
def _arguments(plan: tuple[tuple[str, tf.DType, tuple[int, ...]], ...]) -> dict[str, Any]:
    """What the operator gets that `tf.io.parse_example` runs.

    That makes a tensor of each default at each call, which takes far longer than to parse a row.
    """
    kinds = [_KINDS[dtype] for _, dtype, _ in plan]
    return {
        "names": [],
        "sparse_keys": [],
        "dense_keys": [name for name, _, _ in plan],
        "ragged_keys": [],
        # One without a value says that the feature is required.
        "dense_defaults": [
            tf.constant([], kind) if shape or kind not in _ABSENT else tf.constant(_ABSENT[kind])
            for kind, (_, _, shape) in zip(kinds, plan, strict=True)
        ],
        "num_sparse": 0,
        "sparse_types": [],
        "ragged_value_types": [],
        "ragged_split_types": [],
        "dense_shapes": [shape for _, _, shape in plan],
    }
