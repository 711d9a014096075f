"""Errors of a cloud's API, in one line each."""

from __future__ import annotations

from storage.errors import ApiError, SurroundingsError

EXTRA = "vertex"


class CloudError(ApiError, SurroundingsError):
    """Something that a cloud refused, or did not answer."""


def missing_library(error: ImportError) -> CloudError:
    """The error for a library that is not installed."""
    return CloudError(
        f"{error.name or error} is not installed, which Vertex AI needs: install the extra, "
        f"uv pip install '.[{EXTRA}]'"
    )
