"""Removal of dead units: predictions stay the same, whatever stands between the dense layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import tf_keras
from hypothesis import given
from hypothesis import strategies as st

from components.pruner.dead_units import remove_dead_units
from components.pruner.least_units import remove_least_units

layers = tf_keras.layers
_WIDTH, _ROWS = 5, 40
BETWEEN = {
    "nothing": list,
    "dropout": lambda: [layers.Dropout(0.5)],
    "noise": lambda: [layers.GaussianNoise(0.5)],
    "batch normalization": lambda: [layers.BatchNormalization()],
    "batch normalization of one's own": lambda: [
        layers.BatchNormalization(scale=False),
        layers.ReLU(),
        layers.Dropout(0.1),
    ],
    "activation": lambda: [layers.Activation("tanh")],
    "leaky": lambda: [layers.LeakyReLU()],
}


def build(
    units: Sequence[int], activation: str, bias: bool, between: str, seed: int, sparsity: float
) -> tf_keras.Model:
    """A network with random weights, of which a share is zero."""
    hidden = inputs = tf_keras.Input((_WIDTH,))
    for number, count in enumerate(units):
        hidden = layers.Dense(count, activation, use_bias=bias, name=f"hidden_{number}")(hidden)
        for layer in BETWEEN[between]():
            hidden = layer(hidden)
    network = tf_keras.Model(inputs, layers.Dense(2, use_bias=bias, name="last")(hidden))
    random = np.random.default_rng(seed)
    for weight in network.weights:
        values = random.uniform(0.2, 1, weight.shape) * random.choice([-1, 1], weight.shape)
        if "moving_variance" in weight.name:
            values = np.abs(values)
        if "kernel" in weight.name:
            values *= random.random(weight.shape) >= sparsity
        weight.assign(values)
    return network


def predict(network: tf_keras.Model) -> np.ndarray:
    rows = np.random.default_rng(1).normal(size=(_ROWS, *network.input_shape[1:]))
    return np.asarray(network(rows.astype(np.float32)))


@given(
    units=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    activation=st.sampled_from(["relu", "linear", "sigmoid", "tanh", "elu", "swish"]),
    bias=st.booleans(),
    between=st.sampled_from(list(BETWEEN)),
    seed=st.integers(0, 1000),
    sparsity=st.sampled_from([0.0, 0.5, 0.8, 0.95, 1.0]),
)
def test_remove_dead_units_keeps_predictions_and_leaves_no_dead_unit(**given: Any) -> None:
    network = build(**given)
    before = predict(network)
    smaller, removed = remove_dead_units(network)
    np.testing.assert_allclose(predict(smaller), before, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(predict(network), before)
    assert list(removed) == [f"hidden_{number}" for number in range(len(given["units"]))]
    for name, counts in removed.items():
        layer = smaller.get_layer(name)
        assert layer.units == counts["units"] - counts["removed"] >= 1
        if layer.units > 1 and given["bias"]:
            assert layer.kernel.numpy().any(axis=0).all()
    assert smaller.count_params() <= network.count_params()


def test_remove_dead_units_folds_a_constant_into_the_next_bias() -> None:
    network = build([3, 2], "relu", True, "nothing", 1, 0.0)
    kernel, bias = network.get_layer("hidden_0").get_weights()
    kernel[:, 1], bias[1] = 0, 2.5
    network.get_layer("hidden_0").set_weights([kernel, bias])
    smaller, removed = remove_dead_units(network)
    assert removed["hidden_0"] == {"units": 3, "removed": 1}
    read, old = network.get_layer("hidden_1").get_weights()
    np.testing.assert_allclose(
        smaller.get_layer("hidden_1").get_weights()[1], old + 2.5 * read[1], rtol=1e-6
    )


def branches() -> tf_keras.Model:
    """A layer that two others read."""
    inputs = tf_keras.Input((_WIDTH,))
    shared = layers.Dense(4, "relu", name="shared")(inputs)
    both = layers.Concatenate()([layers.Dense(3, name="left")(shared), shared])
    return tf_keras.Model(inputs, layers.Dense(1)(both))


def twice() -> tf_keras.Model:
    """A layer that is used twice."""
    inputs = tf_keras.Input((_WIDTH,))
    layer = layers.Dense(_WIDTH, "relu", name="twice")
    return tf_keras.Model(inputs, layers.Dense(1)(layer(layer(inputs))))


def returned() -> tf_keras.Model:
    """A hidden layer that is an output too."""
    inputs = tf_keras.Input((_WIDTH,))
    hidden = layers.Dense(4, "relu")(inputs)
    return tf_keras.Model(inputs, [hidden, layers.Dense(1)(hidden)])


def mixing() -> tf_keras.Model:
    """Layers between that mix units, and an activation that does."""
    inputs = tf_keras.Input((_WIDTH,))
    hidden = layers.LayerNormalization()(layers.Dense(4, "relu")(inputs))
    hidden = layers.Dense(4, "softmax")(hidden)
    return tf_keras.Model(inputs, layers.Dense(1)(hidden))


def convolution() -> tf_keras.Model:
    """A convolution, whose borders make even a filter of zeros no constant."""
    inputs = tf_keras.Input((8, 8, 1))
    return tf_keras.Model(
        inputs, layers.Dense(1)(layers.Flatten()(layers.Conv2D(3, 3, padding="same")(inputs)))
    )


@pytest.mark.parametrize("make", [branches, twice, returned, mixing, convolution])
def test_remove_dead_units_leaves_other_topologies_alone(make: Any) -> None:
    network = make()
    for weight in network.weights:
        if "kernel" in weight.name:
            weight.assign(weight.numpy() * 0)
    assert remove_dead_units(network) == (network, {})


@pytest.mark.parametrize("between", list(BETWEEN))
def test_remove_least_units_keeps_those_that_the_next_layer_depends_on(between: str) -> None:
    network = build([6, 4], "relu", True, between, 3, 0.0)
    kernel, bias = network.get_layer("hidden_1").get_weights()
    kernel[[0, 2, 3]] *= 1e-4
    network.get_layer("hidden_1").set_weights([kernel, bias])
    read, bias = network.get_layer("last").get_weights()
    read[[1, 2]] *= 1e-4
    network.get_layer("last").set_weights([read, bias])
    rows = np.random.default_rng(1).normal(size=(_ROWS, _WIDTH)).astype(np.float32)
    name = network.input_names[0]
    smaller = remove_least_units(network, {name: rows}, 0.5)
    assert [smaller.get_layer(f"hidden_{number}").units for number in (0, 1)] == [3, 2]
    np.testing.assert_allclose(predict(smaller), predict(network), atol=0.01)


def test_remove_least_units_of_all_units_is_the_same_network() -> None:
    network = branches()
    rows = {network.input_names[0]: np.zeros((3, _WIDTH), np.float32)}
    assert remove_least_units(network, rows, 1.0) is network
    assert remove_least_units(network, rows, 0.5) is network  # Nothing that it could shrink.
