"""Averaging the weights of a network while it learns."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import tf_keras

from ml.weight_average import AverageWeights


class Record(tf_keras.callbacks.Callback):
    """Keeps the only weight after every step and after every validation."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[float] = []
        self.validated: list[float] = []

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self.steps.append(self.model.get_weights()[0].item())

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.validated.append(self.model.get_weights()[0].item())


def learn(
    *callbacks: tf_keras.callbacks.Callback, epochs: int = 3, at_once: int = 1
) -> tuple[Record, float]:
    """Learns y = 2x one row at a time with a rate that makes the weight swing."""
    layer = tf_keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
    model = tf_keras.Sequential([tf_keras.Input((1,)), layer])
    model.compile(tf_keras.optimizers.SGD(0.8), "mse", steps_per_execution=at_once)
    x = np.ones((6, 1), np.float32)
    record = Record()
    model.fit(
        x,
        2 * x,
        batch_size=1,
        epochs=epochs,
        validation_data=(x, 2 * x),
        shuffle=False,
        verbose=0,
        callbacks=[*callbacks, record],
    )
    return record, model.get_weights()[0].item()


def test_average_weights_validates_the_average_and_trains_the_weights() -> None:
    plain, _ = learn()
    averaged, last = learn(AverageWeights(0.5))
    np.testing.assert_allclose(averaged.steps, plain.steps, rtol=1e-5)
    expected, average = [], 0.0
    for step, weight in enumerate(plain.steps, start=1):
        momentum = min(0.5, (1 + step) / (10 + step))
        average += (1 - momentum) * (weight - average)
        if step % 6 == 0:
            expected.append(average)
    np.testing.assert_allclose(averaged.validated, expected, rtol=1e-4)
    assert last == pytest.approx(expected[-1], rel=1e-4)


def test_average_weights_updates_in_each_step_however_many_keras_takes_at_once() -> None:
    one_by_one, last = learn(AverageWeights(0.5))
    four_at_once, same = learn(AverageWeights(0.5), at_once=4)
    assert len(four_at_once.steps) < len(one_by_one.steps)
    assert (four_at_once.validated, same) == (one_by_one.validated, last)


def test_average_weights_changes_nothing_in_a_later_training() -> None:
    model = tf_keras.Sequential([tf_keras.Input((1,)), tf_keras.layers.Dense(1)])
    model.compile(tf_keras.optimizers.SGD(0.1), "mse")
    rows, average = np.ones((6, 1), np.float32), AverageWeights(0.5)
    fit = functools.partial(model.fit, batch_size=1, verbose=0)
    fit(rows, rows, validation_data=(rows, rows), callbacks=[average])
    (kept, *_) = model.get_weights()
    fit(rows, 5 * rows)
    (trained, *_) = model.get_weights()
    assert abs(trained - kept) > 0.1
    average.on_test_begin()  # Puts the averages in place of the weights.
    np.testing.assert_array_equal(model.get_weights()[0], kept)


def test_average_weights_lets_early_stopping_restore_the_best_average() -> None:
    stopping = tf_keras.callbacks.EarlyStopping("val_loss", patience=9, restore_best_weights=True)
    record, last = learn(AverageWeights(0.5), stopping, epochs=4)
    best = min(record.validated, key=lambda weight: (weight - 2) ** 2)
    assert last == pytest.approx(best, rel=1e-5)
