"""The dense network of the tutorials on pruning and quantization, and its training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tf_keras
from tfx import v1 as tfx

from ml.learning import Learning
from ml.task_layers import output_layer
from ml.training import TrainingData, fit_and_save

from .preprocessing import PIXELS, SIDE


def run_fn(fn_args: tfx.components.FnArgs) -> None:
    """Trains and saves the network: the `run_fn` of Trainer."""
    data = TrainingData.load(fn_args)
    fit_and_save(build_model(data.learning), data, fn_args)


def build_model(learning: Learning) -> tf_keras.Model:
    """Builds the network.

    Args:
      learning: The task, the name of the prediction, the dropout, and of the network `units`, those
        of a hidden layer, and what images are changed by in training, against overfitting:
        `rotation`, at most this share of a full turn; `zoom` and `shift`, at most this share of the
        image's side; and `noise`, the standard deviation of what is added to pixels.

    Returns:
      A model from `pixels`, [batch, 784], to a probability for each digit, [batch, 10].
    """
    layers = tf_keras.layers
    pixels = tf_keras.Input((PIXELS,), name="pixels")
    units = learning.network["units"]
    hidden = layers.Dense(units, "relu", name="hidden_1")(_augment(pixels, learning.network))
    hidden = layers.Dropout(learning.dropout)(hidden)
    hidden = layers.Dense(units, "relu", name="hidden_2")(hidden)
    hidden = layers.Dropout(learning.dropout)(hidden)
    logits = layers.Dense(learning.task.outputs, name="logits")(hidden)
    outputs = output_layer(learning.task, logits, learning.prediction)
    return tf_keras.Model({"pixels": pixels}, outputs)


def _augment(pixels: tf_keras.KerasTensor, settings: Mapping[str, Any]) -> tf_keras.KerasTensor:
    """Images as other people might have written them; outside of training the same images."""
    layers = tf_keras.layers
    images = layers.Reshape((SIDE, SIDE, 1))(pixels)
    images = layers.RandomRotation(settings["rotation"], "constant")(images)
    images = layers.RandomZoom(settings["zoom"], fill_mode="constant")(images)
    images = layers.RandomTranslation(settings["shift"], settings["shift"], "constant")(images)
    return layers.GaussianNoise(settings["noise"])(layers.Reshape((PIXELS,))(images))
