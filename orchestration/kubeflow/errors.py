"""Errors of Kubeflow Pipelines."""

from __future__ import annotations

from collections.abc import Iterable

from storage.errors import ApiError


class KubeflowError(ApiError):
    """Something that Kubeflow Pipelines refused, or that it would refuse."""

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
