"""A task's part of the TensorFlow graph: the encoding of the label, and the output layer."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
import tf_keras

from ml.tasks import REGRESSION, Task


def encode_label(task: Task, label: tf.Tensor) -> tf.Tensor:
    """Encodes the raw label in a `preprocessing_fn`.

    Args:
      task: The task.
      label: Raw label, string, int64 or float32 [batch, 1].

    Returns:
      The class's id, int64 [batch, 1], -1 for a value that is no class; or the number of a
      regression, float32 [batch, 1].
    """
    if task.kind == REGRESSION:
        return tf.cast(label, tf.float32)
    if label.dtype == tf.string:
        keys, ids = tf.constant(task.classes), tf.range(len(task.classes), dtype=tf.int64)
    else:
        numbers = task.class_numbers()
        keys = tf.cast(tf.constant(list(numbers), tf.int64), label.dtype)
        ids = tf.constant(list(numbers.values()), tf.int64)
    matches = tf.cast(tf.equal(label, keys), tf.int64)
    return tf.reduce_sum(matches * (ids + 1), axis=1, keepdims=True) - 1


def output_layer(
    task: Task, logits: tf.Tensor, name: str, labels: np.ndarray | None = None
) -> tf.Tensor:
    """The prediction from the task's logits: probabilities, or the number itself.

    Args:
      task: The task.
      logits: float32 [batch, task.outputs].
      name: Name of the prediction.
      labels: Unused by classes; for a regression the encoded labels of `train`, whose mean and
        standard deviation turn a number around 0 into one in the label's unit. None leaves it.

    Returns:
      float32 [batch, task.outputs].
    """
    if task.kind == REGRESSION:
        mean, deviation = (0.0, 1.0) if labels is None else _moments(labels)
        return tf_keras.layers.Rescaling(deviation, mean, name=name)(logits)
    return tf_keras.layers.Activation(task.activation, name=name)(logits)


def _moments(labels: np.ndarray) -> tuple[float, float]:
    return float(np.mean(labels)), float(np.std(labels)) or 1.0
