"""The connection of a pipeline to ML Metadata."""

from __future__ import annotations

from typing import Any

from tfx import v1 as tfx


def connect(path: str | None) -> Any:
    """The connection to the SQLite file of ML Metadata; None if the orchestrator has its own."""
    return tfx.orchestration.metadata.sqlite_metadata_connection_config(path) if path else None
