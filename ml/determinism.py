"""Makes what a process computes follow from its inputs alone."""

from __future__ import annotations

import tensorflow as tf
import tf_keras


def make_deterministic(seed: int) -> None:
    """Seeds all random choices of this process, and has operators sum in a fixed order.

    Call it before each training: what is drawn then depends on nothing that ran before.

    Args:
      seed: Seed of Python, NumPy and TensorFlow.
    """
    tf_keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
