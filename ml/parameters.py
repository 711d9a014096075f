"""Checks parameters of nodes, and imports the user code that they name."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from typing import Any

from storage.errors import UserError


def require(condition: bool, name: str, value: Any, allowed: str) -> None:
    """Raises a `UserError` with name, value and what is allowed, unless a condition holds."""
    if not condition:
        raise UserError(f"{name} = {value!r}: allowed is {allowed}")


def parse_names(name: str, text: str) -> list[str]:
    """Reads a parameter that is a JSON list of strings.

    Raises:
      UserError: If it is something else.
    """
    try:
        names = json.loads(text)
    except ValueError:
        names = None
    listed = isinstance(names, list) and all(isinstance(entry, str) for entry in names)
    require(listed, name, text, "a JSON list of strings")
    return names


def load_function(path: str) -> Callable[..., Any]:
    """Imports the function of an import path such as `models.trips.export.save_model`.

    Raises:
      UserError: If there is no such function.
    """
    module, _, name = path.rpartition(".")
    try:
        function = getattr(importlib.import_module(module), name)
        if not callable(function):
            raise TypeError(f"it is a {type(function).__name__}")
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise UserError(f"{path!r} is not the import path of a function: {error}") from error
    return function
