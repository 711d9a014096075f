"""Runs a SavedModel on arrays of raw features."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from ml.signature_inputs import read_input_names
from ml.tflite_runner import Input
from storage.errors import UserError
from storage.names import RAW_SIGNATURE


class SavedModelRunner:
    """A SavedModel with a signature `raw_features` to one output.

    Args:
      folder: Its folder, which is deleted when the model is no longer used.

    Attributes:
      inputs: Its inputs by name.

    Raises:
      UserError: If it has no such signature.
    """

    def __init__(self, folder: tempfile.TemporaryDirectory[str]):
        self._folder = folder
        self._model = tf.saved_model.load(folder.name)
        if RAW_SIGNATURE not in self._model.signatures:
            raise UserError(
                f"the SavedModel has no signature {RAW_SIGNATURE}; it has "
                f"{', '.join(self._model.signatures)}"
            )
        self._signature = self._model.signatures[RAW_SIGNATURE]
        specs = self._signature.structured_input_signature[1]
        self._names = read_input_names(folder.name, RAW_SIGNATURE, specs)
        self.inputs: Mapping[str, Input] = {
            self._names[argument]: Input(
                np.dtype(np.bytes_ if spec.dtype == tf.string else spec.dtype.as_numpy_dtype),
                tuple(spec.shape[1:]),
            )
            for argument, spec in specs.items()
        }
        outputs = list(self._signature.structured_outputs)
        if len(outputs) != 1:
            raise UserError(f"signature {RAW_SIGNATURE} has the outputs {', '.join(outputs)}")
        (self._output,) = outputs

    def predict_features(self, features: Mapping[str, np.ndarray]) -> np.ndarray:
        """Predicts features by name, each [batch, ...]; returns float32 [batch, outputs]."""
        inputs = {a: tf.constant(features[name]) for a, name in self._names.items()}
        return np.asarray(self._signature(**inputs)[self._output])
