"""The network of t_diamonds, and its training."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
import tf_keras
from tfx import v1 as tfx

from ml.learning import Learning
from ml.task_layers import output_layer
from ml.training import TrainingData, fit_and_save

from .preprocessing import CATEGORIES, IDS, NUMERIC, vocabulary

_HIDDEN = (128, 64, 32)
_EMBEDDING = 4


def run_fn(fn_args: tfx.components.FnArgs) -> None:
    """Trains and saves the network: the `run_fn` of Trainer."""
    data = TrainingData.load(fn_args)
    sizes = [
        *(data.graph.vocabulary_size_by_name(vocabulary(name)) + 1 for name in CATEGORIES),
    ]
    width = data.train[NUMERIC].shape[1]
    fit_and_save(build_model(data.learning, sizes, width, data.labels), data, fn_args)


def build_model(
    learning: Learning, sizes: list[int], width: int, labels: np.ndarray
) -> tf_keras.Model:
    """Builds the network: embeddings of the ids beside the numbers, dense layers, the task's output.

    Args:
      learning: Regularization, and the task.
      sizes: Number of ids of each column of `ids`.
      width: Width of `numeric`.
      labels: Encoded labels of `train`, by which the output layer starts.

    Returns:
      A model from the transformed features to the prediction, [batch, task.outputs].
    """
    layers = tf_keras.layers
    l2 = tf_keras.regularizers.l2(learning.l2)
    inputs = {}
    parts = []
    inputs[IDS] = tf_keras.Input((len(sizes),), dtype=tf.int64, name=IDS)
    starts = np.cumsum([0, *sizes[:-1]])
    # One table for all columns: one lookup is much faster than several.
    table = layers.Embedding(sum(sizes), _EMBEDDING, name="embedding")
    parts.append(layers.Flatten()(table(inputs[IDS] + starts)))
    inputs[NUMERIC] = tf_keras.Input((width,), name=NUMERIC)
    parts.append(inputs[NUMERIC])
    hidden = layers.Concatenate()(parts) if len(parts) > 1 else parts[0]
    for number, units in enumerate(_HIDDEN, 1):
        hidden = layers.Dense(
            units, "relu", kernel_regularizer=l2, name=f"hidden_{number}"
        )(hidden)
        hidden = layers.Dropout(learning.dropout)(hidden)
    task = learning.task
    logits = layers.Dense(task.outputs, name="logits")(hidden)
    return tf_keras.Model(inputs, output_layer(task, logits, learning.prediction, labels))
