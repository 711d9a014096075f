"""Packages that TFX imports and seldom needs, imported when something of theirs is used."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

# A third of the time that importing TFX takes: the clients of Google's platforms, and one of
# Kubernetes that compiles a grammar.
_POSTPONED = frozenset({"tfx.v1.extensions", "kubernetes.dynamic"})


def postpone() -> None:
    """Postpones the import of these packages in this process."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name in _POSTPONED else None
        if spec and spec.loader:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(Loader):
    """Loads a module when it is first asked for a name that it does not have.

    `importlib.util.LazyLoader` does so for any name, `__file__` too. For that name `inspect` asks
    each module there is.
    """

    def __init__(self, loader: Loader):
        self._loader = loader
        self._began = False

    def exec_module(self, module: ModuleType) -> None:
        lock, names = threading.RLock(), vars(module)

        def load_and_get(name: str) -> Any:
            if not name.startswith("__"):
                with lock:  # Other threads wait until it is loaded.
                    if not self._began:
                        self._began = True
                        try:
                            self._loader.exec_module(module)
                        except BaseException:
                            self._began = False
                            raise
                if name in names:
                    return names[name]
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

        names["__getattr__"] = load_and_get
