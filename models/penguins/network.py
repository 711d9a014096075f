"""A small network of embeddings and numbers, and its training."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf
import tf_keras
from tfx import v1 as tfx

from ml.learning import Learning
from ml.task_layers import output_layer
from ml.training import TrainingData, fit_and_save

from .preprocessing import CATEGORIES, NUMBERS


def run_fn(fn_args: tfx.components.FnArgs) -> None:
    """Trains and saves the network: the `run_fn` of Trainer."""
    data = TrainingData.load(fn_args)
    sizes = {name: data.graph.vocabulary_size_by_name(name) + 1 for name in CATEGORIES}
    fit_and_save(build_model(data.learning, sizes), data, fn_args)


def build_model(learning: Learning, sizes: Mapping[str, int]) -> tf_keras.Model:
    """Builds the network.

    Args:
      learning: The task, and the name of the prediction.
      sizes: Number of ids of each category.

    Returns:
      A model from the transformed features to a probability for each class, [batch, classes].
    """
    layers = tf_keras.layers
    inputs = {name: tf_keras.Input((1,), dtype=tf.int64, name=name) for name in CATEGORIES}
    embedded = [
        layers.Flatten()(layers.Embedding(sizes[name], 2, name=f"embedding_{name}")(ids))
        for name, ids in inputs.items()
    ]
    inputs["numbers"] = tf_keras.Input((len(NUMBERS),), name="numbers")
    hidden = layers.Concatenate()([*embedded, inputs["numbers"]])
    hidden = layers.Dense(32, "relu", name="hidden_1")(hidden)
    hidden = layers.Dense(16, "relu", name="hidden_2")(hidden)
    logits = layers.Dense(learning.task.outputs, name="logits")(hidden)
    return tf_keras.Model(inputs, output_layer(learning.task, logits, learning.prediction))
