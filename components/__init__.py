"""The custom components, and what they share."""

from typing import Any

import ml  # noqa: F401  First: it sets which Keras TensorFlow takes.


def __getattr__(name: str) -> Any:
    """Finds a custom artifact type where its `TYPE_NAME` says, importing TFX only then."""
    if name in ("BaselineReport", "CompressionReport", "Explanations", "MonitoringReport"):
        from ml import artifacts

        return getattr(artifacts, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
