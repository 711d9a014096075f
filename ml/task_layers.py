"""A task's part of the TensorFlow graph: the encoding of the label, and the output layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from ml.tasks import REGRESSION, Task
from storage.errors import DataError


def encode_label(task: Task, label: tf.Tensor) -> tf.Tensor:
    """Encodes the raw label in a `preprocessing_fn`.

    Args:
      task: The task.
      label: Raw label, string, int64 or float32 [batch, 1].

    Returns:
      The class's id, int64 [batch, 1], -1 for a value that is no class; or the number of a
      regression, float32 [batch, 1].

    Raises:
      DataError: If the label is of a type that the task does not have, or the schema does not say
        that each row has one.
    """
    if isinstance(label, tf.SparseTensor | tf.RaggedTensor):
        raise DataError(
            f"label {task.label!r}: the schema has to give it shape {{ dim {{ size: 1 }} }} and "
            "presence { min_fraction: 1 }"
        )
    label = tf.reshape(label, [-1, 1])
    if task.kind == REGRESSION:
        if label.dtype == tf.string:
            raise DataError(f"label {task.label!r}: it is text; a regression needs numbers")
        return tf.cast(label, tf.float32)
    if label.dtype == tf.string:
        ids: dict[Any, int] = {name: number for number, name in enumerate(task.classes)}
    else:
        ids = dict(task.class_numbers())
        if not ids:
            raise DataError(
                f"label {task.label!r}: it is a number; the classes {', '.join(task.classes)} "
                "are not numbers, or not all different"
            )
        if not label.dtype.is_floating:
            ids = {number: class_id for number, class_id in ids.items() if number == int(number)}
    matches = tf.cast(tf.equal(label, tf.constant(list(ids), label.dtype)), tf.int64)
    places = tf.constant([class_id + 1 for class_id in ids.values()], tf.int64)
    return tf.reduce_sum(matches * places, axis=1, keepdims=True) - 1


def label_and_weight(task: Task, inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """The features that training needs beside those of the network, for a `preprocessing_fn`.

    Example:
      outputs |= label_and_weight(Task.from_config(custom_config), inputs)

    Args:
      task: The task.
      inputs: Raw features by name.

    Returns:
      The encoded label, see `encode_label`; and, if the task has an `example_weight`, that raw
      feature as the feature `task.weight`, float32 [batch, 1]. A model that weights rows by
      anything else replaces the latter.
    """
    outputs = {task.label: encode_label(task, inputs[task.label])}
    if task.example_weight:
        weight = tf.reshape(inputs[task.example_weight], [-1, 1])
        outputs[task.weight] = tf.cast(weight, tf.float32)
    return outputs


def output_layer(
    task: Task, logits: tf.Tensor, name: str, labels: np.ndarray | None = None
) -> tf.Tensor:
    """The prediction from the task's logits: probabilities, or the number itself.

    Args:
      task: The task.
      logits: float32 [batch, task.outputs].
      name: Name of the prediction.
      labels: Encoded labels of `train`, which a regression needs: their mean and standard deviation
        turn a number around 0 into one in the label's unit. Other tasks do not use them.

    Returns:
      float32 [batch, task.outputs].

    Raises:
      ValueError: If a regression has no labels.
    """
    if task.kind == REGRESSION:
        if labels is None:
            raise ValueError("output_layer: a regression needs the labels of train")
        mean, deviation = np.mean(labels, dtype=float), np.std(labels, dtype=float)
        return tf_keras.layers.Rescaling(float(deviation) or 1.0, float(mean), name=name)(logits)
    return tf_keras.layers.Activation(task.activation, name=name)(logits)
