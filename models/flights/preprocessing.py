"""Transforms raw features, in the pipeline and inside the served model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import tensorflow as tf
import tensorflow_transform as tft

from ml.task_layers import encode_label
from ml.tasks import Task
from ml.transforms import of_known

from .features import IDS, NUMERIC, VOCABULARIES

Tensors = dict[str, tf.Tensor]

_RARE = 20  # Categories with fewer rows share the id of unknown categories.
_HALF_LIFE = 60 * 24 * 3600  # Seconds; a row this much older than the newest has half the weight.
_STEADY = 1e-5  # Share of the mean; smaller deviations are rounding of 32-bit numbers.
_CLIP = 4.0  # Standard deviations; extremes would saturate the network.


def preprocessing_fn(inputs: Tensors, custom_config: Mapping[str, Any]) -> dict[str, tf.Tensor]:
    """Transforms raw features: the `preprocessing_fn` of Transform.

    An absent numeric feature becomes the mean of its column. If its absence is informative, it has
    an indicator. Vocabularies, means and standard deviations come from the split `train`.

    Args:
      inputs: Raw features by name, each of shape [batch, 1]; NaN where a numeric feature is absent
        (the schema's tensor representations say so).
      custom_config: The names of the label, of the weight and of the time column.

    Returns:
      Ids (int64) of `carrier`, `origin`, `dest`, `hour` and `weekday`; all numeric features as
      `numeric` (float32); the label (int64); and the training weight, if it has a name (float32).
      Each has the shape [batch, 1], except `numeric`: [batch, numeric features].
    """
    outputs = {
        # Ids start at 1; 0 is for values that are not in the vocabulary.
        name: 1
        + tft.compute_and_apply_vocabulary(
            inputs[name], frequency_threshold=_RARE, default_value=-1, vocab_filename=name
        )
        for name in VOCABULARIES
    }
    departure = _minutes(inputs["sched_dep_time"])
    outputs["hour"] = _cyclic_id(departure // 60, IDS["hour"])
    outputs["weekday"] = _cyclic_id(inputs["day_of_week"] - 1, IDS["weekday"])
    scaled = _standard_scores(_numeric_features(inputs, departure))
    known = tf.where(tf.math.is_nan(scaled), tf.zeros_like(scaled), scaled)
    outputs[NUMERIC] = tf.concat(
        [
            tf.clip_by_value(known, -_CLIP, _CLIP),
            _is_absent(inputs["pressure"]),
            _is_absent(inputs["temp"]),
        ],
        axis=1,
    )
    task = Task.from_config(custom_config)
    outputs[task.label] = encode_label(task, inputs[task.label])
    if task.weight:
        time = inputs[custom_config["time_column"]]
        age = tf.cast(tft.max(time) - time, tf.float32)
        outputs[task.weight] = tf.pow(0.5, age / _HALF_LIFE)
    return outputs


def _standard_scores(values: tf.Tensor) -> tf.Tensor:
    """The z-scores of each column; 0 where the column does not vary.

    No weight was trained on any other value of a constant column. `tft.scale_to_z_score` would
    return the distance from the mean, or divide by a variance that is only rounding.
    """
    mean = tft.mean(values, reduce_instance_dims=False)
    deviation = tf.sqrt(tft.var(values, reduce_instance_dims=False))
    varies = deviation > _STEADY * tf.abs(mean)
    # TFLite's operator does not broadcast the condition.
    varies = tf.logical_and(varies, tf.ones_like(values, dtype=tf.bool))
    return tf.where(varies, (values - mean) / deviation, tf.zeros_like(values))


def _numeric_features(inputs: Tensors, departure: tf.Tensor) -> tf.Tensor:
    """All numeric features, shape [batch, numeric features]; NaN where absent."""
    angle = tf.cast(departure, tf.float32) * (2 * math.pi / 1440)
    wind, gust = inputs["wind_speed"], inputs["wind_gust"]
    toward = inputs["wind_dir"] * (math.pi / 180)
    # Without wind there is no direction, and the product would be absent.
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
            tf.where(calm, tf.zeros_like(wind), wind * of_known(tf.sin, toward)),
            tf.where(calm, tf.zeros_like(wind), wind * of_known(tf.cos, toward)),
            wind,
            tf.where(tf.math.is_nan(gust), tf.zeros_like(gust), gust),
            of_known(tf.math.log1p, 100 * inputs["precip"]),
            inputs["pressure"],
            inputs["visib"],
        ],
        axis=1,
    )


def _minutes(clock: tf.Tensor) -> tf.Tensor:
    """Minutes since midnight of a clock time written HHMM, int32."""
    clock = tf.cast(clock, tf.int32)  # TFLite cannot divide int64.
    return clock // 100 * 60 + clock % 100


def _cyclic_id(number: tf.Tensor, count: int) -> tf.Tensor:
    """A number modulo `count`, as an id from 0 to `count` - 1, int64."""
    return tf.cast(tf.math.floormod(number, count), tf.int64)


def _is_absent(feature: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.math.is_nan(feature), tf.float32)
