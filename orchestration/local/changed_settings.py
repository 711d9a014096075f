"""The settings of a run that differ from the engine's defaults."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any, get_type_hints

from orchestration.local.origin import flatten
from pipeline.config import Config, load_config
from report.run import Setting
from storage.errors import UserError

# Arguments of Beam, whose values may be secrets.
_ARGUMENTS = ("beam_args", "node_beam_args")
# What no run on this machine depends on.
_ELSEWHERE = ("kubeflow", "monitor")


def changed_settings(config: Config) -> tuple[Setting, ...]:
    """The settings of a run that are not the engine's defaults.

    Args:
      config: The configuration.

    Returns:
      In the order of the configuration. Of arguments of Beam, the names alone.
    """
    defaults = dict(_defaults(Config))
    try:
        of_model = _shown(load_config(settings=[f"model={config.model}"]))
    except UserError:  # The model's file has changed since.
        of_model = {}
    return tuple(
        Setting(
            key, value, defaults.get(key, ""), of_run=bool(of_model) and value != of_model.get(key)
        )
        for key, value in _shown(config).items()
        if value != defaults.get(key)
    )


def _shown(config: Config) -> dict[str, str]:
    """The values as JSON, by dotted key."""
    settings = dataclasses.asdict(config)
    return flatten(
        {
            name: _names(value) if name in _ARGUMENTS else value
            for name, value in settings.items()
            if name not in _ELSEWHERE
        }
    )


def _names(arguments: Any) -> Any:
    if isinstance(arguments, dict):
        return {name: _names(each) for name, each in arguments.items()}
    return [argument.partition("=")[0] for argument in arguments]


def _defaults(kind: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """The defaults as JSON, by dotted key."""
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        key, hint = f"{prefix}{field.name}", hints[field.name]
        if dataclasses.is_dataclass(hint):
            yield from _defaults(hint, f"{key}.")
        elif field.default is not dataclasses.MISSING:
            value = _names(field.default) if field.name in _ARGUMENTS else field.default
            yield key, json.dumps(value)
