"""Structured pruning: removes the units that matter least, before the weights are pruned.

What is left is a smaller dense network, which is faster everywhere. It predicts otherwise than the
trained one until it has learned from it again.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np
import tf_keras

from components.pruner.dead_units import find_chains, rebuild
from ml.examples import Columns
from ml.fit import select_inputs

_BATCH = 8192
_ROWS = 10_000
# Of the weights that are left to the units that are kept, the share that becomes zero.
_ZEROS = 0.5
_PRECISION = 1 / 256  # Of the share of the units.


def split_sparsity(
    network: tf_keras.Model, names: Collection[str], sparsity: float
) -> tuple[float, float]:
    """Splits a sparsity into fewer units, and zeros among the weights that these leave.

    Half of the weights that are left become zero, and units make up for the rest: the network is
    then smaller in every format, and loses less than with as many zeros alone (see
    docs/compression.md). Up to a sparsity of a half all units are kept.

    Args:
      network: The network.
      names: Names of the layers whose weights count.
      sparsity: Share of their weights to be rid of, 0 to below 1.

    Returns:
      The share of the units to keep, 1 unless each of the layers has units that
      `remove_least_units` can remove; and the share of the weights left that become zero.
    """
    chains = find_chains(network)
    kept = 1 - sparsity
    if {chain[0].name for chain in chains} != set(names) or kept >= 1 - _ZEROS:
        return 1.0, sparsity
    whole = _count(network, chains, names, 1.0)
    wanted = kept / (1 - _ZEROS) * whole
    fewest, most = 0.0, 1.0
    while most - fewest > _PRECISION:
        share = (fewest + most) / 2
        if _count(network, chains, names, share) < wanted:
            fewest = share
        else:
            most = share
    return most, max(0.0, 1 - kept * whole / _count(network, chains, names, most))


def _count(
    network: tf_keras.Model,
    chains: list[list[tf_keras.layers.Layer]],
    names: Collection[str],
    share: float,
) -> int:
    """The number of weights of some layers with a share of the units."""
    shapes = {name: list(network.get_layer(name).kernel.shape) for name in names}
    for chain in chains:
        units = _units_kept(chain[0].units, share)
        if chain[0].name in shapes:
            shapes[chain[0].name][1] = units
        if chain[-1].name in shapes:
            shapes[chain[-1].name][0] = units
    return sum(math.prod(shape) for shape in shapes.values())


def _units_kept(units: int, share: float) -> int:
    return max(1, round(share * units))


def remove_least_units(network: tf_keras.Model, columns: Columns, share: float) -> tf_keras.Model:
    """Keeps a share of the units of each dense layer that `remove_dead_units` looks at.

    A unit matters as much as it makes the sums of the next layer vary: by the standard deviation of
    its value over some rows, times the norm of its outgoing weights. Its mean becomes part of the
    next layer's bias, as in He, Zhang and Sun 2017, https://arxiv.org/abs/1707.06168, who fit all
    outgoing weights.

    Example:
      smaller = remove_least_units(network, train, 0.25)

    Args:
      network: The network; it is not changed.
      columns: Rows to measure units on, of which 10,000 are used.
      share: Share of the units to keep, above 0 to 1; a layer keeps one unit at least.

    Returns:
      A network with the same inputs and outputs; `network` itself if no unit is removed.
    """
    chains = find_chains(network)
    if share == 1 or not chains:
        return network
    rows = {name: column[:_ROWS] for name, column in select_inputs(network, columns).items()}
    read = tf_keras.Model(network.inputs, [chain[-1].input for chain in chains])
    values = read.predict(rows, batch_size=_BATCH, verbose=0)
    weights = {layer.name: layer.get_weights() for layer in network.layers if layer.weights}
    units = {}
    for chain, value in zip(chains, values if len(chains) > 1 else [values], strict=True):
        first, *between, last = chain
        value = value.reshape(-1, value.shape[-1])
        readers, *bias = weights[last.name]
        matter = value.std(axis=0) * np.linalg.norm(readers, axis=1)
        count = _units_kept(len(matter), share)
        kept = np.sort(np.argsort(-matter, kind="stable")[:count])
        gone = np.setdiff1d(np.arange(len(matter)), kept)
        bias = [old + readers[gone].T @ value.mean(axis=0)[gone] for old in bias]
        weights[last.name] = [readers[kept], *bias]
        kernel, *biases = weights[first.name]
        weights[first.name] = [kernel[:, kept], *(old[kept] for old in biases)]
        for layer in between:
            if layer.name in weights:
                weights[layer.name] = [old[kept] for old in weights[layer.name]]
        units[first.name] = count
    return rebuild(network, units, weights)
