"""Steps of a `preprocessing_fn`, which also work inside a TFLite model."""

from __future__ import annotations

import tensorflow as tf
import tensorflow_transform as tft

_STEADY = 1e-5  # Share of the mean; smaller deviations are rounding of 32-bit numbers.


def category_ids(values: tf.Tensor, name: str, min_rows: int = 1) -> tf.Tensor:
    """Numbers the categories of `train`, for an embedding.

    `tft.TFTransformOutput.vocabulary_size_by_name(name) + 1` is the number of ids.

    Args:
      values: Categories, string [batch, 1]; "" where absent.
      name: Name of the vocabulary, that of the feature.
      min_rows: Categories of fewer rows of `train` share the id of unknown ones.

    Returns:
      int64 [batch, 1]: ids from 1 on, by falling frequency; 0 if absent or unknown.
    """
    ids = tft.compute_and_apply_vocabulary(
        values, frequency_threshold=min_rows, default_value=-1, vocab_filename=name
    )
    return ids + 1


def standard_scores(values: tf.Tensor, clip: float = 4.0) -> tf.Tensor:
    """Scales columns of numbers by their means and standard deviations in `train`.

    `tft.scale_to_z_score` would divide the rounding of a constant column by itself.

    Args:
      values: float32 [batch, columns]; NaN where absent.
      clip: Largest distance from 0; extremes would saturate the network.

    Returns:
      float32 [batch, columns]: 0 where absent, as for the mean, and where the column is constant.
    """
    mean = tft.mean(values, reduce_instance_dims=False)
    deviation = tf.sqrt(tft.var(values, reduce_instance_dims=False))
    varies = tf.logical_and(deviation > _STEADY * tf.abs(mean), tf.logical_not(is_absent(values)))
    scores = tf.where(varies, (values - mean) / deviation, tf.zeros_like(values))
    return tf.clip_by_value(scores, -clip, clip)


def is_absent(values: tf.Tensor) -> tf.Tensor:
    """Where numbers are absent, bool in the shape of `values`."""
    return tf.math.is_nan(values)
