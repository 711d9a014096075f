"""What Kubeflow Pipelines refuses, or would refuse."""

from __future__ import annotations

from collections.abc import Iterable

from storage.errors import UserError

_LONGEST_DETAIL = 400


class KubeflowError(UserError):
    """Something that Kubeflow Pipelines refused, or that it would refuse.

    Attributes:
      status: HTTP status of the answer; 0 if there was none.
      unsure: Whether the request may have been carried out all the same.
      passing: Whether the same request may well succeed later.
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


def one_line(text: str) -> str:
    """A text without line breaks, cut where it is long."""
    line = " ".join(text.split()).rstrip(".")
    return line if len(line) <= _LONGEST_DETAIL else f"{line[:_LONGEST_DETAIL]} …"


def listed(names: Iterable[str]) -> str:
    """Names for a message, in order.

    Examples:
      >>> listed({"b", "a"})
      'a, b'
    """
    return ", ".join(sorted(names))
