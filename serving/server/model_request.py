"""A request as a version of a model gets it: inputs that fit a signature."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from serving.server import inference
from serving.server.models import Arrays, Served
from serving.server.tensors import check_inputs, count_bytes
from storage.names import DEFAULT_SIGNATURE


class LargeRequest(Exception):
    """A request turned out to be large when it was read."""


@dataclass
class ModelRequest:
    """A request to a version.

    Args:
      served: The version.
      signature: Name of the signature; empty for `serving_default`.
      inputs: Its inputs by name; those with a default may be left out.
      write: Makes the response of the outputs by name.
      outputs: Names of the outputs that are wanted; none named means all.

    Attributes:
      is_logged: Whether it belongs in the request log.

    Raises:
      ServingError: If it does not fit the signature.
    """

    is_logged: ClassVar[bool] = True
    served: Served
    signature: str
    inputs: Arrays
    write: Callable[[Arrays], Any]
    outputs: Sequence[str] = ()

    def __post_init__(self) -> None:
        signature = inference.find_signature(self.served.model, self.signature)
        self.signature = self.signature or DEFAULT_SIGNATURE
        self.inputs = {**signature.defaults, **self.inputs}
        check_inputs(signature, self.inputs)
        self.outputs = inference.choose_outputs(signature, self.outputs)

    @property
    def rows(self) -> int:
        """The most rows that an input has."""
        return count_rows(self.inputs)

    @property
    def bytes(self) -> int:
        """Bytes that its inputs take."""
        return count_bytes(self.inputs)

    @property
    def batch(self) -> object:
        """What requests have in common that may be computed as one batch; its own if none may."""
        shapes = [array.shape for array in self.inputs.values()]
        rows = {shape[0] if shape else 0 for shape in shapes}
        if self.signature not in self.served.model.batched or len(rows) != 1 or 0 in rows:
            return id(self)
        kinds = [(name, array.shape[1:]) for name, array in sorted(self.inputs.items())]
        return id(self.served), self.signature, tuple(self.outputs), tuple(kinds)


# Reads a request: unfolds it to at most so many bytes, or raises `LargeRequest`.
Read = Callable[[int], ModelRequest]


def examples_request(
    method: str,
    served: Served,
    signature: str,
    examples: np.ndarray,
    write: Callable[[Any], Any],
) -> ModelRequest:
    """A request to classify or regress.

    Args:
      method: "classify" or "regress".
      served: The version.
      signature: Name of the signature; empty for `serving_default`.
      examples: Serialized tf.Examples, bytes [batch].
      write: Makes the response of the result.

    Raises:
      ServingError: If the signature does not do that.
    """
    rows = len(examples)
    inputs = {inference.EXAMPLES: examples}
    if method == "classify":
        wanted = inference.classification_outputs(served.model, signature)
        result: Callable[..., Any] = inference.to_classifications
    else:
        wanted = inference.regression_outputs(served.model, signature)
        result = inference.to_regressions
    return ModelRequest(served, signature, inputs, lambda found: write(result(found, rows)), wanted)


def count_rows(arrays: Arrays) -> int:
    """The most rows that an array has."""
    return max([array.shape[0] if array.ndim else 0 for array in arrays.values()], default=0)


def unfolded(request: ModelRequest) -> Read:
    """The `Read` of a request that was read before."""
    return lambda most: request
