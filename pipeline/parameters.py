"""What a run on Kubeflow may set anew: pipeline parameters, named after configuration keys."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from tfx import v1 as tfx

from pipeline.config import Config

# `training.epochs` is the parameter `training_epochs`. What the schedule, the evaluation's
# thresholds and the shape of the pipeline depend on is fixed when it is compiled.
KEYS = (
    "data.uri",
    "data.as_of",
    "data.window",
    "data.eval_days",
    "training.epochs",
    "training.batch_size",
    "training.learning_rate",
    "training.dropout",
    "training.l2",
    "training.patience",
    "training.seed",
    "pruning.target_sparsity",
    "pruning.epochs",
    "pruning.learning_rate",
    "quantization.mode",
    "quantization.policy",
    "quantization.weight_bits",
    "compression.max_bytes",
    "compression.max_p99_ms",
    "compression.min_sparsity",
)


def parameter_name(key: str) -> str:
    """The pipeline parameter of a configuration key."""
    return key.replace(".", "_")


def parameter_values(config: Config) -> dict[str, int | float | str]:
    """The value that a configuration gives to each pipeline parameter."""
    values = {}
    for key in KEYS:
        table, name = key.split(".")
        values[parameter_name(key)] = getattr(getattr(config, table), name)
    return values


def runtime_parameters(values: Mapping[str, int | float | str]) -> dict[str, Any]:
    """A `RuntimeParameter` for each of some values, of its type."""
    return {
        name: tfx.dsl.experimental.RuntimeParameter(name=name, ptype=type(value))
        for name, value in values.items()
    }


def with_parameters(config: Config, parameters: Mapping[str, Any]) -> Config:
    """A configuration for `create_pipeline` whose values are pipeline parameters.

    Args:
      config: The configuration.
      parameters: By the name of the parameter, what to put in place of the value of its key.

    Returns:
      A copy, in which `parameters` stand where numbers and texts are declared.
    """
    result = copy.copy(config)
    for key in KEYS:
        if parameter_name(key) in parameters:
            table, name = key.split(".")
            part = copy.copy(getattr(result, table))
            # Frozen, and checked for plain values: only here do others go in.
            object.__setattr__(part, name, parameters[parameter_name(key)])
            object.__setattr__(result, table, part)
    return result
