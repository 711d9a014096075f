"""Saves a trained network with its transformation and serving signatures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf
import tensorflow_transform as tft
import tf_keras

from ml.names import graph_names
from ml.signature_inputs import name_inputs
from ml.tasks import BINARY, REGRESSION, Task
from storage.names import DEFAULT_SIGNATURE, RAW_SIGNATURE

Tensors = dict[str, tf.Tensor]


def save_model(
    network: tf_keras.Model,
    graph: tft.TFTransformOutput,
    path: str,
    custom_config: Mapping[str, Any],
) -> None:
    """Saves a network with the transformation inside, so that requests hold raw features.

    Signatures:
      - `serving_default`: `examples`, serialized tf.Examples, string [batch].
      - `raw_features`: one tensor per raw feature, [batch], or [batch, width] for a vector; "" or
        NaN where it is absent. Model servers take the features' own names; in Python the arguments
        are `graph_names` of them.
      - `classify` (classes) and `regress` (one number, or the probability of a binary task):
        `inputs`, serialized tf.Examples, string [batch], for TensorFlow Serving's methods of these
        names.

    The first two return the prediction, float32 [batch, task.outputs]; `regress` returns it as
    `outputs`; `classify` returns `classes`, string [batch, classes], and their `scores`, float32
    [batch, classes].

    Args:
      network: Network from transformed features to the prediction; it is changed.
      graph: The transformation.
      path: Folder of the SavedModel to write.
      custom_config: The model's `custom_config`.
    """
    task = Task.from_config(custom_config)
    prediction = custom_config["prediction"]
    spec = graph.raw_feature_spec()
    spec = {name: spec[name] for name in custom_config["features"]}
    arguments = graph_names(spec)
    # As a layer of the model, so that the transformation's files are saved with it.
    network.transform = graph.transform_features_layer()

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
    def serve_examples(examples: tf.Tensor) -> Tensors:
        return {prediction: network(network.transform(tf.io.parse_example(examples, spec)))}

    @tf.function(input_signature=[_raw_signature(spec, arguments)])
    def serve_raw_features(features: Tensors) -> Tensors:
        raw = {name: features[argument] for name, argument in arguments.items()}
        return {prediction: network(network.transform(_as_columns(raw)))}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
    def classify(inputs: tf.Tensor) -> Tensors:
        scores = serve_examples(inputs)[prediction]
        if task.kind == BINARY:
            scores = tf.concat([1 - scores, scores], axis=1)
        names = tf.constant(task.class_names)
        return {"classes": tf.broadcast_to(names, tf.shape(scores)), "scores": scores}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
    def regress(inputs: tf.Tensor) -> Tensors:
        return {"outputs": serve_examples(inputs)[prediction]}

    signatures = {DEFAULT_SIGNATURE: serve_examples, RAW_SIGNATURE: serve_raw_features}
    if task.kind != REGRESSION:
        signatures["classify"] = classify
    if task.outputs == 1:
        signatures["regress"] = regress
    network.save(
        path,
        save_format="tf",
        include_optimizer=False,
        # Keras rebuilds its own layers from their configuration; tracing them would take three
        # times as long as everything else.
        save_traces=False,
        signatures=signatures,
    )
    if any(name != argument for name, argument in arguments.items()):
        name_inputs(path, RAW_SIGNATURE, {argument: name for name, argument in arguments.items()})


def _raw_signature(
    spec: Mapping[str, tf.io.FixedLenFeature], arguments: Mapping[str, str]
) -> dict[str, tf.TensorSpec]:
    return {
        arguments[name]: tf.TensorSpec(
            [None, *_width(feature)], feature.dtype, name=arguments[name]
        )
        for name, feature in spec.items()
    }


def _width(feature: tf.io.FixedLenFeature) -> list[int]:
    """The shape of one row in requests: none for a single value."""
    shape = list(feature.shape)
    return [] if shape in ([], [1]) else shape


def _as_columns(features: Tensors) -> Tensors:
    """Reshapes single values from [batch] to [batch, 1], for the transformation."""
    return {
        name: feature if feature.shape.rank > 1 else tf.reshape(feature, [-1, 1])
        for name, feature in features.items()
    }
