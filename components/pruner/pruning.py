"""Pruning by magnitude, as the TensorFlow Model Optimization Toolkit implements it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras

from ml.distillation import without_regularization
from ml.examples import Columns
from ml.fit import FineTuning, FitSettings
from ml.networks import clone
from ml.parameters import require
from storage.errors import UserError

# The sparsity reaches its target in this share of the steps; the rest recovers.
_RAMP = 0.7
# With few steps, weights are chosen more often than `frequency`, to reach the target.
_MIN_CHOICES = 10


class Pruning:
    """Prunes the weights of a network while fine-tuning it, if need be several times.

    Each run starts from the network's weights. All of them train one copy, which is traced once.

    Args:
      network: The network; it is not changed.
      names: Names of the layers to prune.
      spec: See `components.pruner.spec.check_pruning`; `sparsity` does not count here.
      train: Columns to train on.
      settings: How to fine-tune.
      distillation: See `Pruner`.
      targets: What to learn; see `ml.distillation.teach`.
    """

    def __init__(
        self,
        network: tf_keras.Model,
        names: Sequence[str],
        spec: dict[str, Any],
        train: Columns,
        settings: FitSettings,
        distillation: float,
        targets: np.ndarray | None,
    ):
        self._network = network
        self._schedule = _Schedule(spec["schedule"], spec["frequency"])
        shape = (
            {"sparsity_m_by_n": spec["m_by_n"]}
            if spec["m_by_n"]
            else {"block_size": spec["block_size"]}
        )

        def wrap(layer: tf_keras.layers.Layer) -> tf_keras.layers.Layer:
            if layer.name not in names:
                return layer
            return tfmot.sparsity.keras.prune_low_magnitude(
                layer, pruning_schedule=self._schedule, **shape
            )

        # A copy, because the wrappers, which hold its layers, prune them in place.
        self._copy = without_regularization(network) if distillation == 1 else clone(network)
        wrapped = tf_keras.models.clone_model(self._copy, clone_function=wrap)
        self._training = FineTuning(wrapped, train, settings, targets)

    def run(self, sparsity: float, steps: int = 0) -> tf_keras.Model:
        """Prunes the weights.

        Args:
          sparsity: That of each layer.
          steps: Number of steps; 0 for those of the settings.

        Returns:
          A network of the same layers, without the toolkit's wrappers.

        Raises:
          UserError: If fine-tuning diverges.
        """
        self._schedule.set(sparsity, steps or self._training.steps)
        self._training.run(steps, [tfmot.sparsity.keras.UpdatePruningStep()])
        pruned = tf_keras.models.clone_model(self._network)
        pruned.set_weights(self._copy.get_weights())
        return pruned


class _Schedule(tfmot.sparsity.keras.PruningSchedule):
    """The toolkit's polynomial or constant schedule, for any number of steps.

    What `set` changes counts in a step that has been traced, too.

    Args:
      kind: "polynomial" or "constant", the target from the start.
      frequency: Largest number of steps between two choices.
    """

    def __init__(self, kind: str, frequency: int):
        self._settings = {"kind": kind, "frequency": frequency}
        self._constant, self._largest = kind == "constant", frequency
        self._target = tf.Variable(0.0)
        self._frequency = tf.Variable(1, dtype=tf.int64)
        self._end = tf.Variable(1, dtype=tf.int64)

    def set(self, target: float, steps: int) -> None:
        """Sets what is reached in a training.

        Args:
          target: The sparsity at the end.
          steps: Steps of the training; the sparsity reaches its target in 70% of them.
        """
        ramp, frequency = int(_RAMP * steps), self._largest
        if not self._constant:
            # The last choice is at a multiple of the frequency, and has to reach the target.
            frequency = min(frequency, max(1, ramp // _MIN_CHOICES))
        self._target.assign(target)
        self._frequency.assign(frequency)
        self._end.assign(max(1, ramp // frequency) * frequency)

    def __call__(self, step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Whether to choose the weights in a step, and the sparsity."""
        step = tf.cast(step, tf.int64)
        if self._constant:
            return (step - 1) % self._frequency == 0, tf.identity(self._target)
        progress = tf.cast(tf.minimum(step / self._end, 1.0), tf.float32)
        chosen = (step <= self._end) & (step % self._frequency == 0)
        return chosen, self._target * (1 - (1 - progress) ** 3)

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {"class_name": type(self).__name__, "config": self._settings}


def check_prunable(layers: list[tf_keras.layers.Layer], spec: dict[str, Any]) -> None:
    """Raises a `UserError` if a layer cannot be pruned to a spec."""
    for layer in layers:
        name = f"layer {layer.name} ({type(layer).__name__})"
        kernels = _prunable_weights(layer)
        if not kernels:
            raise UserError(f"{name} cannot be pruned: tfmot finds no kernel in it")
        for kernel in kernels:
            if spec["block_size"] != (1, 1):
                sides = zip(kernel.shape, spec["block_size"], strict=False)
                fits = len(kernel.shape) == 2 and all(side > block for side, block in sides)
                allowed = f"a block smaller than the kernel {tuple(kernel.shape)} of a dense layer"
                require(fits, "block_size", list(spec["block_size"]), f"for {name}, {allowed}")
            if spec["m_by_n"]:
                inputs = kernel.shape[-2] if len(kernel.shape) > 1 else 0
                fits = len(kernel.shape) in (2, 4) and inputs % spec["m_by_n"][1] == 0
                allowed = "dense layers and 2D convolutions whose inputs are a multiple of n"
                require(fits, "m_by_n", list(spec["m_by_n"]), f"{allowed}, which {name} is not")


def _prunable_weights(layer: tf_keras.layers.Layer) -> list[tf.Variable]:
    """The kernels of a layer that tfmot can prune; none if it does not support the layer."""
    try:
        tfmot.sparsity.keras.prune_low_magnitude(layer)
    except ValueError:
        return []
    # tfmot has just added this method to the layer.
    return list(layer.get_prunable_weights())


def count_weights(network: tf_keras.Model, names: list[str]) -> dict[str, int]:
    """The number of weights that can be pruned, by name of the layer."""
    return {
        name: sum(kernel.shape.num_elements() for kernel in _kernels(network, name))
        for name in names
    }


def measure_sparsity(network: tf_keras.Model, weights: dict[str, int]) -> dict[str, Any]:
    """Measures how many of the weights of some layers are zero, or no longer there.

    Args:
      network: The pruned network.
      weights: See `count_weights`, of the network before it was pruned.

    Returns:
      `sparsity`, the overall share, and `layers`: by name, `sparsity` and `weights`, their number.
    """
    left = {
        name: sum(np.count_nonzero(kernel) for kernel in _kernels(network, name))
        for name in weights
    }
    layers = {
        name: {"sparsity": 1 - left[name] / count, "weights": count}
        for name, count in weights.items()
    }
    return {"sparsity": 1 - sum(left.values()) / sum(weights.values()), "layers": layers}


def _kernels(network: tf_keras.Model, name: str) -> list[tf.Variable]:
    return _prunable_weights(network.get_layer(name))
