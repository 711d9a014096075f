"""The dense network of the tutorials on pruning and quantization, and its training."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import tf_keras
from tfx import v1 as tfx

from ml.examples import Columns
from ml.learning import Learning
from ml.task_layers import output_layer
from ml.training import TrainingData, fit_and_save

from .preprocessing import PIXELS, SIDE


def run_fn(fn_args: tfx.components.FnArgs) -> None:
    """Trains and saves the network: the `run_fn` of Trainer."""
    data = TrainingData.load(fn_args)
    train = change_images(data.train, data.learning.network)
    fit_and_save(build_model(data.learning), dataclasses.replace(data, train=train), fn_args)


def build_model(learning: Learning) -> tf_keras.Model:
    """Builds the network.

    Args:
      learning: The task, the name of the prediction, the dropout, and of the network `units`, those
        of a hidden layer.

    Returns:
      A model from `pixels`, [batch, 784], to a probability for each digit, [batch, 10].
    """
    layers = tf_keras.layers
    pixels = tf_keras.Input((PIXELS,), name="pixels")
    units = learning.network["units"]
    hidden = layers.Dense(units, "relu", name="hidden_1")(pixels)
    hidden = layers.Dropout(learning.dropout)(hidden)
    hidden = layers.Dense(units, "relu", name="hidden_2")(hidden)
    hidden = layers.Dropout(learning.dropout)(hidden)
    logits = layers.Dense(learning.task.outputs, name="logits")(hidden)
    outputs = output_layer(learning.task, logits, learning.prediction)
    return tf_keras.Model({"pixels": pixels}, outputs)


def change_images(rows: Columns, settings: Mapping[str, Any]) -> Columns:
    """Copies of images, as other people might have written them.

    They are made once and not by layers of the network, in which they would take most of the time
    of a step. They take 3 kB of memory each.

    Args:
      rows: `pixels`, float32 [rows, 784], and other columns.
      settings: `copies`, of each image; and what each is changed by at random: `rotation`, at most
        this share of a full turn; `zoom` and `shift`, at most this share of the image's side.

    Returns:
      The same columns, each [rows * copies, width].
    """
    layers = tf_keras.layers
    change = tf_keras.Sequential(
        [
            layers.Reshape((SIDE, SIDE, 1)),
            layers.RandomRotation(settings["rotation"], "constant"),
            layers.RandomZoom(settings["zoom"], fill_mode="constant"),
            layers.RandomTranslation(settings["shift"], settings["shift"], "constant"),
            layers.Reshape((PIXELS,)),
        ]
    )
    copies = settings["copies"]
    changed = [np.array(change(rows["pixels"], training=True)) for _ in range(copies)]
    others = {name: np.tile(column, (copies, 1)) for name, column in rows.items()}
    return others | {"pixels": np.concatenate(changed)}
