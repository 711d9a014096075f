"""Saves the trained network with the transformation inside, behind its serving signatures."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf
import tensorflow_transform as tft
import tf_keras

from storage.names import DEFAULT_SIGNATURE, RAW_SIGNATURE

from .features import CLASSES, RAW_FEATURES

FeatureSpec = dict[str, tf.io.FixedLenFeature]


def save_model(
    model: tf_keras.Model,
    graph: tft.TFTransformOutput,
    path: str,
    custom_config: Mapping[str, str],
) -> None:
    """Saves a network that reads transformed features so that its requests hold raw features.

    Signatures:
      - `serving_default`: `examples`, serialized tf.Examples, string [batch].
      - `raw_features`: one tensor of shape [batch] per raw feature; "" or NaN where it is absent.
      - `classify`, `regress`: `inputs`, serialized tf.Examples, string [batch], as the methods of
        those names of TensorFlow Serving want it.

    The first two return the prediction, float32 [batch, 1]; `regress` returns it as `outputs`;
    `classify` returns `classes`, string [batch, 2], and their `scores`, float32 [batch, 2].

    Args:
      model: Network from transformed features to a probability.
      graph: The transformation.
      path: Folder of the SavedModel to write.
      custom_config: The name of the prediction.
    """
    prediction = custom_config["prediction"]
    spec = graph.raw_feature_spec()
    spec = {name: spec[name] for name in RAW_FEATURES}
    # A layer that the model owns, so that the transformation's files are saved with it.
    model.transform = graph.transform_features_layer()

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
    def serve_examples(examples: tf.Tensor) -> dict[str, tf.Tensor]:
        return {prediction: model(model.transform(tf.io.parse_example(examples, spec)))}

    @tf.function(input_signature=[_raw_signature(spec)])
    def serve_raw_features(features: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return {prediction: model(model.transform(_as_columns(features)))}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
    def classify(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        delayed = serve_examples(inputs)[prediction]
        classes = tf.broadcast_to(tf.constant(CLASSES), [tf.shape(delayed)[0], len(CLASSES)])
        return {"classes": classes, "scores": tf.concat([1 - delayed, delayed], axis=1)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
    def regress(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"outputs": serve_examples(inputs)[prediction]}

    model.save(
        path,
        save_format="tf",
        include_optimizer=False,
        # The layers are Keras's own and are rebuilt from their configuration when the model is
        # loaded; tracing each of them would take three times as long as all the rest.
        save_traces=False,
        signatures={
            DEFAULT_SIGNATURE: serve_examples,
            RAW_SIGNATURE: serve_raw_features,
            "classify": classify,
            "regress": regress,
        },
    )


def _raw_signature(spec: FeatureSpec) -> dict[str, tf.TensorSpec]:
    return {name: tf.TensorSpec([None], spec[name].dtype, name=name) for name in spec}


def _as_columns(features: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Features of shape [batch] as the transformation takes them, [batch, 1]."""
    return {name: tf.reshape(feature, [-1, 1]) for name, feature in features.items()}
