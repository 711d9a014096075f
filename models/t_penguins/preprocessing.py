"""Transforms the columns of t_penguins, in the pipeline and inside the served model.

`preprocessing_fn` is the function of TensorFlow Transform: what it learns (vocabularies, means,
quantiles) it learns from the split `train`, and the served model has it built in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf
import tensorflow_transform as tft

from ml.task_layers import encode_label
from ml.tasks import Task

# Text: each has a vocabulary. Values that are rarer than `_RARE` share the id of unknown ones.
CATEGORIES = ("island", "sex")
_RARE = 2
# Numbers: the distance from the mean in standard deviations.
NUMBERS = (
    "bill_length_mm",
    "bill_depth_mm",
    "flipper_length_mm",
    "body_mass_g",
    "year",
)

# The transformed features: ids of categories and codes, and all numbers.
IDS = "ids"
NUMERIC = "numeric"

Tensors = dict[str, tf.Tensor]


def preprocessing_fn(inputs: Tensors, custom_config: Mapping[str, Any]) -> Tensors:
    """Transforms raw features: the `preprocessing_fn` of Transform.

    Args:
      inputs: Raw features by name, each [batch, 1]; "" or NaN where one is absent.
      custom_config: The task of the model.

    Returns:
      `ids`, int64 [batch, 2];
      `numeric`, float32 [batch, width];
      and the encoded label.
    """
    task = Task.from_config(custom_config)
    outputs = {task.label: encode_label(task, inputs[task.label])}
    outputs[IDS] = tf.concat(
        [
            *(_vocabulary_id(inputs, name) for name in CATEGORIES),
        ],
        axis=1,
    )
    outputs[NUMERIC] = tf.concat(
        [
            *(_z_score(inputs[name]) for name in NUMBERS),
        ],
        axis=1,
    )
    return outputs


def vocabulary(name: str) -> str:
    """Name of the file with the vocabulary of a category."""
    return f"vocabulary_{CATEGORIES.index(name)}"


def _vocabulary_id(inputs: Tensors, name: str) -> tf.Tensor:
    """Ids from 1 on; 0 for what the vocabulary does not have, and for what is absent."""
    ids = tft.compute_and_apply_vocabulary(
        inputs[name], frequency_threshold=_RARE, default_value=-1, vocab_filename=vocabulary(name)
    )
    return ids + 1


def _z_score(values: tf.Tensor) -> tf.Tensor:
    """Standard deviations from the mean, within ±5; 0 where absent, or if nothing varies."""
    values = tf.cast(values, tf.float32)
    mean, deviation = tft.mean(values), tf.sqrt(tft.var(values))
    return _known(tf.clip_by_value(tf.math.divide_no_nan(values - mean, deviation), -5.0, 5.0))


def _known(values: tf.Tensor) -> tf.Tensor:
    """The values, 0 where one is not a number."""
    return tf.where(tf.math.is_nan(values), tf.zeros_like(values), values)
