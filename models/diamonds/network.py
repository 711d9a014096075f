"""A network of embeddings and numbers that predicts a price, and its training."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tensorflow as tf
import tf_keras
from tfx import v1 as tfx

from ml.learning import Learning
from ml.training import TrainingData, fit_and_save

from .preprocessing import CATEGORIES, NUMBERS, WEIGHT_CLASS, WEIGHT_CLASSES


def run_fn(fn_args: tfx.components.FnArgs) -> None:
    """Trains and saves the network: the `run_fn` of Trainer."""
    data = TrainingData.load(fn_args)
    sizes = {name: data.graph.vocabulary_size_by_name(name) + 1 for name in CATEGORIES}
    sizes[WEIGHT_CLASS] = WEIGHT_CLASSES
    fit_and_save(build_model(data.learning, sizes, data.labels), data, fn_args)


def build_model(learning: Learning, sizes: Mapping[str, int], prices: np.ndarray) -> tf_keras.Model:
    """Builds the network. Its layers add up the logarithm of the price, as its factors multiply.

    Args:
      learning: The name of the prediction, and of the network `units`, those of the first of three
        hidden layers; each other one has half as many.
      sizes: Number of ids of each category and of the weight's class.
      prices: Labels of `train`.

    Returns:
      A model from the transformed features to the price, float32 [batch, 1].
    """
    layers = tf_keras.layers
    inputs = {name: tf_keras.Input((1,), dtype=tf.int64, name=name) for name in sizes}
    embedded = [
        layers.Flatten()(layers.Embedding(sizes[name], 4, name=f"embedding_{name}")(ids))
        for name, ids in inputs.items()
    ]
    inputs["numbers"] = tf_keras.Input((NUMBERS,), name="numbers")
    hidden = layers.Concatenate()([*embedded, inputs["numbers"]])
    units = learning.network["units"]
    for number, width in enumerate((units, units // 2, units // 4), 1):
        hidden = layers.Dense(
            width, "relu", kernel_initializer="he_normal", name=f"hidden_{number}"
        )(hidden)
    usual = tf_keras.initializers.Constant(np.log(prices).mean())
    log_price = layers.Dense(1, bias_initializer=usual, name="log_price")(hidden)
    price = layers.Activation("exponential", name=learning.prediction)(log_price)
    return tf_keras.Model(inputs, price)
