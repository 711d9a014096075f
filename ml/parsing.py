"""Parses serialized tf.Examples into what a model takes: features of a dtype and a shape."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from storage.errors import DataError

# Dtype of an input, and the one of the three kinds of feature that it is parsed from.
_KINDS = {
    tf.string: tf.string,
    **dict.fromkeys((tf.float16, tf.float32, tf.float64), tf.float32),
    **dict.fromkeys((tf.int64, tf.int32, tf.int16, tf.int8, tf.uint8, tf.bool), tf.int64),
}
_ABSENT = {tf.string: "", tf.float32: math.nan}

# Dtype and shape of a row, by name of the input.
Inputs = Mapping[str, tuple[tf.DType, Sequence[int]]]


def can_parse(dtype: tf.DType) -> bool:
    """Whether tf.Examples can hold values of a dtype."""
    return dtype in _KINDS


def parse_examples(examples: np.ndarray, inputs: Inputs, reader: str) -> dict[str, np.ndarray]:
    """Parses examples into the inputs of a model.

    A feature of one value a row that an example does not hold is "" if it is a string, NaN if it is
    a float; an integer has to be there, and so has a feature of several values.

    Args:
      examples: Serialized tf.Examples, bytes [batch].
      inputs: What the model takes.
      reader: What takes them, for the message of an error.

    Returns:
      The inputs by name, each [batch, ...].

    Raises:
      DataError: If an example lacks a feature that has to be there.
    """
    specs = {}
    for name, (dtype, shape) in inputs.items():
        kind = _KINDS[dtype]
        specs[name] = tf.io.FixedLenFeature(shape, kind, None if shape else _ABSENT.get(kind))
    try:
        parsed = tf.io.parse_example(examples, specs)
    except tf.errors.InvalidArgumentError as error:
        raise DataError(f"an example does not fit {reader}: {error.message}") from error
    return {
        name: column.numpy().astype(inputs[name][0].as_numpy_dtype)
        for name, column in parsed.items()
    }
