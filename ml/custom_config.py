"""Hands a model's own functions what its configuration says, by TFX's name for that."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable
from typing import Any


def bind_custom_config(function: Callable[..., Any], custom_config: str) -> Callable[..., Any]:
    """Gives a function its `custom_config`, if it has a parameter of that name.

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
