"""Loads a SavedModel or TFLite model to predict serialized examples."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection
from typing import Any, Protocol

import numpy as np
import tensorflow as tf
from tfx import v1 as tfx

from ml.parsing import check_known, parse_examples
from ml.signature_inputs import read_input_names
from ml.tflite_runner import TFLiteRunner
from storage.errors import UserError
from storage.names import DEFAULT_SIGNATURE, RAW_SIGNATURE, TFLITE_MODEL

_READER = "the TFLite model"


class Predictor(Protocol):
    """A loaded model."""

    def predict(self, examples: np.ndarray) -> np.ndarray:
        """Predicts serialized tf.Examples, bytes [batch]; returns float32 [batch, outputs]."""
        ...


class FeaturePredictor(Protocol):
    """A loaded model that takes raw features."""

    def parse(self, examples: np.ndarray) -> dict[str, np.ndarray]:
        """Parses serialized tf.Examples, bytes [batch], into features, each [batch, ...]."""
        ...

    def predict_features(self, features: dict[str, np.ndarray]) -> np.ndarray:
        """Predicts features by name, each [batch, ...]; returns float32 [batch, outputs]."""
        ...


def load_predictor(uri: str, *, prefer_tflite: bool = True) -> Predictor:
    """Loads a model.

    Args:
      uri: Folder of a SavedModel, with or without a `model.tflite`.
      prefer_tflite: Whether to load the TFLite model if there is one.

    Returns:
      The loaded model.
    """
    content = _read_tflite(uri) if prefer_tflite else None
    return SavedModelPredictor(uri) if content is None else TFLitePredictor(content)


def load_feature_predictor(uri: str) -> FeaturePredictor:
    """Loads the TFLite model of a folder if there is one that loads, else its SavedModel.

    Raises:
      UserError: If the model has no signature of raw features, or more than one output.
    """
    content = _read_tflite(uri) if can_load_tflite(uri) else None
    return SavedModelFeaturePredictor(uri) if content is None else TFLitePredictor(content)


def check_model(uri: str, features: Collection[str]) -> None:
    """Checks that the TFLite model in a folder, if there is one, reads nothing but features.

    Args:
      uri: Folder of a SavedModel, with or without a `model.tflite`.
      features: Names of the features that the schema of the examples has.

    Raises:
      UserError: If it has an input that is no feature: it would be absent in every example.
    """
    content = _read_tflite(uri)
    if content is not None:
        TFLitePredictor(content).check_inputs(features)


def can_load_tflite(uri: str) -> bool:
    """Whether the interpreter loads the `model.tflite` in a folder, if there is one.

    That of a version that an earlier release pushed may have operators that the interpreter lacks.
    """
    try:
        if (content := _read_tflite(uri)) is not None:
            TFLitePredictor(content)
    except UserError as error:
        logging.warning("%s: %s; its SavedModel is taken instead", uri, error)
        return False
    return True


def _read_tflite(uri: str) -> bytes | None:
    path = os.path.join(uri, TFLITE_MODEL)
    if not tfx.dsl.io.fileio.exists(path):
        return None
    with tfx.dsl.io.fileio.open(path, "rb") as file:
        content: bytes = file.read()
    return content


class SavedModelPredictor:
    """A SavedModel with a signature `serving_default` from serialized examples to one output.

    Args:
      uri: Its folder.
      loaded: What `tf.saved_model.load` made of it, if it is loaded already.
    """

    def __init__(self, uri: str, loaded: Any = None):
        self._model = tf.saved_model.load(uri) if loaded is None else loaded
        self._signature = self._model.signatures[DEFAULT_SIGNATURE]
        (self._input,) = self._signature.structured_input_signature[1]
        outputs = list(self._signature.structured_outputs)
        if len(outputs) != 1:
            raise UserError(
                f"signature {DEFAULT_SIGNATURE} of {uri} has the outputs "
                f"{', '.join(outputs)}; one is needed"
            )
        (self._output,) = outputs

    def predict(self, examples: np.ndarray) -> np.ndarray:
        """See `Predictor`."""
        return np.asarray(self._signature(**{self._input: tf.constant(examples)})[self._output])


class SavedModelFeaturePredictor:
    """The signature `raw_features` of a SavedModel; see `FeaturePredictor`.

    Raises:
      UserError: If there is no such signature, or it has more than one output.
    """

    def __init__(self, uri: str):
        self._model = tf.saved_model.load(uri)
        if RAW_SIGNATURE not in self._model.signatures:
            raise UserError(f"{uri} has no signature {RAW_SIGNATURE}")
        self._signature = self._model.signatures[RAW_SIGNATURE]
        outputs = list(self._signature.structured_outputs)
        if len(outputs) != 1:
            raise UserError(
                f"signature {RAW_SIGNATURE} of {uri} has the outputs {', '.join(outputs)}; one is "
                "needed"
            )
        (self._output,) = outputs
        self._specs = self._signature.structured_input_signature[1]
        self._arguments = {
            name: argument
            for argument, name in read_input_names(uri, RAW_SIGNATURE, self._specs).items()
        }

    def parse(self, examples: np.ndarray) -> dict[str, np.ndarray]:
        """See `FeaturePredictor`.

        Raises:
          DataError: If an example lacks a required feature.
        """
        specs = {name: self._specs[argument] for name, argument in self._arguments.items()}
        inputs = {name: (spec.dtype, spec.shape[1:].as_list()) for name, spec in specs.items()}
        return parse_examples(examples, inputs, "the SavedModel")

    def predict_features(self, features: dict[str, np.ndarray]) -> np.ndarray:
        """See `FeaturePredictor`."""
        tensors = {self._arguments[name]: tf.constant(v) for name, v in features.items()}
        return np.asarray(self._signature(**tensors)[self._output])


class TFLitePredictor(TFLiteRunner):
    """A TFLite model with one signature, fed with serialized examples."""

    def check_inputs(self, features: Collection[str]) -> None:
        """Checks that every input is one of some features; see `check_known`."""
        check_known(self.inputs, features, _READER)

    def predict(self, examples: np.ndarray) -> np.ndarray:
        """See `Predictor`.

        Raises:
          DataError: If an example lacks a required feature.
        """
        return self.predict_features(self.parse(examples))

    def parse(self, examples: np.ndarray) -> dict[str, np.ndarray]:
        """Parses serialized examples into the model's inputs, each [batch, ...]."""
        inputs = {name: (tf.as_dtype(one.dtype), one.shape) for name, one in self.inputs.items()}
        return parse_examples(examples, inputs, _READER)
