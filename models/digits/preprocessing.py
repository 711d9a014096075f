"""Transforms raw features, in the pipeline and inside the served model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from ml.task_layers import encode_label
from ml.tasks import Task

SIDE = 28
PIXELS = SIDE * SIDE
_BLACK = 255


def preprocessing_fn(
    inputs: Mapping[str, tf.Tensor], custom_config: Mapping[str, Any]
) -> dict[str, tf.Tensor]:
    """Transforms raw features: the `preprocessing_fn` of Transform.

    Args:
      inputs: `image`, grey values from 0 (white) to 255 (black), row by row, int64 [batch, 784];
        the label, int64 [batch, 1].
      custom_config: The task.

    Returns:
      `pixels`, from 0 to 1, float32 [batch, 784]; the label's class, int64 [batch, 1].
    """
    task = Task.from_config(custom_config)
    pixels = tf.cast(inputs["image"], tf.float32) / _BLACK
    return {
        "pixels": tf.clip_by_value(pixels, 0.0, 1.0),
        task.label: encode_label(task, inputs[task.label]),
    }
