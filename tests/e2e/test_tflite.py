"""The TFLite model: it takes raw features, needs no TensorFlow, and predicts as the SavedModel."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from components.quantizer.component import Quantizer
from ml.predictors import TFLitePredictor, load_predictor
from pipeline.config import load_config
from pipeline.model import SAVE_FN, Model
from storage.names import RAW_SIGNATURE, TFLITE_MODEL
from tests.components.parameters import DEFAULTS
from tests.conftest import PushedRun, make_artifacts
from tests.e2e.test_signatures import STRANGE, make_strange
from tests.trips.features import RAW_FEATURES

MODEL = Model.load(load_config())
PROBABILITY = MODEL.prediction

# How far a prediction may be from the SavedModel's. The run's own mode is int8, which emulates the
# int8 kernels there, so that only roundings differ; dynamic_range quantizes activations in TFLite
# alone, float16 also rounds the constants of the transformation. All modes are in
# tests/components/test_quantizer.py.
TOLERANCE = {"float16": 5e-3, "dynamic_range": 0.05, "int8": 0.02}

# What a device does: it has ai-edge-litert and numpy, and nothing of TensorFlow.
ON_A_DEVICE = """
import json, sys

class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tensorflow", "tf_keras", "keras", "tensorflow_transform", "tfx"):
            raise ImportError(f"{name} is not on this device")

sys.meta_path.insert(0, Forbidden())
import numpy as np
from ai_edge_litert.interpreter import Interpreter

columns = np.load(sys.argv[2], allow_pickle=True)
model = Interpreter(sys.argv[1]).get_signature_runner("raw_features")
predictions = model(**{name: columns[name] for name in columns.files})
np.save(sys.argv[3], predictions["probability"])
assert not {"tensorflow", "tfx"} & set(sys.modules)
"""


@pytest.fixture(scope="module")
def examples(pushed: PushedRun) -> np.ndarray:
    """Every row of the test month, and rows that no month has."""
    folder = pushed.artifact("SpanExampleGen", "examples") / "Split-test"
    files = [str(path) for path in sorted(folder.iterdir())]
    real = list(tf.data.TFRecordDataset(files, "GZIP").as_numpy_iterator())
    return np.array(real + [make_strange(real[0], **change) for change in STRANGE], object)


@pytest.fixture(scope="module")
def columns(examples: np.ndarray) -> dict[str, np.ndarray]:
    """The rows as a device has them: a value a row, NaN or "" where it is absent."""
    kinds = {
        "company": tf.string,
        "origin": tf.string,
        "dest": tf.string,
        **dict.fromkeys(("day_of_week", "sched_dep_time", "sched_arr_time"), tf.int64),
    }
    specs = {}
    for name in RAW_FEATURES:
        kind = kinds.get(name, tf.float32)
        absent = {tf.string: "", tf.int64: 0, tf.float32: math.nan}[kind]
        specs[name] = tf.io.FixedLenFeature([], kind, absent)
    parsed = tf.io.parse_example(examples, specs)
    return {name: column.numpy() for name, column in parsed.items()}


def test_tflite_model_without_tensorflow_predicts_as_the_saved_model(
    pushed: PushedRun, columns: dict[str, np.ndarray], tmp_path: Path
) -> None:
    np.savez(tmp_path / "columns.npz", **columns)
    done = subprocess.run(
        [
            *(sys.executable, "-c", ON_A_DEVICE, str(pushed.version / TFLITE_MODEL)),
            *(str(tmp_path / "columns.npz"), str(tmp_path / "predictions.npy")),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    on_device = np.load(tmp_path / "predictions.npy")
    server = tf.saved_model.load(str(pushed.version)).signatures[RAW_SIGNATURE]
    on_server = server(**{name: tf.constant(column) for name, column in columns.items()})
    np.testing.assert_allclose(on_device, on_server["probability"].numpy(), atol=TOLERANCE["int8"])
    assert on_device.std() > 0.02


@pytest.mark.parametrize("mode", TOLERANCE)
def test_tflite_model_agrees_with_the_saved_model_within_the_tolerance_of_the_mode(
    pushed: PushedRun, examples: np.ndarray, tmp_path: Path, mode: str
) -> None:
    folder = pushed.version if mode == "int8" else quantize(pushed, tmp_path, mode)
    tflite = load_predictor(str(folder)).predict(examples)
    server = load_predictor(str(folder), prefer_tflite=False).predict(examples)
    assert tflite.shape == server.shape == (len(examples), 1)
    np.testing.assert_allclose(tflite, server, atol=TOLERANCE[mode])
    assert np.isfinite(tflite).all()


def quantize(pushed: PushedRun, work: Path, mode: str) -> Path:
    """Quantizes the pruned model of the run in another mode; returns the folder of both formats."""
    inputs = {
        "model": pushed.artifact("Pruner", "pruned_model"),
        "float_model": pushed.artifact("Trainer", "model"),
        "examples": pushed.artifact("SpanExampleGen", "examples"),
        "transformed_examples": pushed.artifact("Transform", "transformed_examples"),
        "transform_graph": pushed.artifact("Transform", "transform_graph"),
    }
    given, outputs = make_artifacts(Quantizer, inputs, work)
    parameters = {
        "save_fn": SAVE_FN,
        **DEFAULTS["Quantizer"],
        "custom_config": json.dumps(MODEL.custom_config),
        "task": MODEL.task.to_json(),
        "mode": mode,
        "representative_rows": 500,
    }
    Quantizer.EXECUTOR_SPEC.executor_class().Do(given, outputs, parameters)
    return work / "quantized_model" / "Format-Serving"


def test_tflite_model_needs_only_built_in_operators(pushed: PushedRun) -> None:
    predictor = TFLitePredictor((pushed.version / TFLITE_MODEL).read_bytes())
    operators = {detail["op_name"] for detail in predictor.interpreter._get_ops_details()}
    assert "FULLY_CONNECTED" in operators
    assert not [name for name in operators if name.startswith(("Flex", "Custom"))]


def test_tflite_model_predicts_one_row_as_many(pushed: PushedRun, examples: np.ndarray) -> None:
    predictor = load_predictor(str(pushed.version))
    together = predictor.predict(examples[-40:])
    alone = np.concatenate([predictor.predict(examples[i : i + 1]) for i in range(-40, -1)])
    np.testing.assert_allclose(together[:-1], alone, atol=1e-6)


def test_tflite_model_tensors_have_the_names_of_the_features(pushed: PushedRun) -> None:
    """TensorFlow Serving finds tensors of a TFLite model by name, not by signature."""
    content = (
        pushed.artifact("Quantizer", "quantized_model") / "Format-Serving" / TFLITE_MODEL
    ).read_bytes()
    interpreter = tf.lite.Interpreter(model_content=content)
    assert {d["name"] for d in interpreter.get_input_details()} == set(RAW_FEATURES)
    assert {d["name"] for d in interpreter.get_output_details()} == {PROBABILITY}
