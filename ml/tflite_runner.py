"""Runs a TFLite model on arrays. It imports no TensorFlow, which takes seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from storage.errors import UserError
from storage.interpreters import open_interpreter


@dataclass(frozen=True)
class Input:
    """An input of a model.

    Attributes:
      dtype: Type of its values; that of strings is `np.bytes_`.
      shape: Shape of one row: () for a single value.
    """

    dtype: np.dtype
    shape: tuple[int, ...]


class TFLiteRunner:
    """A TFLite model with one signature, from raw features to one output.

    Args:
      content: The model.
      threads: Threads of the interpreter.

    Attributes:
      inputs: Its inputs by name.

    Raises:
      UserError: If the interpreter cannot load the model, or it has more than one signature, or
        output.
    """

    def __init__(self, content: bytes, threads: int = 1):
        try:
            self.interpreter = open_interpreter(content, threads)
        except ValueError as error:
            (reason, *_) = str(error).splitlines() or [""]
            raise UserError(f"the interpreter cannot load the TFLite model: {reason}") from error
        signatures = self.interpreter.get_signature_list()
        if len(signatures) != 1:
            raise UserError(f"a TFLite model with one signature is needed, not {len(signatures)}")
        ((name, parts),) = signatures.items()
        if len(parts["outputs"]) != 1:
            raise UserError(f"a TFLite model with one output is needed, not {parts['outputs']}")
        runner = self.interpreter.get_signature_runner(name)
        details = runner.get_input_details()
        self.inputs: Mapping[str, Input] = {
            name: Input(np.dtype(detail["dtype"]), tuple(detail["shape_signature"][1:].tolist()))
            for name, detail in details.items()
        }
        self._indices = {name: detail["index"] for name, detail in details.items()}
        (output,) = runner.get_output_details().values()
        self._output = output["index"]
        self._shapes: dict[str, tuple[int, ...]] = {}

    def predict_features(self, features: Mapping[str, np.ndarray]) -> np.ndarray:
        """Predicts features by name, each [batch, ...]; returns float32 [batch, outputs]."""
        self.feed(features)
        self.interpreter.invoke()
        return np.asarray(self.interpreter.get_tensor(self._output))

    def feed(self, features: Mapping[str, np.ndarray]) -> None:
        """Copies features by name, each [batch, ...], to the interpreter."""
        shapes = {name: column.shape for name, column in features.items()}
        if shapes != self._shapes:
            for name, shape in shapes.items():
                self.interpreter.resize_tensor_input(self._indices[name], shape)
            self.interpreter.allocate_tensors()
            self._shapes = shapes
        for name, column in features.items():
            self.interpreter.set_tensor(self._indices[name], column)
