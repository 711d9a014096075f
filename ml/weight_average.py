"""Averages a network's weights over its last steps, so that one run ends much like another."""

from __future__ import annotations

import tensorflow as tf
import tf_keras


class AverageWeights(tf_keras.callbacks.Callback):
    """Validates, and so leaves behind, an exponential moving average of the weights.

    Training goes on from the weights themselves. Put it before `EarlyStopping` with
    `restore_best_weights`, which then compares and restores averages. The optimizer's own `use_ema`
    would overwrite what `EarlyStopping` restored with the averages of the last step.

    Polyak and Juditsky 1992, https://doi.org/10.1137/0330046.

    Args:
      momentum: Weight of the past in the average, below 1; its memory is 1 / (1 - momentum) steps.
    """

    def __init__(self, momentum: float = 0.99):
        super().__init__()
        self._momentum = momentum
        self._steps = 0
        self._averages: list[tf.Variable] = []
        self._kept: list[tf.Tensor] | None = None

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Starts from the weights as they are."""
        self._steps = 0
        self._averages = [tf.Variable(weight) for weight in self.model.trainable_variables]
        self._update(tf.constant(0.0))

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Moves the averages; with a short memory at first, to forget the random start."""
        self._steps += 1
        momentum = min(self._momentum, (1 + self._steps) / (10 + self._steps))
        self._update(tf.constant(1 - momentum))

    def on_test_begin(self, logs: dict[str, float] | None = None) -> None:
        """Puts the averages in, for validation and for callbacks that store weights after it."""
        self._kept = [tf.identity(weight) for weight in self.model.trainable_variables]
        for weight, average in zip(self.model.trainable_variables, self._averages, strict=True):
            weight.assign(average)

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Takes the weights back to learn on from."""
        if self._kept is not None:
            for weight, kept in zip(self.model.trainable_variables, self._kept, strict=True):
                weight.assign(kept)
            self._kept = None

    @tf.function
    def _update(self, rate: tf.Tensor) -> None:
        for weight, average in zip(self.model.trainable_variables, self._averages, strict=True):
            average.assign_add(rate * (weight - average))
