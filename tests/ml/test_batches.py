"""Batches of arrays in memory."""

from __future__ import annotations

import numpy as np
import tf_keras

from ml.batches import ordered_batches, shuffled_batches

ROWS = np.arange(10)[:, None]


def test_ordered_batches_hold_the_rows_in_their_order() -> None:
    arrays = ({"a": ROWS, "b": ROWS / 2}, ROWS)
    batches = list(ordered_batches(arrays, 4).as_numpy_iterator())
    assert [len(labels) for _, labels in batches] == [4, 4, 2]
    inputs = {name: np.concatenate([x[name] for x, _ in batches]) for name in ("a", "b")}
    np.testing.assert_array_equal(inputs["a"], ROWS)
    np.testing.assert_array_equal(inputs["b"], ROWS / 2)
    assert (inputs["a"].dtype, inputs["b"].dtype) == (np.int64, np.float32)
    assert len(ordered_batches(arrays, 4)) == 3


def test_shuffled_batches_hold_each_row_once_in_each_pass() -> None:
    tf_keras.utils.set_random_seed(3)
    batches = list(shuffled_batches((ROWS, -ROWS), 4, 3).as_numpy_iterator())
    assert [len(x) for x, _ in batches] == 3 * [4, 4, 2]
    assert all((x == -y).all() for x, y in batches)
    passes = [np.concatenate([x for x, _ in batches[i : i + 3]]) for i in (0, 3, 6)]
    assert all(sorted(rows.ravel()) == list(range(10)) for rows in passes)
    assert len({rows.tobytes() for rows in passes}) == 3


def test_shuffled_batches_have_the_order_of_keras() -> None:
    def learn(*arguments: object, **options: object) -> np.ndarray:
        tf_keras.utils.set_random_seed(3)
        layer = tf_keras.layers.Dense(1, kernel_initializer="zeros")
        model = tf_keras.Sequential([tf_keras.Input((1,)), layer])
        model.compile(tf_keras.optimizers.SGD(0.01), "mse")
        model.fit(*arguments, epochs=2, verbose=0, **options)
        return np.concatenate([weight.ravel() for weight in model.get_weights()])

    x = ROWS.astype(np.float32)
    y = np.sin(x)
    keras = learn(x, y, batch_size=4)
    ours = learn(shuffled_batches((x, y), 4, 2), steps_per_epoch=3)
    np.testing.assert_array_equal(keras, ours)


def test_batches_are_not_tuned_by_tensorflow() -> None:
    for dataset in (ordered_batches(ROWS, 4), shuffled_batches(ROWS, 4, 1)):
        assert dataset.options().autotune.enabled is False
