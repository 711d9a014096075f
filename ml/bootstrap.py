"""Poisson bootstrap by columns: the weight of each row in each replicate of the data."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from tensorflow.core.example import example_pb2

# Fixed, so that the same rows have the same counts in every run.
_SEED = np.uint64(0x5EED_F11E_77DE_C000)
_STEP = np.uint64(0x9E37_79B9_7F4A_7C15)
_DRAWS_A_WORD = 4  # 16 of 64 bits each.


def poisson_counts(examples: np.ndarray, replicates: int) -> np.ndarray:
    """Draws the count of each row in each replicate from Poisson(1).

    The counts depend only on the content of the row, not on the order of rows, on a runner's
    bundles, or on the order of the features in a serialized example, which protobuf chooses anew
    for each one that it writes. Equal rows have equal counts: they are resampled as one cluster,
    which can make an interval wider but not narrower.

    Chamandy, Muralidharan, Najmi and Naidu, "Estimating Uncertainty for Massive Data
    Streams" (Google, 2012), which is also what TFMA's own `POISSON_BOOTSTRAP` follows.

    Args:
      examples: Serialized examples, bytes [rows].
      replicates: Number of replicates.

    Returns:
      uint8 [rows, replicates].

    Example:
      >>> poisson_counts(np.array([b"", b""], object), 6).shape
      (2, 6)
    """
    words = -(-replicates // _DRAWS_A_WORD)
    with np.errstate(over="ignore"):
        state = pd.util.hash_array(_canonical(examples), categorize=False)[:, None] ^ _SEED
        random = _mix(state + _STEP * np.arange(1, words + 1, dtype=np.uint64))
    draws = np.ascontiguousarray(random).view(np.uint16).reshape(len(examples), -1)
    return _POISSON[draws[:, :replicates]]


def _canonical(examples: np.ndarray) -> np.ndarray:
    """The examples with their features in the order of the names, bytes [rows]."""
    canonical = np.empty(len(examples), object)
    for row, example in enumerate(examples):
        message = example_pb2.Example.FromString(example)
        canonical[row] = message.SerializeToString(deterministic=True)
    return canonical


def _mix(state: np.ndarray) -> np.ndarray:
    """SplitMix64's finalizer (Steele, Lea and Flood, 2014): 64 bits that look random."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58_476D_1CE4_E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D0_49BB_1331_11EB)
    return state ^ (state >> np.uint64(31))


def _poisson_table() -> np.ndarray:
    """The count for each 16-bit number: the inverse of the distribution function."""
    probabilities = [math.exp(-1) / math.factorial(count) for count in range(12)]
    bounds = np.round(np.cumsum(probabilities) * 2**16)
    return np.searchsorted(bounds, np.arange(2**16), side="right").astype(np.uint8)


_POISSON = _poisson_table()
