"""Turns raw columns into what the network reads, in the pipeline and inside the served model."""

from __future__ import annotations

import math

import tensorflow as tf
import tensorflow_transform as tft

from pipeline.features import LABEL, NUMERIC, TIME, VOCABULARIES, WEIGHT

Tensors = dict[str, tf.Tensor | tf.SparseTensor]

_RARE = 20  # A category seen less often shares one id with those never seen.
_HALF_LIFE = 60 * 24 * 3600  # Seconds; a row that much older than the newest counts half.
_CLIP = 4.0  # Standard deviations; keeps an extreme from saturating the network.
_NAN = math.nan


def preprocessing_fn(inputs: Tensors) -> dict[str, tf.Tensor]:
    """Transforms raw features; the `preprocessing_fn` of Transform.

    An absent number becomes the mean of the column, and an indicator says so for those whose
    absence means something. Everything that is learned from the data (vocabularies, means, standard
    deviations) is learned from the split `train`.

    Args:
      inputs: Raw features by name, each of shape [batch, 1], sparse where a value may be absent.

    Returns:
      Ids (int64) of `carrier`, `origin`, `dest`, `hour` and `weekday`, all numbers as `numeric`
      (float32), the label (int64), and how much a row counts in training as `weight` (float32),
      each of shape [batch, 1] but for `numeric` [batch, numbers].
    """
    outputs = {
        name: tft.compute_and_apply_vocabulary(
            dense(inputs[name], ""),
            frequency_threshold=_RARE,
            num_oov_buckets=1,
            vocab_filename=name,
        )
        for name in VOCABULARIES
    }
    departure = _minutes(inputs["sched_dep_time"])
    outputs["hour"] = departure // 60
    outputs["weekday"] = inputs["day_of_week"] - 1
    scaled = tft.scale_to_z_score(_numbers(inputs, departure), elementwise=True)
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


def dense(feature: tf.Tensor | tf.SparseTensor, default: str | float) -> tf.Tensor:
    """A feature as a tensor of shape [batch, 1], with `default` where it is absent."""
    if not isinstance(feature, tf.SparseTensor):
        return feature
    column = tf.SparseTensor(feature.indices, feature.values, [feature.dense_shape[0], 1])
    return tf.sparse.to_dense(column, default)


def _numbers(inputs: Tensors, departure: tf.Tensor) -> tf.Tensor:
    """All numbers side by side, shape [batch, numbers], NaN where absent."""
    angle = tf.cast(departure, tf.float32) * (2 * math.pi / 1440)
    weather = {
        name: dense(inputs[name], _NAN)
        for name in (
            "temp",
            "dewp",
            "humid",
            "wind_dir",
            "wind_speed",
            "precip",
            "pressure",
            "visib",
        )
    }
    wind = weather["wind_speed"]
    toward = weather["wind_dir"] * (math.pi / 180)
    # In a calm there is no direction; a product with an absent direction would be absent too.
    calm = tf.equal(wind, 0.0)
    return tf.concat(
        [
            tf.cast(departure, tf.float32),
            tf.sin(angle),
            tf.cos(angle),
            tf.cast(_minutes(inputs["sched_arr_time"]), tf.float32),
            inputs["distance"],
            weather["temp"],
            weather["dewp"],
            weather["humid"],
            tf.where(calm, tf.zeros_like(wind), wind * tf.sin(toward)),
            tf.where(calm, tf.zeros_like(wind), wind * tf.cos(toward)),
            wind,
            dense(inputs["wind_gust"], 0.0),
            tf.math.log1p(100 * weather["precip"]),
            weather["pressure"],
            weather["visib"],
        ],
        axis=1,
    )


def _minutes(clock: tf.Tensor) -> tf.Tensor:
    """Minutes since midnight of a clock time written HHMM, int64."""
    return clock // 100 * 60 + clock % 100


def _is_absent(feature: tf.Tensor | tf.SparseTensor) -> tf.Tensor:
    return tf.cast(tf.math.is_nan(dense(feature, _NAN)), tf.float32)
