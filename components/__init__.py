"""The custom components, and what they share."""

from typing import Any


def __getattr__(name: str) -> Any:
    """Finds the custom artifact type where its `TYPE_NAME` says, importing TFX only then."""
    if name == "CompressionReport":
        from components.artifacts import CompressionReport

        return CompressionReport
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
