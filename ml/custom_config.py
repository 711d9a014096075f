"""Passes a model's configuration to its functions as `custom_config`, TFX's name for it."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable
from typing import Any


def bind_custom_config(function: Callable[..., Any], custom_config: str) -> Callable[..., Any]:
    """Binds `custom_config` to a function that has a parameter of this name.

    Example:
      >>> def name_of(path, custom_config):
      ...     return path + custom_config["label"]
      >>> bind_custom_config(name_of, '{"label": "tip"}')("trips/")
      'trips/tip'

    Args:
      function: A function of a model.
      custom_config: JSON object.
    """
    if "custom_config" not in inspect.signature(function).parameters:
        return function
    return functools.partial(function, custom_config=json.loads(custom_config))
