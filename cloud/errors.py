"""Errors of a cloud's API, in one line each."""

from __future__ import annotations

from storage.errors import SurroundingsError

EXTRA = "vertex"


class CloudError(SurroundingsError):
    """Something that a cloud refused, or did not answer.

    Attributes:
      status: HTTP status of the response; 0 if there was none.
      unsure: Whether the request may have been carried out nevertheless.
      passing: Whether the same request may succeed later.
    """

    def __init__(
        self, message: str, *, status: int = 0, unsure: bool = False, passing: bool = False
    ) -> None:
        super().__init__(message)
        self.status = status
        self.unsure = unsure
        self.passing = passing


def missing_library(error: ImportError) -> CloudError:
    """The error for a library that is not installed."""
    return CloudError(
        f"{error.name or error} is not installed, which Vertex AI needs: install the extra, "
        f"uv pip install '.[{EXTRA}]'"
    )
