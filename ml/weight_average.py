"""Averages a network's weights over its last steps, which makes runs more alike."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tf_keras

from ml.training_step import trace_as_keras, trace_once


class AverageWeights(tf_keras.callbacks.Callback):
    """Validates and keeps an exponential moving average of the weights.

    Training continues from the weights themselves. Put this callback before `EarlyStopping` with
    `restore_best_weights`, which then compares and restores averages. The optimizer's own `use_ema`
    would overwrite the restored weights with the averages of the last step. The averages are
    updated in the graph of a training step: Keras may take many steps between two callbacks.

    Polyak and Juditsky 1992, https://doi.org/10.1137/0330046.

    Args:
      momentum: Weight of the past in the average, below 1; it covers 1 / (1 - momentum) steps.
    """

    def __init__(self, momentum: float = 0.99):
        super().__init__()
        self._momentum = momentum
        self._averages: list[tf.Variable] = []
        self._kept: list[tf.Tensor] | None = None

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Starts from the current weights, and has each training step update the averages."""
        steps = tf.Variable(0, dtype=tf.int64)
        self._averages = [tf.Variable(weight) for weight in self.model.trainable_variables]
        train = self.model.train_step

        def train_step(data: Any) -> dict[str, tf.Tensor]:
            logs: dict[str, tf.Tensor] = train(data)
            self._update(tf.cast(steps.assign_add(1), tf.float64))
            return logs

        trace_once(self.model, train_step)

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        """Has the steps of a later training update nothing."""
        trace_as_keras(self.model)

    def _update(self, steps: tf.Tensor) -> None:
        # With a lower momentum at first, to forget the random start.
        momentum = tf.minimum(tf.constant(self._momentum, tf.float64), (1 + steps) / (10 + steps))
        rate = tf.cast(1 - momentum, tf.float32)
        for weight, average in zip(self.model.trainable_variables, self._averages, strict=True):
            average.assign_add(rate * (weight - average))

    def on_test_begin(self, logs: dict[str, float] | None = None) -> None:
        """Swaps the averages in, for validation and the callbacks after this one."""
        self._kept = [tf.identity(weight) for weight in self.model.trainable_variables]
        for weight, average in zip(self.model.trainable_variables, self._averages, strict=True):
            weight.assign(average)

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Swaps the weights back in, to train on."""
        if self._kept is not None:
            for weight, kept in zip(self.model.trainable_variables, self._kept, strict=True):
                weight.assign(kept)
            self._kept = None
