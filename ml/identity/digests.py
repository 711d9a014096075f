"""Digests that tell whether two things are the same."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np


def digest(value: Any) -> str:
    """Of bytes, or of lists and tuples of what has a `repr` that tells it."""
    content = value if isinstance(value, bytes) else repr(value).encode()
    return hashlib.sha256(content).hexdigest()


def array_digest(value: np.ndarray) -> str:
    """Of the type, shape and values of an array."""
    content = repr(value.tolist()).encode() if value.dtype == object else value.tobytes()
    return digest((str(value.dtype), value.shape, digest(content)))


def proto_bytes(message: Any) -> bytes:
    """A message of protocol buffers, serialized the same way each time."""
    content: bytes = message.SerializeToString(deterministic=True)
    return content
