"""Saves the trained network with the transformation inside, behind two serving signatures."""

from __future__ import annotations

import math

import tensorflow as tf
import tensorflow_transform as tft
import tf_keras

from pipeline.features import PROBABILITY, RAW_FEATURES

RAW_SIGNATURE = "raw_features"

FeatureSpec = dict[str, tf.io.FixedLenFeature | tf.io.VarLenFeature]


def save_model(model: tf_keras.Model, graph: tft.TFTransformOutput, path: str) -> None:
    """Saves a network that reads transformed features so that it can be asked with raw ones.

    Signatures:
      - `serving_default`: `examples`, serialized tf.Examples, string [batch].
      - `raw_features`: one tensor of shape [batch] per raw feature; "" or NaN where it is absent.

    Both return `probability`, float32 [batch, 1].

    Args:
      model: Network from transformed features to a probability.
      graph: The transformation.
      path: Folder of the SavedModel to write.
    """
    spec = graph.raw_feature_spec()
    spec = {name: spec[name] for name in RAW_FEATURES}
    # A layer that the model owns, so that the transformation's files are saved with it.
    model.transform = graph.transform_features_layer()

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
    def serve_examples(examples: tf.Tensor) -> dict[str, tf.Tensor]:
        return {PROBABILITY: model(model.transform(tf.io.parse_example(examples, spec)))}

    @tf.function(input_signature=[_raw_signature(spec)])
    def serve_raw_features(features: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return {PROBABILITY: model(model.transform(from_dense(features, spec)))}

    model.save(
        path,
        save_format="tf",
        include_optimizer=False,
        # The layers are Keras's own and are rebuilt from their configuration when the model is
        # loaded; tracing each of them would take three times as long as all the rest.
        save_traces=False,
        signatures={"serving_default": serve_examples, RAW_SIGNATURE: serve_raw_features},
    )


def _raw_signature(spec: FeatureSpec) -> dict[str, tf.TensorSpec]:
    return {name: tf.TensorSpec([None], spec[name].dtype, name=name) for name in spec}


def from_dense(
    features: dict[str, tf.Tensor], spec: FeatureSpec
) -> dict[str, tf.Tensor | tf.SparseTensor]:
    """Raw features of shape [batch] as `tf.io.parse_example` would give them.

    Args:
      features: By name; an absent value is "" or NaN.
      spec: How they are parsed; a feature that may be absent is a `VarLenFeature`.

    Returns:
      By name, tensors of shape [batch, 1], sparse and without the absent values where the spec says
      `VarLenFeature`.
    """
    parsed: dict[str, tf.Tensor | tf.SparseTensor] = {}
    for name, feature in features.items():
        column = feature[:, tf.newaxis]
        if isinstance(spec[name], tf.io.VarLenFeature):
            absent = "" if feature.dtype == tf.string else math.nan
            column = _drop_absent(column, absent)
        parsed[name] = column
    return parsed


def _drop_absent(column: tf.Tensor, absent: str | float) -> tf.SparseTensor:
    present = tf.not_equal(column, absent) if absent == "" else ~tf.math.is_nan(column)
    indices = tf.where(present)
    shape = tf.shape(column, out_type=tf.int64)
    return tf.SparseTensor(indices, tf.gather_nd(column, indices), shape)
