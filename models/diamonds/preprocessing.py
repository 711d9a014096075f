"""Transforms raw features, in the pipeline and inside the served model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from ml.task_layers import encode_label
from ml.tasks import Task
from ml.transforms import category_ids, is_absent, of_known, standard_scores

CATEGORIES = ("cut", "color", "clarity")
# Prices jump where a stone reaches a weight that people ask for, such as one carat: each 0.05 carat
# has a class of its own, up to three carats.
WEIGHT_CLASS, WEIGHT_CLASSES = "weight_class", 61
_CLASSES_A_CARAT = 20
# The numeric features, and the logarithms of weight, length, width and height.
NUMBERS = 10
# Length, width and height, and how many mm each has in a round stone of one carat.
_SIZES = {"x": 6.5, "y": 6.5, "z": 4.0}
_LONGEST = 15.0  # mm; longer stones are typing errors: 58.9 for 8.09.


def preprocessing_fn(
    inputs: Mapping[str, tf.Tensor], custom_config: Mapping[str, Any]
) -> dict[str, tf.Tensor]:
    """Transforms raw features: the `preprocessing_fn` of Transform.

    Args:
      inputs: Raw features by name, each [batch, 1]; a size of 0 is not known.
      custom_config: The task.

    Returns:
      Ids of `CATEGORIES`, and `weight_class`, 0 to below `WEIGHT_CLASSES`, int64 [batch, 1];
      `numbers`, float32 [batch, `NUMBERS`]; the label, float32 [batch, 1].
    """
    task = Task.from_config(custom_config)
    carat = inputs["carat"]
    sizes = [_size(inputs[name], carat, usual) for name, usual in _SIZES.items()]
    numbers = [carat, inputs["depth"], inputs["table"], *sizes]
    numbers += [of_known(tf.math.log, positive) for positive in (carat, *sizes)]
    outputs = {name: category_ids(inputs[name], name) for name in CATEGORIES}
    outputs[WEIGHT_CLASS] = _weight_class(carat)
    outputs["numbers"] = standard_scores(tf.concat(numbers, axis=1))
    outputs[task.label] = encode_label(task, inputs[task.label])
    return outputs


def _weight_class(carat: tf.Tensor) -> tf.Tensor:
    # Weights have two decimals; half of the last keeps 0.7 from being 0.699.
    known = tf.where(is_absent(carat), tf.zeros_like(carat), carat)
    classes = tf.floor((known + 0.005) * _CLASSES_A_CARAT)
    return tf.cast(tf.clip_by_value(classes, 0.0, WEIGHT_CLASSES - 1.0), tf.int64)


def _size(size: tf.Tensor, carat: tf.Tensor, usual: float) -> tf.Tensor:
    """A size in mm; where it is impossible, that of a usual stone of this weight."""
    possible = tf.logical_and(size > 0, size < _LONGEST)
    return tf.where(possible, size, usual * tf.pow(carat, 1 / 3))
