"""Transforms raw features, in the pipeline and inside the served model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from ml.task_layers import encode_label
from ml.tasks import Task
from ml.transforms import category_ids, standard_scores

CATEGORIES = ("island", "sex")
NUMBERS = ("bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g")


def preprocessing_fn(
    inputs: Mapping[str, tf.Tensor], custom_config: Mapping[str, Any]
) -> dict[str, tf.Tensor]:
    """Transforms raw features: the `preprocessing_fn` of Transform.

    Args:
      inputs: Raw features by name, each [batch, 1]; "" or NaN where absent.
      custom_config: The task.

    Returns:
      Ids of `CATEGORIES`, int64 [batch, 1]; all `NUMBERS` as `numbers`, float32 [batch, 4]; the
      label's class, int64 [batch, 1].
    """
    task = Task.from_config(custom_config)
    outputs = {name: category_ids(inputs[name], name) for name in CATEGORIES}
    outputs["numbers"] = standard_scores(tf.concat([inputs[name] for name in NUMBERS], axis=1))
    outputs[task.label] = encode_label(task, inputs[task.label])
    return outputs
