"""Pipeline parameters on Kubeflow: the settings that a run may set to another value.

A field of the configuration is one if its type is a `RunParameter`. The setting `training.epochs`
is the parameter `training_epochs`.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, get_type_hints

from pipeline.config import Config
from pipeline.setting_types import RUN_PARAMETER


def parameter_keys(kind: Any = Config, prefix: str = "") -> Iterator[str]:
    """The keys of all settings that are pipeline parameters, in the order of their fields."""
    for name, hint in get_type_hints(kind, include_extras=True).items():
        if RUN_PARAMETER in getattr(hint, "__metadata__", ()):
            yield prefix + name
        elif dataclasses.is_dataclass(hint):
            yield from parameter_keys(hint, f"{prefix}{name}.")


def parameter_name(key: str) -> str:
    """The pipeline parameter of a configuration key."""
    return key.replace(".", "_")


# What the evaluation's thresholds and the shape of the pipeline depend on is fixed when it is
# compiled.
KEYS = tuple(parameter_keys())


def parameter_values(config: Config) -> dict[str, int | float | str]:
    """The value that a configuration gives to each pipeline parameter."""
    values = {}
    for key in KEYS:
        table, name = key.split(".")
        values[parameter_name(key)] = getattr(getattr(config, table), name)
    return values


def runtime_parameters(values: Mapping[str, int | float | str]) -> dict[str, Any]:
    """A `RuntimeParameter` for each of some values, of its type."""
    from tfx import v1 as tfx  # Here, because it takes seconds and the keys do without.

    return {
        name: tfx.dsl.experimental.RuntimeParameter(name=name, ptype=type(value))
        for name, value in values.items()
    }


def with_parameters(config: Config, parameters: Mapping[str, Any]) -> Config:
    """A configuration for `create_pipeline` whose values are pipeline parameters.

    Args:
      config: The configuration.
      parameters: By the name of the parameter, what replaces the value of its key.

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
