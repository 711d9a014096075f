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

EMULATED = ("int8", "qat", "pqat")
FINE_TUNED = ("qat", "pqat")


@dataclass(frozen=True)
class Candidate:
    """A network in both formats.

    Attributes:
      saved_model: Folder of the SavedModel.
      tflite: The TFLite model.
    """

    saved_model: str
    tflite: bytes


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
        content = convert(
            path,
            self.signature,
            float16=mode == "float16",
            quantize=mode in ("dynamic_range", *EMULATED),
        )
        TFLitePredictor(content).check_inputs(
            [feature.name for feature in graph.raw_metadata.schema.feature]
        )
        return Candidate(path, content)
