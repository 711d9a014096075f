"""Digests of values, to compare them."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np


def digest(value: Any) -> str:
    """Digest of bytes, or of nested lists and tuples of values with a distinct `repr`."""
    content = value if isinstance(value, bytes) else repr(value).encode()
    return hashlib.sha256(content).hexdigest()


def array_digest(value: np.ndarray) -> str:
    """Digest of type, shape and values of an array."""
    content = repr(value.tolist()).encode() if value.dtype == object else value.tobytes()
    return digest((str(value.dtype), value.shape, digest(content)))


def proto_bytes(message: Any) -> bytes:
    """A protocol buffer, serialized deterministically."""
    content: bytes = message.SerializeToString(deterministic=True)
    return content
