"""Removes units that pruning has made constant or unread, without changing a prediction.

A unit of a dense layer whose incoming weights are all zero is a constant: what it adds to the next
layer becomes part of that layer's bias. One whose outgoing weights are all zero is not read. The
network that is left has fewer rows and columns, and is smaller and faster in every format.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

_layers = tf_keras.layers
_activations = tf_keras.activations

# Layers that pass each unit on by itself when a network predicts.
_BY_UNIT = (
    _layers.Activation,
    _layers.BatchNormalization,
    _layers.Dropout,
    _layers.GaussianDropout,
    _layers.GaussianNoise,
    _layers.LeakyReLU,
    _layers.ReLU,
)
# Activations of which an output depends on one input.
_ELEMENTWISE = (
    *(_activations.elu, _activations.exponential, _activations.gelu, _activations.hard_sigmoid),
    *(_activations.linear, _activations.mish, _activations.relu, _activations.selu),
    *(_activations.sigmoid, _activations.softplus, _activations.softsign, _activations.swish),
    _activations.tanh,
)


def remove_dead_units(network: tf_keras.Model) -> tuple[tf_keras.Model, dict[str, dict[str, int]]]:
    """Removes the dead units between dense layers.

    A dense layer is looked at if one other dense layer reads it, and nothing but layers in between
    that pass each unit on by itself: dropout, noise, activations, batch normalization. Other layers
    stay as they are.

    Example:
      smaller, removed = remove_dead_units(network)

    Args:
      network: The network; it is not changed.

    Returns:
      A network with the same inputs and, but for rounding, the same outputs; and by name of each
      layer that was looked at, `units`, their number before, and `removed`. A layer keeps one unit.
    """
    chains = find_chains(network)
    if not chains:
        return network, {}
    weights = {layer.name: layer.get_weights() for layer in network.layers if layer.weights}
    units = {chain[0].name: chain[0].units for chain in chains}
    # Without a unit its inputs may have no reader, and without inputs a unit becomes a constant.
    while any(_remove_from(chain, weights) for chain in chains):
        pass
    left = {name: weights[name][0].shape[1] for name in units}
    removed = {
        name: {"units": count, "removed": count - left[name]} for name, count in units.items()
    }
    if left == units:
        return network, removed
    return rebuild(network, left, weights), removed


def find_chains(network: tf_keras.Model) -> list[list[tf_keras.layers.Layer]]:
    """Each dense layer, the layers that pass its units on, and the dense layer that reads them."""
    own = {id(node) for nodes in network._nodes_by_depth.values() for node in nodes}
    returned = {id(tensor.node) for tensor in network.outputs}

    def follow(layer: tf_keras.layers.Layer) -> tf_keras.layers.Layer | None:
        """The only layer that reads a layer's only output."""
        made = [node for node in layer.inbound_nodes if id(node) in own]
        readers = [node for node in layer.outbound_nodes if id(node) in own]
        single = len(made) == len(readers) == 1 and id(made[0]) not in returned
        return readers[0].layer if single else None

    chains = []
    for layer in network.layers:
        chain = [layer]
        if type(layer) is not _layers.Dense:
            continue
        while _is_by_unit(chain[-1]) and (reader := follow(chain[-1])):
            chain.append(reader)
            if type(reader) is _layers.Dense:
                if len([node for node in reader.inbound_nodes if id(node) in own]) == 1:
                    chains.append(chain)
                break
    return chains


def _is_by_unit(layer: tf_keras.layers.Layer) -> bool:
    """Whether each output of a layer depends on one unit alone."""
    if not isinstance(layer, (_layers.Dense, *_BY_UNIT)):
        return False
    if isinstance(layer, _layers.BatchNormalization):
        return list(layer.axis) == [len(layer.input_shape) - 1]
    activation = getattr(layer, "activation", _activations.linear)
    return any(activation is known for known in _ELEMENTWISE)


def _remove_from(chain: list[tf_keras.layers.Layer], weights: dict[str, list[np.ndarray]]) -> bool:
    """Removes the dead units of the first layer of a chain from the weights, by layer's name."""
    first, *between, last = chain
    kernel, *biases = weights[first.name]
    readers, *reader_bias = weights[last.name]
    constant = ~kernel.any(axis=0)
    unread = ~readers.any(axis=1)
    values = _pass_on(biases[0] if biases else np.zeros(len(constant)), chain[:-1], weights)
    folded = readers[constant & ~unread].T.astype(float) @ values[constant & ~unread]
    if folded.any() and not reader_bias:
        constant = constant & (values == 0)
        folded = np.zeros(len(folded))
    kept = ~(constant | unread)
    if not kept.any():  # Keras has no layer without units.
        kept[0] = True
        if constant[0] and not unread[0]:
            folded = folded - readers[0].astype(float) * values[0]
    if kept.all():
        return False
    if reader_bias:
        reader_bias = [(reader_bias[0] + folded).astype(np.float32)]
    weights[first.name] = [kernel[:, kept], *(bias[kept] for bias in biases)]
    weights[last.name] = [readers[kept], *reader_bias]
    for layer in between:
        if layer.name in weights:
            weights[layer.name] = [values[kept] for values in weights[layer.name]]
    return True


def _pass_on(
    values: np.ndarray,
    layers: list[tf_keras.layers.Layer],
    weights: Mapping[str, list[np.ndarray]],
) -> np.ndarray:
    """What layers make of values of units, float64 [units], when a network predicts."""
    values = np.asarray(values, float)
    for layer in layers:
        if isinstance(layer, _layers.BatchNormalization):
            values = _normalize(values, layer, weights[layer.name])
        elif isinstance(layer, _layers.ReLU | _layers.LeakyReLU):
            values = layer(tf.constant(values, tf.float32)).numpy().astype(float)
        elif hasattr(layer, "activation"):
            values = layer.activation(tf.constant(values, tf.float32)).numpy().astype(float)
    return values


def _normalize(values: np.ndarray, layer: Any, weights: list[np.ndarray]) -> np.ndarray:
    names = [weight.name.rpartition("/")[2] for weight in layer.weights]
    found = dict(zip(names, weights, strict=True))
    scale = found.get("gamma:0", 1.0) / np.sqrt(found["moving_variance:0"] + layer.epsilon)
    return np.asarray((values - found["moving_mean:0"]) * scale + found.get("beta:0", 0.0))


def rebuild(
    network: tf_keras.Model, units: Mapping[str, int], weights: Mapping[str, list[np.ndarray]]
) -> tf_keras.Model:
    """A network with other numbers of units, by layer's name, and their weights."""

    def resize(layer: tf_keras.layers.Layer) -> tf_keras.layers.Layer:
        config = layer.get_config()
        if layer.name in units:
            config["units"] = units[layer.name]
        return type(layer).from_config(config)

    smaller = tf_keras.models.clone_model(network, clone_function=resize)
    for layer in smaller.layers:
        if layer.name in weights:
            layer.set_weights(weights[layer.name])
    return smaller
