"""Parameters of nodes: what is not allowed is refused by name, and user code is imported."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from typing import Any

from storage.errors import UserError


def require(condition: bool, name: str, value: Any, allowed: str) -> None:
    """Raises a `UserError` that names a parameter, its value and what is allowed."""
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
    """Imports user code that a parameter names, as in `models.trips.export.save_model`.

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
