"""The versions of Python and of the libraries that a model's bytes depend on."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

_LIBRARIES = (
    "tfx",
    "tensorflow",
    "tf-keras",
    "tensorflow-model-optimization",
    "tensorflow-transform",
    "tensorflow-data-validation",
    "tfx-bsl",
    "ai-edge-litert",
    "apache-beam",
    "flatbuffers",
    "numpy",
    "pandas",
    "protobuf",
    "pyarrow",
)


def installed_versions() -> dict[str, str]:
    """The installed version of each, by name; "" for a library that is not installed."""
    return {"python": platform.python_version(), **{name: _version(name) for name in _LIBRARIES}}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
