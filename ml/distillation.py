"""Distillation: a compressed network learns from the float model's predictions.

Hinton, Vinyals and Dean 2015, https://arxiv.org/abs/1503.02531, without their temperature. The
loss of mixed targets is the mixed loss, but for a constant, of cross-entropy and squared error.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tf_keras

from ml.stored_columns import parts, predict
from ml.tasks import MULTICLASS, Task

_BATCH = 8192
# Settings of layers that make training random.
_RANDOM = ("rate", "stddev")


def soft_targets(
    task: Task, labels: np.ndarray, predictions: np.ndarray, share: float
) -> np.ndarray:
    """Mixes labels with the float model's predictions.

    Example:
      >>> task = Task("binary", "tip", ("no", "yes"))
      >>> soft_targets(task, np.array([[1], [0]]), np.array([[0.5], [0.5]]), 0.5)
      array([[0.75],
             [0.25]], dtype=float32)

    Args:
      task: The task.
      labels: Encoded labels, [rows, 1].
      predictions: Probabilities, or numbers of a regression, float32 [rows, task.outputs].
      share: Weight of the predictions, 0 to 1.

    Returns:
      float32 [rows, task.outputs]: a probability for each class of several, that of the label, or
      a number.
    """
    hard = np.asarray(labels)
    if task.kind == MULTICLASS:
        hard = np.eye(task.outputs)[np.ravel(labels).astype(int)]
    mixed = share * predictions.reshape(hard.shape) + (1 - share) * hard
    return np.asarray(mixed, np.float32)


def teach(
    network: tf_keras.Model, columns: dict[str, np.ndarray], task: Task, share: float
) -> np.ndarray | None:
    """The targets that a network gives its compressed copy.

    Args:
      network: The float model.
      columns: Rows to train on; see `ml.examples.read_columns`.
      task: The task.
      share: See `soft_targets`.

    Returns:
      See `soft_targets`; None if the share is 0.
    """
    if not share:
        return None
    names, found = network.input_names, []
    # In parts: nothing of all rows is there twice.
    for part in parts({name: columns[name] for name in {*names, task.label}}):
        inputs = {name: part[name] for name in names}
        predictions = predict(network, inputs, _BATCH)
        found.append(soft_targets(task, part[task.label], predictions, share))
    return np.concatenate(found)


def without_regularization(network: tf_keras.Model) -> tf_keras.Model:
    """Copies a network, with its weights, without dropout, noise and penalties.

    Who learns from nothing but a model's predictions cannot learn the noise of the labels, from
    which these protect.
    """

    def relax(layer: tf_keras.layers.Layer) -> tf_keras.layers.Layer:
        config: dict[str, Any] = layer.get_config()
        for name in config:
            if name.endswith("_regularizer"):
                config[name] = None
            elif name in _RANDOM and not layer.weights:
                config[name] = 0.0
        return type(layer).from_config(config)

    copy = tf_keras.models.clone_model(network, clone_function=relax)
    copy.set_weights(network.get_weights())
    return copy
