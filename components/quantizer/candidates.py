"""Makes a candidate of a network for each mode: a SavedModel and a TFLite model."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_transform as tft
import tf_keras
from tfx import v1 as tfx

from components.quantizer.conversion import convert
from components.quantizer.fake_quant import emulate_int8
from ml.artifacts import serving_model_uri
from ml.examples import Columns
from ml.fit import FitSettings, fine_tune
from ml.networks import SaveFn, clone, load_network
from ml.predictors import TFLitePredictor
from ml.signature_inputs import saved_signatures

EMULATED = ("int8", "qat", "pqat")
FINE_TUNED = ("qat", "pqat")


@dataclass(frozen=True)
class Candidate:
    """A network in both formats.

    Attributes:
      saved_model: Folder of the SavedModel.
      tflite: The TFLite model.
      loaded: The SavedModel, loaded.
    """

    saved_model: str
    tflite: bytes
    loaded: Any


@dataclass(frozen=True)
class CandidateMaker:
    """Makes candidates in a folder.

    Attributes:
      folder: The folder.
      graph_uri: Where the transformation is.
      save: Saves a network.
      signature: Signature of the TFLite model.
      settings: How to fine-tune.
      targets: Gives what is learned in fine-tuning; see `ml.distillation.teach`.
      weight_bits: See `Quantizer`.
    """

    folder: str
    graph_uri: str
    save: SaveFn
    signature: str
    settings: FitSettings
    targets: Callable[[], np.ndarray | None]
    weight_bits: int

    def convert_float(self, model: tfx.dsl.Artifact) -> Candidate:
        """The trained model in both formats.

        Its SavedModel is converted as it is; one without the signature is saved again first.

        Raises:
          UserError: See `make`.
        """
        path = serving_model_uri(model)
        if self.signature in saved_signatures(path):
            return self._convert("none", path)
        return self.make("none", load_network(model), {}, {})

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
            fine_tune(network, train, self.settings, self.targets())
        path = tempfile.mkdtemp(dir=self.folder)
        self.save(network, tft.TFTransformOutput(self.graph_uri), path)
        return self._convert(mode, path)

    def _convert(self, mode: str, path: str) -> Candidate:
        loaded = tf.saved_model.load(path)
        content = convert(
            path,
            self.signature,
            float16=mode == "float16",
            quantize=mode in ("dynamic_range", *EMULATED),
            loaded=loaded,
        )
        graph = tft.TFTransformOutput(self.graph_uri)
        TFLitePredictor(content).check_inputs(
            [feature.name for feature in graph.raw_metadata.schema.feature]
        )
        return Candidate(path, content, loaded)
