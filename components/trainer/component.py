"""Trainer: the stock component, each of whose settings is a parameter of its own."""

from collections.abc import Mapping
from typing import Any

from tfx import v1 as tfx
from tfx.dsl.components.base import executor_spec

from components.trainer import executor


class Trainer(tfx.components.Trainer):
    """Runs a `run_fn`.

    Takes the arguments of `tfx.v1.components.Trainer`, but for `settings`, which are what `run_fn`
    finds in `custom_config`. The stock component puts all of them into one text; here each can be a
    `RuntimeParameter`.
    """

    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(self, settings: Mapping[str, int | float | str], **arguments: Any):
        super().__init__(**arguments)
        for name, value in settings.items():
            self.exec_properties[executor.SETTING + name] = value
