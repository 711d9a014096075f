"""TFLite models of earlier releases, whose weights are stored sparse, still run."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from storage.interpreters import has_sparse_weights, open_interpreter, warn_of_sparse_weights

WIDTH = 64


def stored(network: tf_keras.Model, rows: np.ndarray, *, sparse: bool) -> bytes:
    """An int8 model of a network, as earlier releases stored it."""

    def representative() -> Iterator[list[np.ndarray]]:
        for row in rows:
            yield [row[np.newaxis]]

    converter = tf.lite.TFLiteConverter.from_keras_model(network)
    converter.representative_dataset = representative
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if sparse:
        converter.optimizations.append(tf.lite.Optimize.EXPERIMENTAL_SPARSITY)
    return bytes(converter.convert())


def predict(content: bytes, rows: np.ndarray) -> np.ndarray:
    interpreter = open_interpreter(content)
    index = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(index, rows.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(index, rows)
    interpreter.invoke()
    return np.asarray(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_open_interpreter_runs_weights_that_are_stored_sparse(
    caplog: pytest.LogCaptureFixture,
) -> None:
    warn_of_sparse_weights.cache_clear()
    rng = np.random.default_rng(1)
    layers = tf_keras.layers
    network = tf_keras.Sequential(
        [tf_keras.Input((WIDTH,)), layers.Dense(WIDTH, "relu"), layers.Dense(1)]
    )
    kernel, bias = network.layers[0].get_weights()
    network.layers[0].set_weights([kernel * (rng.random(kernel.shape) < 0.1), bias])
    rows = rng.normal(size=(100, WIDTH)).astype(np.float32)
    dense, sparse = (stored(network, rows, sparse=sparse) for sparse in (False, True))
    assert (has_sparse_weights(dense), has_sparse_weights(sparse)) == (False, True)
    expected = predict(dense, rows)
    assert np.ptp(expected) > 0.5
    assert not warnings(caplog)
    for _ in range(2):
        np.testing.assert_allclose(predict(sparse, rows), expected, atol=0.05)
    (line,) = warnings(caplog)
    assert "stores weights sparse" in line


@pytest.mark.parametrize("content", [b"TFL3", bytes(64)])
def test_open_interpreter_refuses_what_is_no_tflite_model(content: bytes) -> None:
    with pytest.raises(ValueError, match="odel"):
        open_interpreter(content)
