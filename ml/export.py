"""Saves a trained network with its transformation and serving signatures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
import tensorflow_transform as tft
import tf_keras

from ml.canonical import write_canonical
from ml.names import graph_names
from ml.signature_inputs import name_inputs
from ml.tasks import BINARY, REGRESSION, Task
from storage.errors import UserError
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

    Raises:
      UserError: If a feature of `custom_config` is not in the schema, or has no fixed shape there.
    """
    task = Task.from_config(custom_config)
    prediction = custom_config["prediction"]
    spec = _request_spec(graph, custom_config["features"])
    arguments = graph_names(spec)
    # As a layer of the model, so that the transformation's files are saved with it.
    network.transform = graph.transform_features_layer()

    def predict(features: Tensors) -> Tensors:
        transformed = network.transform(features)
        return {prediction: network({name: transformed[name] for name in network.input_names})}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
    def serve_examples(examples: tf.Tensor) -> Tensors:
        return predict(tf.io.parse_example(examples, spec))

    @tf.function(input_signature=[_raw_signature(spec, arguments)])
    def serve_raw_features(features: Tensors) -> Tensors:
        raw = {name: features[argument] for name, argument in arguments.items()}
        return predict({name: _as_parsed(raw[name], part) for name, part in spec.items()})

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
    write_canonical(path)


def _request_spec(
    graph: tft.TFTransformOutput, features: Sequence[str]
) -> dict[str, tf.io.FixedLenFeature]:
    """The parsing of each feature of a request."""
    spec = graph.raw_feature_spec()
    if absent := [name for name in features if name not in spec]:
        raise UserError(
            f"features: {', '.join(absent)}: not in the schema, which has {', '.join(sorted(spec))}"
        )
    for name in features:
        if not isinstance(spec[name], tf.io.FixedLenFeature):
            raise UserError(
                f"features: {name} has no fixed number of values in the schema; give it a shape "
                "and a presence of 1, or a dense tensor representation with a default value"
            )
    return {name: spec[name] for name in features}


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


def _as_parsed(feature: tf.Tensor, parsing: tf.io.FixedLenFeature) -> tf.Tensor:
    """Reshapes single values from [batch] to [batch, 1] if examples are parsed so."""
    return tf.reshape(feature, [-1, 1]) if list(parsing.shape) == [1] else feature
