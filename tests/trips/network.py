"""A small network that reads embeddings and numeric features, and its training."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
import tf_keras
from tfx import v1 as tfx

from ml.learning import Learning
from ml.task_layers import output_layer
from ml.training import TrainingData, fit_and_save

from .features import IDS, NUMERIC, VOCABULARIES

_TRUNK = (64, 32)
_EMBEDDING = 4


def run_fn(fn_args: tfx.components.FnArgs) -> None:
    """Trains and saves the network: the `run_fn` of Trainer."""
    data = TrainingData.load(fn_args)
    sizes = {name: data.graph.vocabulary_size_by_name(name) + 1 for name in VOCABULARIES}
    model = build_model(data.learning, sizes | IDS, data.train[NUMERIC].shape[1])
    fit_and_save(model, data, fn_args)


def build_model(config: Learning, sizes: dict[str, int], width: int) -> tf_keras.Model:
    """Builds the network.

    Args:
      config: Regularisation.
      sizes: Number of ids of each feature that has ids.
      width: Width of the feature `numeric`.

    Returns:
      A model from the transformed features to the probability of the label, shape [batch, 1].
    """
    layers = tf_keras.layers
    inputs = {name: tf_keras.Input((1,), dtype=tf.int64, name=name) for name in sizes}
    inputs[NUMERIC] = tf_keras.Input((width,), name=NUMERIC)
    starts = np.cumsum([0, *sizes.values()])
    ids = layers.Concatenate()([inputs[name] for name in sizes]) + starts[:-1]
    embedded = layers.Embedding(int(starts[-1]), _EMBEDDING, name="embedding")(ids)
    hidden = layers.Concatenate()([layers.Flatten()(embedded), inputs[NUMERIC]])
    for number, units in enumerate(_TRUNK, 1):
        hidden = layers.Dense(
            units,
            "relu",
            kernel_regularizer=tf_keras.regularizers.l2(config.l2),
            name=f"hidden_{number}",
        )(hidden)
        hidden = layers.Dropout(config.dropout)(hidden)
    logit = layers.Dense(1, name="deep")(hidden)
    return tf_keras.Model(inputs, output_layer(config.task, logit, config.prediction))
