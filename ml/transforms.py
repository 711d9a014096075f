"""Steps of a `preprocessing_fn`, which also work inside a TFLite model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import tensorflow as tf
import tensorflow_transform as tft

_DAY, _WEEK = 24 * 3600, 7 * 24 * 3600
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


def shares(values: tf.Tensor, largest: float) -> tf.Tensor:
    """Numbers of one unit, such as grey values, as shares of the largest.

    Args:
      values: [batch, columns]; NaN where absent.
      largest: What becomes 1.

    Returns:
      float32 [batch, columns] from 0 to 1; 0 where absent.
    """
    found = tf.cast(values, tf.float32) / largest
    known = tf.where(is_absent(found), tf.zeros_like(found), found)
    return tf.clip_by_value(known, 0.0, 1.0)


def is_absent(values: tf.Tensor) -> tf.Tensor:
    """Where numbers are absent, bool in the shape of `values`."""
    return tf.math.is_nan(values)


def of_known(function: Callable[[tf.Tensor], tf.Tensor], values: tf.Tensor) -> tf.Tensor:
    """Applies a function to the numbers that are known, such as `tf.math.log`.

    In an interpreter the logarithm or the exponential of NaN may be a number: with XNNPACK on a CPU
    without AVX-512 they are 88.8 and 0.

    Args:
      values: float32; NaN where absent.
      function: From a tensor to one of the same shape; it gets 1 in place of NaN.

    Returns:
      float32 in the shape of `values`; NaN where absent.
    """
    absent = is_absent(values)
    return tf.where(absent, values, function(tf.where(absent, tf.ones_like(values), values)))


def code_ids(values: tf.Tensor, known: Sequence[int]) -> tf.Tensor:
    """Numbers whole numbers that are codes, for an embedding.

    Args:
      values: Codes, int64 [batch, 1].
      known: The codes that have an id.

    Returns:
      int64 [batch, 1]: the place among `known`, from 1 on; 0 if unknown.
    """
    matches = tf.cast(tf.equal(values, tf.constant(known, tf.int64)), tf.int64)
    ids = tf.range(1, len(known) + 1, dtype=tf.int64)
    return tf.reduce_sum(matches * ids, axis=1, keepdims=True)


def quantile_ranks(values: tf.Tensor, quantiles: int = 100) -> tf.Tensor:
    """Places numbers among the quantiles of their column in `train`, for skewed columns.

    Args:
      values: float32 [batch, columns]; NaN where absent.
      quantiles: Number of quantiles.

    Returns:
      float32 [batch, columns]: about uniform with mean 0 and standard deviation 1; 0 if absent.
    """
    # One analysis for all columns: each costs seconds.
    bounds = tft.quantiles(values, quantiles, epsilon=0.1 / quantiles, reduce_instance_dims=False)
    below = tf.cast(values[:, :, None] > bounds[None], tf.float32)
    ranks = (tf.reduce_mean(below, axis=2) - 0.5) * math.sqrt(12)
    return tf.where(is_absent(values), tf.zeros_like(ranks), ranks)


def time_circles(seconds: tf.Tensor, origin: int) -> tf.Tensor:
    """Puts the time of the day and of the week on circles, so that midnight is near midnight.

    Args:
      seconds: Times in seconds since the Unix epoch, int64 [batch, 1].
      origin: The start of a week, within 68 years of all times.

    Returns:
      float32 [batch, 4]: sine and cosine of the time of the day, then of the week.
    """
    since = tf.cast(seconds - origin, tf.int32)  # TFLite cannot divide int64.
    angles = [
        tf.cast(tf.math.floormod(since, period), tf.float32) * (2 * math.pi / period)
        for period in (_DAY, _WEEK)
    ]
    return tf.concat([function(angle) for angle in angles for function in (tf.sin, tf.cos)], axis=1)
