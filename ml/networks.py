"""Networks of `tf_keras`: how they are loaded and copied, and which of their layers are chosen."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence

import tensorflow_transform as tft
import tf_keras
from tfx import v1 as tfx

from ml.artifacts import serving_model_uri
from storage.errors import UserError

SaveFn = Callable[[tf_keras.Model, tft.TFTransformOutput, str], None]


def load_network(model: tfx.dsl.Artifact) -> tf_keras.Model:
    """Loads the network of a `Model` artifact, without what was attached to it for serving.

    Args:
      model: A model that `tf_keras` saved, Sequential or Functional.

    Returns:
      A network of its own: training it leaves the artifact as it is.

    Raises:
      UserError: If it is something else, naming the folder.
    """
    uri = serving_model_uri(model)
    if not tfx.dsl.io.fileio.exists(os.path.join(uri, "keras_metadata.pb")):
        raise UserError(
            f"{uri} is not a tf_keras model (it has no keras_metadata.pb); "
            "save it with tf_keras: model.save(path, save_format='tf')"
        )
    try:
        loaded = tf_keras.models.load_model(uri, compile=False)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"the model in {uri} cannot be rebuilt; is a layer of its own not registered with "
            f"tf_keras.saving.register_keras_serializable? ({str(error).splitlines()[0]})"
        ) from error
    if not getattr(loaded, "_is_graph_network", False):
        raise UserError(
            f"the model in {uri} is a {type(loaded).__name__}; only Sequential and Functional "
            "tf_keras models can be rebuilt layer by layer"
        )
    network = tf_keras.Model(loaded.inputs, loaded.outputs, name=loaded.name)
    for layer in network.layers:
        if isinstance(layer, tf_keras.Model):
            raise UserError(
                f"layer {layer.name} of the model in {uri} is a model itself; its layers have to "
                "be the model's own"
            )
    return network


def clone(network: tf_keras.Model) -> tf_keras.Model:
    """A network of the same layers and weights that shares neither."""
    copy = tf_keras.models.clone_model(network)
    copy.set_weights(network.get_weights())
    return copy


def kernel_layers(network: tf_keras.Model) -> list[tf_keras.layers.Layer]:
    """Dense and convolution layers, but for those whose output is the network's."""
    last = set(map(id, _output_layers(network)))
    return [layer for layer in network.layers if hasattr(layer, "kernel") and id(layer) not in last]


def choose_layers(network: tf_keras.Model, chosen: Sequence[str]) -> list[tf_keras.layers.Layer]:
    """The layers that a person named.

    Args:
      network: The network.
      chosen: Names or types of layers; empty means `kernel_layers`.

    Returns:
      The layers, in the network's order.

    Raises:
      UserError: Naming what matches no layer, and the layers there are.
    """
    if not chosen:
        found = kernel_layers(network)
        if not found:
            raise UserError(
                "no layer to choose: the network has no dense or convolution layer before its "
                f"output; its layers are {_describe(network)}"
            )
        return found
    for entry in chosen:
        if not any(entry in (layer.name, type(layer).__name__) for layer in network.layers):
            raise UserError(f"layers: {entry!r} is none of {_describe(network)}")
    return [
        layer for layer in network.layers if layer.name in chosen or type(layer).__name__ in chosen
    ]


def _describe(network: tf_keras.Model) -> str:
    return ", ".join(
        f"{layer.name} ({type(layer).__name__})" for layer in network.layers if layer.weights
    )


def _output_layers(network: tf_keras.Model) -> Iterator[tf_keras.layers.Layer]:
    """The layers with weights that nothing with weights comes after."""
    tensors = list(network.outputs)
    while tensors:
        node = tensors.pop().node
        if node.layer.weights:
            yield node.layer
        else:
            tensors += node.keras_inputs
