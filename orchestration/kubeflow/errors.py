"""Errors of Kubeflow Pipelines."""

from __future__ import annotations

from collections.abc import Iterable

from storage.errors import UserError


class KubeflowError(UserError):
    """Something that Kubeflow Pipelines refused, or that it would refuse.

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

    def but(self, message: str, *, unsure: bool | None = None) -> KubeflowError:
        """The same error with another message."""
        return KubeflowError(
            message,
            status=self.status,
            unsure=self.unsure if unsure is None else unsure,
            passing=self.passing,
        )


def listed(names: Iterable[str]) -> str:
    """Names for a message, in order.

    Examples:
      >>> listed({"b", "a"})
      'a, b'
    """
    return ", ".join(sorted(names))
