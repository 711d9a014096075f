"""Makes a candidate of a network for each mode: a SavedModel and a TFLite model."""

import tempfile
from dataclasses import dataclass

import numpy as np
import tensorflow_transform as tft
import tf_keras

from components.quantizer.conversion import convert
from components.quantizer.fake_quant import emulate_int8
from ml.examples import Columns
from ml.fit import FitSettings, fine_tune
from ml.networks import SaveFn, clone
from ml.predictors import TFLitePredictor
from ml.tasks import REGRESSION

EMULATED = ("int8", "qat", "pqat")
# Rows on which dense and sparse storage are compared, and the largest difference of predictions: of
# probabilities, or of the numbers of a regression in their standard deviations.
PROBE_ROWS = 256
_ROUNDING = 0.01


@dataclass(frozen=True)
class Candidate:
    """A network in both formats.

    Attributes:
      saved_model: Folder of the SavedModel.
      tflite: The TFLite model.
      sparse: Whether the TFLite model is stored without its zeros.
    """

    saved_model: str
    tflite: bytes
    sparse: bool


@dataclass(frozen=True)
class CandidateMaker:
    """Makes candidates in a folder."""

    folder: str
    graph_uri: str
    save: SaveFn
    signature: str
    settings: FitSettings
    weight_bits: int
    store_sparse: bool
    probe: np.ndarray

    def make(
        self, mode: str, network: tf_keras.Model, representative: Columns, train: Columns
    ) -> Candidate:
        """Quantizes a network in one mode and converts it.

        Raises:
          UserError: If the TFLite model has an input that is no feature of the raw examples.
        """
        if mode in EMULATED:
            network = emulate_int8(
                network,
                representative,
                weight_bits=self.weight_bits,
                keep_zeros=mode == "pqat",
            )
        else:
            network = clone(network)  # Saving attaches objects to it.
        if mode in ("qat", "pqat"):
            fine_tune(network, train, self.settings)
        path = tempfile.mkdtemp(dir=self.folder)
        graph = tft.TFTransformOutput(self.graph_uri)
        self.save(network, graph, path)
        options = {
            "float16": mode == "float16",
            "quantize": mode in ("dynamic_range", *EMULATED),
        }
        content = convert(path, self.signature, **options, sparse=False)
        TFLitePredictor(content).check_inputs(
            [feature.name for feature in graph.raw_metadata.schema.feature]
        )
        if self.store_sparse and mode != "none":
            smaller = convert(path, self.signature, **options, sparse=True)
            if len(smaller) < len(content) and self._agree(content, smaller):
                return Candidate(path, smaller, sparse=True)
        return Candidate(path, content, sparse=False)

    def _agree(self, content: bytes, other: bytes) -> bool:
        """Whether a TFLite model with sparse storage runs here and predicts the same.

        LiteRT from 2.1.5 on cannot run int8 weights that are stored sparse, and TensorFlow's
        converter loses the last inputs of a layer whose width is no multiple of the block.
        """
        expected = TFLitePredictor(content).predict(self.probe)
        try:
            predictions = TFLitePredictor(other).predict(self.probe)
        except RuntimeError:
            return False
        unit = float(np.std(expected)) if self.settings.task.kind == REGRESSION else 1.0
        return np.allclose(predictions, expected, rtol=1e-5, atol=_ROUNDING * unit)
