"""Emulates int8 kernels in a network by fake-quant nodes.

Jacob et al. 2018, https://arxiv.org/abs/1712.05877; the nodes are the TensorFlow Model Optimization
Toolkit's. They mark the parts of a graph that become int8, and their ranges, so the transformation
of raw features in front of the network stays exact. (The TFLite converter's own calibration would
quantize the raw features too, and cannot run lookup tables.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras

from ml.networks import clone, kernel_layers
from ml.stored_columns import count_not_finite
from storage.errors import UserError

_quantization = tfmot.quantization.keras
QuantizeConfig: Any = _quantization.QuantizeConfig
LastValueQuantizer: Any = _quantization.quantizers.LastValueQuantizer
_layers = tf_keras.layers

_SUPPORTED = (_layers.Dense, _layers.Conv1D, _layers.Conv2D)
# Their outputs are values of their inputs, so both have the same range.
_VALUE_KEEPING = (
    _layers.Dropout,
    _layers.Flatten,
    _layers.Reshape,
    _layers.Permute,
    _layers.MaxPooling1D,
    _layers.MaxPooling2D,
)
# Added to a network's inputs. The converter passes the range of a quantized tensor back through
# copies, selections and clips: out of the network and into the transformation, which would then
# run partly in int8. An addition stops that; this one is too small to change any real value.
_BARRIER = 1e-30


class NotQuantizable(UserError):
    """A network has layers that cannot be quantized."""


def emulate_int8(
    network: tf_keras.Model,
    representative: dict[str, np.ndarray],
    *,
    weight_bits: int = 8,
    keep_zeros: bool = False,
) -> tf_keras.Model:
    """Quantizes the weights and activations of a trained network's dense and convolution layers.

    The output layer stays float. Tables of embeddings have quantized weights. Ranges of activations
    are the smallest and largest values on the representative rows.

    Args:
      network: The network; it is not changed.
      representative: The representative dataset: by input name, [rows, width].
      weight_bits: Bits of the 8 that a weight uses.
      keep_zeros: Weights that are zero stay zero in further training.

    Returns:
      A network with the same inputs and outputs that can be trained further.

    Raises:
      NotQuantizable: If a layer cannot be quantized.
      UserError: If there are no representative rows, or if they hold NaN or infinity.
    """
    check_representative(representative)
    quantized = _insert_nodes(network, weight_bits, keep_zeros)
    _calibrate(quantized, network, representative)
    return _with_barrier(quantized)


def check_quantizable(network: tf_keras.Model) -> None:
    """Checks the kinds of a network's layers; `emulate_int8` finds what else is in the way.

    Raises:
      NotQuantizable: If layers cannot be quantized, or there is none that could be.
    """
    found = kernel_layers(network)
    unsupported = [layer for layer in found if type(layer) not in _SUPPORTED]
    unsupported += [layer for layer in network.layers if hasattr(layer, "depthwise_kernel")]
    if unsupported or not found:
        names = ", ".join(f"{layer.name} ({type(layer).__name__})" for layer in unsupported)
        raise NotQuantizable(
            f"layers that cannot be quantized: {names or 'the network has none that could be'}; "
            f"can be: {', '.join(kind.__name__ for kind in _SUPPORTED)} before the output layer"
        )


def check_representative(rows: dict[str, np.ndarray]) -> None:
    """Raises a `UserError` if a representative dataset is empty or not finite."""
    for name, column in rows.items():
        if not len(column):
            raise UserError("the representative dataset is empty: there are no training examples")
        if count_not_finite(column):
            row = int(np.argwhere(~np.isfinite(column))[0][0])
            raise UserError(
                f"the representative dataset has NaN or infinity in {name!r} (row {row}); "
                "the transformation has to replace absent values"
            )


def _insert_nodes(network: tf_keras.Model, bits: int, keep_zeros: bool) -> tf_keras.Model:
    names = {layer.name for layer in kernel_layers(network)}
    entries = _entries(network, names)

    def annotate(layer: tf_keras.layers.Layer) -> tf_keras.layers.Layer:
        if layer.name in names:
            return _quantization.quantize_annotate_layer(layer, _KernelConfig(bits, keep_zeros))
        if layer.name in entries:
            return _quantization.quantize_annotate_layer(layer, _EntryConfig())
        if isinstance(layer, _layers.Embedding):
            # Annotated, an embedding would have tfmot quantize the ids that it reads.
            return _quantization.QuantizeWrapperV2(layer, _TableConfig(bits))
        return layer

    kinds = (_KernelConfig, _EntryConfig, _TableConfig, _KeepZeros)
    try:
        with _quantization.quantize_scope({kind.__name__: kind for kind in kinds}):
            annotated = tf_keras.models.clone_model(clone(network), clone_function=annotate)
            return _quantization.quantize_apply(annotated)
    except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        layers = ", ".join(f"{layer.name} ({type(layer).__name__})" for layer in network.layers)
        raise NotQuantizable(
            f"the network cannot be quantized: {str(error).splitlines()[0]} Its layers are {layers}"
        ) from error


def _entries(network: tf_keras.Model, names: set[str]) -> set[str]:
    """The unquantized layers whose outputs quantized layers read.

    Inputs of the network are left out: tfmot quantizes them itself.
    """
    found = set()
    for name in names:
        for tensor in network.get_layer(name).inbound_nodes[0].keras_inputs:
            node = tensor.node
            while isinstance(node.layer, _VALUE_KEEPING) and not _reads_input(node):
                node = node.keras_inputs[0].node
            if not isinstance(node.layer, _layers.InputLayer):
                found.add(node.layer.name)
    return found - names


def _reads_input(node: Any) -> bool:
    return isinstance(node.keras_inputs[0].node.layer, _layers.InputLayer)


def _with_barrier(network: tf_keras.Model) -> tf_keras.Model:
    inputs = {
        tensor.name: tf_keras.Input(tensor.shape[1:], dtype=tensor.dtype, name=name)
        for name, tensor in zip(network.input_names, network.inputs, strict=True)
    }
    guarded = [
        tensor + _BARRIER if tensor.dtype.is_floating else tensor for tensor in inputs.values()
    ]
    outputs = network(guarded if len(guarded) > 1 else guarded[0])
    return tf_keras.Model(list(inputs.values()), outputs)


def _calibrate(
    quantized: tf_keras.Model, network: tf_keras.Model, rows: dict[str, np.ndarray]
) -> None:
    """Sets the ranges of all fake-quant nodes by running a network on some rows."""
    wrappers = [layer for layer in quantized.layers if _ranges(layer)]
    outputs = {wrapper: _emulated_output(wrapper, network) for wrapper in wrappers}
    answers = tf_keras.Model(network.inputs, list(outputs.values())).predict(
        rows, batch_size=8192, verbose=0
    )
    values = dict(zip(wrappers, answers if len(wrappers) > 1 else [answers], strict=True))
    for wrapper in wrappers:
        for name, variable in _ranges(wrapper).items():
            source, _, bound = name.rpartition("_")
            if source in ("kernel", "embeddings"):
                weights = getattr(network.get_layer(wrapper.layer.name), source).numpy()
                axes = tuple(range(weights.ndim - variable.shape.rank))
                largest = np.abs(weights).max(axis=axes)
                variable.assign(largest if bound == "max" else -largest)
            elif bound == "max":
                variable.assign(max(0.0, float(values[wrapper].max())))
            else:
                variable.assign(min(0.0, float(values[wrapper].min())))


def _ranges(layer: tf_keras.layers.Layer) -> dict[str, tf.Variable]:
    """The ends of the ranges of a layer's fake-quant nodes, as `kernel_min` or `output_max`."""
    names = {
        variable.name.rpartition("/")[2].removesuffix(":0"): variable for variable in layer.weights
    }
    return {name: names[name] for name in names if name.endswith(("_min", "_max"))}


def _emulated_output(wrapper: tf_keras.layers.Layer, network: tf_keras.Model) -> tf.Tensor:
    """The tensor of the float network that a layer of the quantized one emulates."""
    if hasattr(wrapper, "layer"):
        return network.get_layer(wrapper.layer.name).output
    source = wrapper.inbound_nodes[0].keras_inputs[0].node.layer.name
    return network.get_layer(source).output


class _KeepZeros(LastValueQuantizer):
    """Quantizes weights; those that are zero when training starts stay zero."""

    def build(self, tensor_shape: Any, name: str, layer: Any) -> dict[str, Any]:
        weights = getattr(layer.layer, name)
        mask = tf.cast(tf.not_equal(weights, 0), weights.dtype)
        return {"mask": mask, **super().build(tensor_shape, name, layer)}

    def __call__(self, inputs: Any, training: Any, weights: Any, **kwargs: Any) -> Any:
        return super().__call__(inputs * weights["mask"], training, weights, **kwargs)


def _weight_quantizer(bits: int, *, keep_zeros: bool = False, per_axis: bool = False) -> Any:
    kind = _KeepZeros if keep_zeros else LastValueQuantizer
    return kind(num_bits=bits, per_axis=per_axis, symmetric=True, narrow_range=True)


def _activation_quantizer() -> Any:
    return _quantization.quantizers.MovingAverageQuantizer(
        num_bits=8, per_axis=False, symmetric=False, narrow_range=False
    )


class _Config(QuantizeConfig):
    """Quantizes nothing; subclasses override."""

    def get_weights_and_quantizers(self, layer: Any) -> list[tuple[Any, Any]]:
        return []

    def get_activations_and_quantizers(self, layer: Any) -> list[tuple[Any, Any]]:
        return []

    def set_quantize_weights(self, layer: Any, quantize_weights: Sequence[Any]) -> None:
        pass

    def set_quantize_activations(self, layer: Any, quantize_activations: Sequence[Any]) -> None:
        pass

    def get_output_quantizers(self, layer: Any) -> list[Any]:
        return []

    def get_config(self) -> dict[str, Any]:
        return dict(vars(self))


class _KernelConfig(_Config):
    """Weights and activation of a dense or convolution layer; per channel in convolutions."""

    def __init__(self, bits: int, keep_zeros: bool):
        self.bits, self.keep_zeros = bits, keep_zeros

    def get_weights_and_quantizers(self, layer: Any) -> list[tuple[Any, Any]]:
        per_axis = isinstance(layer, _layers.Conv2D)
        return [
            (
                layer.kernel,
                _weight_quantizer(self.bits, keep_zeros=self.keep_zeros, per_axis=per_axis),
            )
        ]

    def get_activations_and_quantizers(self, layer: Any) -> list[tuple[Any, Any]]:
        return [(layer.activation, _activation_quantizer())]

    def set_quantize_weights(self, layer: Any, quantize_weights: Sequence[Any]) -> None:
        (layer.kernel,) = quantize_weights

    def set_quantize_activations(self, layer: Any, quantize_activations: Sequence[Any]) -> None:
        (layer.activation,) = quantize_activations


class _TableConfig(_Config):
    """Weights of a table of embeddings."""

    def __init__(self, bits: int):
        self.bits = bits

    def get_weights_and_quantizers(self, layer: Any) -> list[tuple[Any, Any]]:
        return [(layer.embeddings, _weight_quantizer(self.bits))]

    def set_quantize_weights(self, layer: Any, quantize_weights: Sequence[Any]) -> None:
        (layer.embeddings,) = quantize_weights


class _EntryConfig(_Config):
    """Output of a layer that a quantized layer reads."""

    def get_output_quantizers(self, layer: Any) -> list[Any]:
        return [_activation_quantizer()]
