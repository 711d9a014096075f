"""Trainer: the stock component, with each setting as a separate parameter."""

from collections.abc import Mapping
from typing import Any

from tfx import v1 as tfx
from tfx.dsl.components.base import executor_spec

from components.trainer import executor


class Trainer(tfx.components.Trainer):
    """Trains a model by running its `run_fn`.

    Takes the arguments of `tfx.v1.components.Trainer`, and `settings`, which `run_fn` gets with
    `custom_config`. The stock component serializes that into one string; here each setting can be
    a `RuntimeParameter`. What is in the artifact `hyperparameters` replaces `settings`.

    Example:
      trainer = Trainer(
          run_fn="models.my_model.network.run_fn",
          examples=transform.outputs["transformed_examples"],
          transform_graph=transform.outputs["transform_graph"],
          settings={"epochs": 3, "batch_size": 512},
      )
    """

    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(self, settings: Mapping[str, int | float | str], **arguments: Any):
        super().__init__(**arguments)
        for name, value in settings.items():
            self.exec_properties[executor.SETTING + name] = value
