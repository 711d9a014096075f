"""The seed of Python's hashes in every process that makes a part of a model.

Python draws it by chance where the variable is not set when an interpreter starts, and the order
of sets follows from it: in TensorFlow Transform and Beam that order reaches the model.
"""

from __future__ import annotations

HASH_SEED_VARIABLE = "PYTHONHASHSEED"
HASH_SEED = "0"
