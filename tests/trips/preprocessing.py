"""Turns raw columns into what the network reads, in the pipeline and inside the served model."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf
import tensorflow_transform as tft

from .features import IDS, NUMERIC, VOCABULARIES, WEATHER

Tensors = dict[str, tf.Tensor]

_RARE = 20  # A category seen less often shares one id with those never seen.
_HALF_LIFE = 60 * 24 * 3600  # Seconds; a row that much older than the newest counts half.
_CLIP = 4.0  # Standard deviations; keeps an extreme from saturating the network.


def preprocessing_fn(inputs: Tensors, custom_config: Mapping[str, str]) -> Tensors:
    """Transforms raw features; the `preprocessing_fn` of Transform.

    Args:
      inputs: Raw features by name, each of shape [batch, 1], NaN where a number is absent.
      custom_config: The names of the label, the weight and the time column.

    Returns:
      Ids (int64) of `company`, `origin`, `dest` and `hour`, all numbers as `numeric` (float32), the
      label (int64), and how much a row counts in training as `weight` (float32), each of shape
      [batch, 1] but for `numeric` [batch, numbers].
    """
    outputs = {
        # From 1 on; 0 is what all values share that are not in the vocabulary.
        name: 1
        + tft.compute_and_apply_vocabulary(
            inputs[name], frequency_threshold=_RARE, default_value=-1, vocab_filename=name
        )
        for name in VOCABULARIES
    }
    leaves, arrives = (_minutes(inputs[name]) for name in ("sched_dep_time", "sched_arr_time"))
    outputs["hour"] = tf.cast(tf.math.floormod(leaves // 60, IDS["hour"]), tf.int64)
    numbers = [tf.cast(leaves, tf.float32), tf.cast(arrives, tf.float32), inputs["distance"]]
    scaled = _standard_scores(tf.concat([*numbers, *(inputs[name] for name in WEATHER)], axis=1))
    known = tf.where(tf.math.is_nan(scaled), tf.zeros_like(scaled), scaled)
    outputs[NUMERIC] = tf.clip_by_value(known, -_CLIP, _CLIP)
    outputs[custom_config["label"]] = inputs[custom_config["label"]]
    time = inputs[custom_config["time_column"]]
    age = tf.cast(tft.max(time) - time, tf.float32)
    outputs[custom_config["weight"]] = tf.pow(0.5, age / _HALF_LIFE)
    return outputs


def _standard_scores(numbers: tf.Tensor) -> tf.Tensor:
    """Each column less its mean, in its standard deviations."""
    mean = tft.mean(numbers, reduce_instance_dims=False)
    return (numbers - mean) / tf.sqrt(tft.var(numbers, reduce_instance_dims=False))


def _minutes(clock: tf.Tensor) -> tf.Tensor:
    """Minutes since midnight of a clock time written HHMM, int32."""
    clock = tf.cast(clock, tf.int32)  # TFLite divides no int64.
    return clock // 100 * 60 + clock % 100
