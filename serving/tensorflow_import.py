"""Imports TensorFlow for a server: all of it, or its protocol alone, which a TFLite model needs.

All of it takes two seconds, and a third of a gigabyte of memory.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
import types
from typing import Any

_NAME = "tensorflow"
_lock = threading.Lock()


class _Protocol(types.ModuleType):
    """Stands for TensorFlow until all of it is imported: `tensorflow.core` holds its protocol."""


def import_protocol() -> None:
    """Lets `tensorflow.core` be imported without the rest, as long as nothing has imported that."""
    with _lock:
        if _NAME in sys.modules:
            return
        spec = importlib.util.find_spec(_NAME)
        if spec is None:
            raise ModuleNotFoundError(f"No module named {_NAME!r}", name=_NAME)
        package = _Protocol(_NAME)
        package.__path__ = list(spec.submodule_search_locations or ())
        sys.modules[_NAME] = package


def import_tensorflow() -> Any:
    """TensorFlow; imported without Keras, which takes almost as long and which no server needs.

    TensorFlow imports Keras where it is installed, and does without where it is not.
    """
    with _lock:
        if isinstance(sys.modules.get(_NAME), _Protocol):
            del sys.modules[_NAME]
        if _NAME in sys.modules:
            return importlib.import_module(_NAME)
        absent = [name for name in ("keras", "tf_keras") if name not in sys.modules]
        for name in absent:
            sys.modules[name] = None  # type: ignore[assignment]  # As if it were not installed.
        try:
            return importlib.import_module(_NAME)
        finally:
            for name in absent:
                del sys.modules[name]
