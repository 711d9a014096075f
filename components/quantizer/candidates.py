"""Makes a candidate of a network for each mode: a SavedModel and a TFLite model."""

import tempfile
from dataclasses import dataclass

import numpy as np
import tensorflow_transform as tft
import tf_keras

from components.quantizer.conversion import Converter
from components.quantizer.fake_quant import emulate_int8
from ml.examples import Columns
from ml.fit import FitSettings, fine_tune
from ml.networks import SaveFn, clone
from ml.predictors import TFLitePredictor
from ml.tasks import REGRESSION

EMULATED = ("int8", "qat", "pqat")
FINE_TUNED = ("qat", "pqat")
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
      storage: Why it is stored so.
    """

    saved_model: str
    tflite: bytes
    sparse: bool
    storage: str


@dataclass(frozen=True)
class CandidateMaker:
    """Makes candidates in a folder."""

    folder: str
    graph_uri: str
    save: SaveFn
    signature: str
    settings: FitSettings
    targets: np.ndarray | None
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
        if mode in FINE_TUNED:
            fine_tune(network, train, self.settings, self.targets)
        path = tempfile.mkdtemp(dir=self.folder)
        graph = tft.TFTransformOutput(self.graph_uri)
        self.save(network, graph, path)
        options = {
            "float16": mode == "float16",
            "quantize": mode in ("dynamic_range", *EMULATED),
        }
        converter = Converter(path, self.signature, tempfile.mkdtemp(dir=self.folder))
        content = converter.convert(**options, sparse=False)
        TFLitePredictor(content).check_inputs(
            [feature.name for feature in graph.raw_metadata.schema.feature]
        )
        if not self.store_sparse or mode == "none":
            return Candidate(path, content, sparse=False, storage="with its zeros, as configured")
        smaller = converter.convert(**options, sparse=True)
        if len(smaller) >= len(content):
            why = "with its zeros: no layer has so many that leaving them out is smaller"
            return Candidate(path, content, sparse=False, storage=why)
        if problem := self._problem(content, smaller):
            size = f"{len(content):,} bytes instead of {len(smaller):,}"
            why = f"with its zeros ({size}): without them {problem}"
            return Candidate(path, content, sparse=False, storage=why)
        return Candidate(path, smaller, sparse=True, storage="without its zeros")

    def _problem(self, content: bytes, other: bytes) -> str:
        """What is wrong with a TFLite model with sparse storage; "" if it predicts the same.

        LiteRT from 2.1.5 on cannot run int8 weights that are stored sparse. Where enough blocks of
        16 inputs (4 in float) are zero, TensorFlow's converter stores a layer in blocks, wrongly if
        its width is no multiple of them.
        """
        expected = TFLitePredictor(content).predict(self.probe)
        try:
            predictions = TFLitePredictor(other).predict(self.probe)
        except RuntimeError:
            return "the installed interpreter cannot run it"
        unit = float(np.std(expected)) if self.settings.task.kind == REGRESSION else 1.0
        if np.allclose(predictions, expected, rtol=1e-5, atol=_ROUNDING * unit):
            return ""
        return f"predictions are up to {np.abs(predictions - expected).max():.2g} off"
