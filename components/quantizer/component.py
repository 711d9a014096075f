"""Quantizer: puts a TFLite model beside the SavedModel, in the form that costs least."""

import dataclasses
import json
import math
import os
import tempfile
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
import tensorflow_transform as tft
import tf_keras
from tfx import v1 as tfx

from components.quantizer.conversion import convert
from components.quantizer.fake_quant import check_quantizable, check_representative, emulate_int8
from components.quantizer.measurement import Measurement, measure
from components.quantizer.trade_off import plot_trade_off
from ml import progress
from ml.artifacts import CompressionReport, serving_model_uri, split_files
from ml.keras_setup import skip_autograph_of_keras
from ml.networks import (
    Columns,
    FitSettings,
    SaveFn,
    check_keys,
    clone,
    fine_tune,
    load_function,
    load_network,
    parse_names,
    read_columns,
    require,
    select_inputs,
)
from ml.predictors import TFLitePredictor
from storage.errors import UserError
from storage.names import TFLITE_MODEL
from storage.tfrecords import read_records
from storage.uris import copy_tree

MODES = ("none", "float16", "dynamic_range", "int8", "qat", "pqat")
_ALL_MODES = json.dumps(MODES)
POLICIES = {"smallest": "gzip_bytes", "fastest": "p50_ms"}
_EMULATED = ("int8", "qat", "pqat")
# Rows of the split `eval` that candidates are measured on, at most.
_EVALUATION_ROWS = 20_000
# Rows on which two ways to store a model are compared, and how far their answers may be apart.
_PROBE_ROWS = 256
_ROUNDING = 0.01


@tfx.dsl.components.component
def Quantizer(
    model: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Model],
    float_model: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Model],
    examples: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Examples],
    transformed_examples: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Examples],
    transform_graph: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.TransformGraph],
    quantized_model: tfx.dsl.components.OutputArtifact[tfx.types.standard_artifacts.Model],
    report: tfx.dsl.components.OutputArtifact[CompressionReport],
    save_fn: tfx.dsl.components.Parameter[str],
    label_key: tfx.dsl.components.Parameter[str],
    weight_key: tfx.dsl.components.Parameter[str] = "",
    loss: tfx.dsl.components.Parameter[str] = "binary_crossentropy",
    signature: tfx.dsl.components.Parameter[str] = "raw_features",
    mode: tfx.dsl.components.Parameter[str] = "int8",
    auto_modes: tfx.dsl.components.Parameter[str] = _ALL_MODES,
    policy: tfx.dsl.components.Parameter[str] = "smallest",
    max_auc_loss: tfx.dsl.components.Parameter[float] = 0.002,
    weight_bits: tfx.dsl.components.Parameter[int] = 8,
    sparse: tfx.dsl.components.Parameter[int] = 1,
    representative_rows: tfx.dsl.components.Parameter[int] = 2000,
    epochs: tfx.dsl.components.Parameter[int] = 1,
    batch_size: tfx.dsl.components.Parameter[int] = 1024,
    learning_rate: tfx.dsl.components.Parameter[float] = 1e-4,
    seed: tfx.dsl.components.Parameter[int] = 7,
) -> None:
    """Converts a `tf_keras` model to TFLite, quantized in one mode or in the best of several.

    The TFLite model is converted from the SavedModel beside it, so that both answer alike: in the
    modes `int8`, `qat` and `pqat` the network in the SavedModel emulates the int8 kernels. It takes
    the inputs of `signature` and needs TFLite's built-in operators alone.

    Modes:
      - `none`: float32.
      - `float16`: weights in 16 bits.
      - `dynamic_range`: weights in 8 bits, activations float between operators.
      - `int8`: weights and activations of dense and convolution layers in 8 bits; the ranges of
        activations come from a representative dataset of training examples.
      - `qat`: the same after fine-tuning with the rounding in place.
      - `pqat`: the same, with the weights that are zero kept at zero.
      - `auto`: converts in every mode of `auto_modes`, measures each on `eval`, and takes the
        smallest or fastest whose AUC is at most `max_auc_loss` below that of `float_model`; float
        if there is none.

    Args:
      model: The model to quantize: a pruned one, or a trained one.
      float_model: The trained model that it is compared with.
      examples: Raw examples with the split `eval`.
      transformed_examples: Transformed examples with the split `train`.
      transform_graph: The transformation between them.
      quantized_model: Component `outputs` contains: the SavedModel and, in its folder,
        `model.tflite`.
      report: Component `outputs` contains: mode chosen and why, and the trade-off: a row of
        measurements per mode, also as `trade_off.png`.
      save_fn: Import path of the function `(network, transform graph, path)` that saves a network
        with its serving signatures.
      label_key: Feature that is the label.
      weight_key: Feature that says how much a row counts; empty if all count the same.
      loss: Name of the Keras loss to fine-tune with.
      signature: Signature of the SavedModel that the TFLite model has.
      mode: One of the modes.
      auto_modes: JSON list of the modes that `auto` chooses from.
      policy: "smallest" (after gzip) or "fastest" (median time of one row).
      max_auc_loss: Most that `auto` may lose in AUC on `eval`.
      weight_bits: How many of its 8 bits a weight uses in the modes `int8`, `qat` and `pqat`, 5 to
        8; with fewer the file compresses better.
      sparse: Whether to store weights that are mostly zero without the zeros (1 or 0), where that
        is smaller and the installed interpreter gives the same answers.
      representative_rows: Training examples in the representative dataset.
      epochs: Passes over `train` in `qat` and `pqat`.
      batch_size: Rows per step.
      learning_rate: Adam's learning rate at the start, from which it falls along a cosine to 0.
      seed: Seed of all random choices.

    Raises:
      UserError: Naming the parameter that is not allowed, the layer that cannot be quantized, the
        model that is not `tf_keras`, what is wrong with the representative dataset, or the operator
        that TFLite lacks.
    """
    skip_autograph_of_keras()
    settings = FitSettings(label_key, weight_key, loss, epochs, batch_size, learning_rate, seed)
    settings.check()
    modes = check_modes(mode, auto_modes, policy, max_auc_loss)
    require(5 <= weight_bits <= 8, "weight_bits", weight_bits, "5 to 8")
    require(representative_rows >= 1, "representative_rows", representative_rows, "1 or more")
    save = load_function(save_fn)
    network = load_network(model)
    schema = tft.TFTransformOutput(transform_graph.uri).transformed_metadata.schema
    train: Columns = {}
    if any(mode in _EMULATED for mode in modes):
        check_quantizable(network)
        train = read_columns(transformed_examples, "train", schema)
        check_keys(train, settings)
    rows = np.random.default_rng(seed).permutation(len(next(iter(train.values()), ())))
    representative = {
        name: column[rows[:representative_rows]]
        for name, column in (select_inputs(network, train) if train else {}).items()
    }
    check_representative(select_inputs(network, train) if train else {})
    serialized, labels = _read_examples(examples, label_key)
    with tempfile.TemporaryDirectory() as folder:
        maker = _Maker(
            folder=folder,
            graph_uri=transform_graph.uri,
            save=save,
            signature=signature,
            settings=settings,
            weight_bits=weight_bits,
            store_sparse=bool(sparse),
            probe=serialized[:_PROBE_ROWS],
        )
        progress.report("float model")
        baseline = maker.make("none", load_network(float_model), {}, {})
        reference = measure(baseline.tflite, serialized, labels)
        candidates = {}
        for name in modes:
            progress.report(f"mode {name}")
            candidates[name] = maker.make(name, network, representative, train)
        measured = {
            name: measure(candidate.tflite, serialized, labels)
            for name, candidate in candidates.items()
        }
        chosen, why = choose(measured, reference, mode, policy, max_auc_loss)
        _write(quantized_model, candidates[chosen])
    report.write(
        {
            "mode": chosen,
            "why": why,
            "float": dataclasses.asdict(reference),
            "modes": {
                name: dataclasses.asdict(result) | {"stored_sparse": candidates[name].sparse}
                for name, result in measured.items()
            },
        }
    )
    plot_trade_off(os.path.join(report.uri, "trade_off.png"), reference, measured, chosen)


def check_modes(mode: str, auto_modes: str, policy: str, max_auc_loss: float) -> list[str]:
    """Checks how to quantize; see the parameters of `Quantizer`.

    Returns:
      The modes to convert in; `none` is among those that `auto` falls back to.

    Raises:
      UserError: Naming the parameter, its value and what is allowed.
    """
    require(mode in (*MODES, "auto"), "mode", mode, f"{', '.join(MODES)} or auto")
    require(policy in POLICIES, "policy", policy, " or ".join(POLICIES))
    require(0 <= max_auc_loss <= 1, "max_auc_loss", max_auc_loss, "0 to 1")
    if mode != "auto":
        return [mode]
    names = parse_names("auto_modes", auto_modes)
    known = bool(names) and all(name in MODES for name in names)
    require(known, "auto_modes", auto_modes, f"a JSON list of some of {', '.join(MODES)}")
    return list(dict.fromkeys(["none", *names]))


def choose(
    measured: dict[str, Measurement],
    reference: Measurement,
    mode: str,
    policy: str,
    max_auc_loss: float,
) -> tuple[str, str]:
    """The mode to ship, and why.

    Args:
      measured: Measurements by mode; `none` among them if `mode` is `auto`.
      reference: Those of the float model.
      mode: The mode asked for.
      policy: "smallest" or "fastest".
      max_auc_loss: Most that may be lost in AUC against `reference`.

    Returns:
      The mode and a sentence.
    """
    if mode != "auto":
        return mode, f"{mode} was asked for"
    lost = {
        # An AUC that cannot be measured proves nothing.
        name: math.inf
        if reference.auc is None or result.auc is None
        else reference.auc - result.auc
        for name, result in measured.items()
        if name != "none"
    }
    allowed = [name for name, loss in lost.items() if loss <= max_auc_loss]
    if not allowed:
        losses = ", ".join(f"{name} {loss:.4f}" for name, loss in lost.items())
        return "none", f"float: every mode loses more than {max_auc_loss:g} in AUC ({losses})"
    best = min(allowed, key=lambda name: getattr(measured[name], POLICIES[policy]))
    return best, f"{policy} of {len(allowed)} modes that lose at most {max_auc_loss:g} in AUC"


@dataclass(frozen=True)
class _Candidate:
    """A network in both forms.

    Attributes:
      saved_model: Folder of the SavedModel.
      tflite: The TFLite model.
      sparse: Whether it is stored without its zeros.
    """

    saved_model: str
    tflite: bytes
    sparse: bool


@dataclass(frozen=True)
class _Maker:
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
    ) -> _Candidate:
        """Quantizes a network in one mode and converts it."""
        if mode in _EMULATED:
            network = emulate_int8(
                network,
                representative,
                weight_bits=self.weight_bits,
                keep_zeros=mode == "pqat",
            )
        else:
            network = clone(network)  # Saving attaches things to it.
        if mode in ("qat", "pqat"):
            fine_tune(network, train, self.settings)
        path = tempfile.mkdtemp(dir=self.folder)
        self.save(network, tft.TFTransformOutput(self.graph_uri), path)
        options = {
            "float16": mode == "float16",
            "quantize": mode in ("dynamic_range", *_EMULATED),
        }
        content = convert(path, self.signature, **options, sparse=False)
        if self.store_sparse and mode != "none":
            smaller = convert(path, self.signature, **options, sparse=True)
            if len(smaller) < len(content) and self._agree(content, smaller):
                return _Candidate(path, smaller, sparse=True)
        return _Candidate(path, content, sparse=False)

    def _agree(self, content: bytes, other: bytes) -> bool:
        """Whether another form of a model runs here and gives its answers.

        LiteRT from 2.1.5 on cannot run int8 weights that are stored sparse, and TensorFlow's
        converter loses the last inputs of a layer whose width is no multiple of the block.
        """
        expected = TFLitePredictor(content).predict(self.probe)
        try:
            answers = TFLitePredictor(other).predict(self.probe)
        except RuntimeError:
            return False
        return np.allclose(answers, expected, atol=_ROUNDING)


def _read_examples(examples: tfx.dsl.Artifact, label_key: str) -> tuple[np.ndarray, np.ndarray]:
    """Serialized examples of the split `eval`, bytes [rows], and their labels, int64 [rows]."""
    files = split_files(examples, "eval")
    dataset = read_records(files).take(_EVALUATION_ROWS)
    serialized = np.array(list(dataset.as_numpy_iterator()), object)
    if not len(serialized):
        raise UserError("the split 'eval' is empty; there is nothing to measure on")
    spec = {label_key: tf.io.FixedLenFeature([], tf.int64)}
    try:
        return serialized, tf.io.parse_example(serialized, spec)[label_key].numpy()
    except tf.errors.InvalidArgumentError as error:
        raise UserError(
            f"label_key = {label_key!r}: not an integer in every raw example ({error.message})"
        ) from error


def _write(model: tfx.dsl.Artifact, candidate: _Candidate) -> None:
    """Writes both forms to a `Model` artifact."""
    copy_tree(candidate.saved_model, serving_model_uri(model))
    path = os.path.join(serving_model_uri(model), TFLITE_MODEL)
    with tfx.dsl.io.fileio.open(path, "wb") as file:
        file.write(candidate.tflite)
