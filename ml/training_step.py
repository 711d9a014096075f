"""Has Keras trace the step of a training once instead of four times, at a second each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tf_keras

_STEPS = ("train_step", "test_step")

Step = Callable[[Any], dict[str, tf.Tensor]]


def trace_once(model: tf_keras.Model, train_step: Step | None = None) -> None:
    """Makes functions of a compiled model's steps, which are traced once each.

    Keras traces them twice in the loop of `steps_per_execution`, to know what the loop returns, and
    both times twice, because the first trace creates the optimizer's variables. Undo it by
    `trace_as_keras` after `fit`: the functions know what the model was compiled with.

    Args:
      model: The model.
      train_step: What to take as its `train_step`, instead of its own.
    """
    model.optimizer.build(model.trainable_variables)
    model.train_step = _function(train_step or model.train_step)
    model.test_step = _function(model.test_step)
    model.train_function = model.test_function = None
    model.make_train_function()


def trace_as_keras(model: tf_keras.Model) -> None:
    """Gives a model its own steps back."""
    for name in _STEPS:
        if name in vars(model):
            delattr(model, name)
    model.train_function = model.test_function = None


def _function(step: Step) -> Step:
    # Layers convert their own code, as they would without this function.
    function = tf.function(step, autograph=False, reduce_retracing=True)

    # Keras would save a `tf.function` with the model.
    def call(rows: Any) -> dict[str, tf.Tensor]:
        logs: dict[str, tf.Tensor] = function(rows)
        return logs

    return call
