"""A layer that counts how often it is traced in training."""

from __future__ import annotations

from typing import Any, ClassVar

import tf_keras


@tf_keras.saving.register_keras_serializable("tests.counting")
class Counting(tf_keras.layers.Layer):
    """Passes its input on.

    Attributes:
      traced: Whether each call of its code was for training, of all such layers.
    """

    traced: ClassVar[list[bool]] = []

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        self.traced.append(bool(training))
        return inputs + 0.0
