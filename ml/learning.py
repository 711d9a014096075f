"""The training settings of a network; Trainer passes them as `custom_config`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from ml.tasks import Task


@dataclass(frozen=True)
class Learning:
    """The settings of a model's `run_fn`, as explained in `pipeline.config`."""

    task: Task
    prediction: str
    epochs: int
    batch_size: int
    learning_rate: float
    dropout: float
    l2: float
    patience: int
    seed: int
    warm_start: float
    loss: str = ""
    class_weights: str = ""
    network: Mapping[str, Any] = field(default_factory=dict)
    rows_in_memory: int = 0

    @classmethod
    def from_config(cls, custom_config: Mapping[str, Any]) -> Learning:
        """Reads the settings from `custom_config`; other keys are ignored."""
        names = {known.name for known in fields(cls)} - {"task"}
        values = {name: value for name, value in custom_config.items() if name in names}
        if isinstance(network := values.get("network"), str):
            values["network"] = json.loads(network)
        return cls(task=Task.from_config(custom_config), **values)
