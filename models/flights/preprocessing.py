"""Turns raw columns into what the network reads, in the pipeline and inside the served model."""

from __future__ import annotations

import math

import tensorflow as tf
import tensorflow_transform as tft

from .features import IDS, LABEL, NUMERIC, TIME, VOCABULARIES, WEIGHT

Tensors = dict[str, tf.Tensor]

_RARE = 20  # A category seen less often shares one id with those never seen.
_HALF_LIFE = 60 * 24 * 3600  # Seconds; a row that much older than the newest counts half.
_STEADY = 1e-5  # Of the mean; deviations as small are the rounding of 32-bit numbers.
_CLIP = 4.0  # Standard deviations; keeps an extreme from saturating the network.


def preprocessing_fn(inputs: Tensors) -> dict[str, tf.Tensor]:
    """Transforms raw features; the `preprocessing_fn` of Transform.

    An absent number becomes the mean of the column, and an indicator says so for those whose
    absence means something. Everything that is learned from the data (vocabularies, means, standard
    deviations) is learned from the split `train`.

    Args:
      inputs: Raw features by name, each of shape [batch, 1], NaN where a number is absent (the
        schema's tensor representations say so).

    Returns:
      Ids (int64) of `carrier`, `origin`, `dest`, `hour` and `weekday`, all numbers as `numeric`
      (float32), the label (int64), and how much a row counts in training as `weight` (float32),
      each of shape [batch, 1] but for `numeric` [batch, numbers].
    """
    outputs = {
        # From 1 on; 0 is what all values share that are not in the vocabulary.
        name: 1
        + tft.compute_and_apply_vocabulary(
            inputs[name], frequency_threshold=_RARE, default_value=-1, vocab_filename=name
        )
        for name in VOCABULARIES
    }
    departure = _minutes(inputs["sched_dep_time"])
    outputs["hour"] = _cyclic_id(departure // 60, IDS["hour"])
    outputs["weekday"] = _cyclic_id(inputs["day_of_week"] - 1, IDS["weekday"])
    scaled = _standard_scores(_numbers(inputs, departure))
    known = tf.where(tf.math.is_nan(scaled), tf.zeros_like(scaled), scaled)
    outputs[NUMERIC] = tf.concat(
        [
            tf.clip_by_value(known, -_CLIP, _CLIP),
            _is_absent(inputs["pressure"]),
            _is_absent(inputs["temp"]),
        ],
        axis=1,
    )
    outputs[LABEL] = inputs[LABEL]
    age = tf.cast(tft.max(inputs[TIME]) - inputs[TIME], tf.float32)
    outputs[WEIGHT] = tf.pow(0.5, age / _HALF_LIFE)
    return outputs


def _standard_scores(numbers: tf.Tensor) -> tf.Tensor:
    """Each column less its mean, in its standard deviations; 0 where it does not vary.

    No weight has learned what else such a column may hold. `tft.scale_to_z_score` hands on its
    distance from the mean, and divides by what rounding leaves of a variance.
    """
    mean = tft.mean(numbers, reduce_instance_dims=False)
    deviation = tf.sqrt(tft.var(numbers, reduce_instance_dims=False))
    varies = deviation > _STEADY * tf.abs(mean)
    # A whole tensor of it: TFLite's own operator does not broadcast the condition.
    varies = tf.logical_and(varies, tf.ones_like(numbers, dtype=tf.bool))
    return tf.where(varies, (numbers - mean) / deviation, tf.zeros_like(numbers))


def _numbers(inputs: Tensors, departure: tf.Tensor) -> tf.Tensor:
    """All numbers side by side, shape [batch, numbers], NaN where absent."""
    angle = tf.cast(departure, tf.float32) * (2 * math.pi / 1440)
    wind, gust = inputs["wind_speed"], inputs["wind_gust"]
    toward = inputs["wind_dir"] * (math.pi / 180)
    # In a calm there is no direction; a product with an absent direction would be absent too.
    calm = tf.equal(wind, 0.0)
    return tf.concat(
        [
            tf.cast(departure, tf.float32),
            tf.sin(angle),
            tf.cos(angle),
            tf.cast(_minutes(inputs["sched_arr_time"]), tf.float32),
            inputs["distance"],
            inputs["temp"],
            inputs["dewp"],
            inputs["humid"],
            tf.where(calm, tf.zeros_like(wind), wind * tf.sin(toward)),
            tf.where(calm, tf.zeros_like(wind), wind * tf.cos(toward)),
            wind,
            tf.where(tf.math.is_nan(gust), tf.zeros_like(gust), gust),
            tf.math.log1p(100 * inputs["precip"]),
            inputs["pressure"],
            inputs["visib"],
        ],
        axis=1,
    )


def _minutes(clock: tf.Tensor) -> tf.Tensor:
    """Minutes since midnight of a clock time written HHMM, int32."""
    clock = tf.cast(clock, tf.int32)  # TFLite divides no int64.
    return clock // 100 * 60 + clock % 100


def _cyclic_id(number: tf.Tensor, count: int) -> tf.Tensor:
    """A number that starts again after `count` as an id below it, int64, whatever comes."""
    return tf.cast(tf.math.floormod(number, count), tf.int64)


def _is_absent(feature: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.math.is_nan(feature), tf.float32)
