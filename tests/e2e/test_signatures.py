"""No training/serving skew: every signature answers as the network does on transformed examples."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft
import tf_keras

from pipeline.config import load_config
from tests.conftest import PushedRun
from tests.trips.features import RAW_FEATURES

PROBABILITY = load_config().prediction

Columns = dict[str, np.ndarray]


@pytest.fixture(scope="module", params=[("Trainer", "model"), ("Pruner", "pruned_model")])
def folder(pushed: PushedRun, request: pytest.FixtureRequest) -> Path:
    """A SavedModel whose network can be loaded apart from its signatures."""
    return pushed.artifact(*request.param) / "Format-Serving"


@pytest.fixture(scope="module")
def model(folder: Path) -> tf_keras.Model:
    return tf_keras.models.load_model(str(folder))


@pytest.fixture(scope="module")
def graph(pushed: PushedRun) -> tft.TFTransformOutput:
    return tft.TFTransformOutput(str(pushed.artifact("Transform", "transform_graph")))


@pytest.fixture(scope="module")
def examples(pushed: PushedRun) -> list[bytes]:
    """Every row of the month that the model was judged on, and rows that no month has."""
    folder = pushed.artifact("SpanExampleGen", "examples") / "Split-test"
    files = [str(path) for path in sorted(folder.iterdir())]
    real = list(tf.data.TFRecordDataset(files, "GZIP").as_numpy_iterator())
    return real + [make_strange(real[0], **change) for change in STRANGE]


STRANGE: tuple[dict[str, object], ...] = (
    {"company": b"ZZ"},
    {"dest": b"QQQ", "origin": b"???"},
    {"temp": None, "pressure": None, "wind_dir": None},
    {"wind_speed": 0.0, "wind_dir": None},
    {"temp": 1e30, "visib": -1e30},
    {"precip": math.inf},
    {"sched_dep_time": 0, "sched_arr_time": 2359},
)


def make_strange(example: bytes, **changes: object) -> bytes:
    """An example with some features replaced, or taken away where the change is None."""
    strange = tf.train.Example.FromString(example)
    for name, value in changes.items():
        feature = strange.features.feature[name]
        kind = {bytes: "bytes_list", float: "float_list", int: "int64_list"}.get(type(value))
        if kind is None:
            del strange.features.feature[name]
        else:
            getattr(feature, kind).value[:] = [value]
    return strange.SerializeToString()


@pytest.fixture(scope="module")
def expected(
    model: tf_keras.Model, graph: tft.TFTransformOutput, examples: list[bytes]
) -> np.ndarray:
    """The answers of the trained network on what the transform graph makes of the rows."""
    spec = graph.raw_feature_spec()
    raw = tf.io.parse_example(examples, spec)
    transformed = graph.transform_raw_features(raw)
    inputs = {name: transformed[name] for name in model.input_names}
    return np.asarray(model.predict(inputs, batch_size=4096, verbose=0))


def test_serialized_examples_get_the_networks_answers(
    folder: Path, examples: list[bytes], expected: np.ndarray
) -> None:
    serve = tf.saved_model.load(str(folder)).signatures["serving_default"]
    answers = serve(examples=tf.constant(examples))[PROBABILITY].numpy()
    assert np.isfinite(answers).all()
    np.testing.assert_allclose(answers, expected, atol=1e-6)


def test_raw_features_get_the_networks_answers(
    folder: Path, graph: tft.TFTransformOutput, examples: list[bytes], expected: np.ndarray
) -> None:
    serve = tf.saved_model.load(str(folder)).signatures["raw_features"]
    answers = serve(**to_dense(examples, graph))[PROBABILITY].numpy()
    np.testing.assert_allclose(answers, expected, atol=1e-6)


def test_classify_and_regress_get_the_networks_answers(
    folder: Path, examples: list[bytes], expected: np.ndarray
) -> None:
    signatures = tf.saved_model.load(str(folder)).signatures
    regressed = signatures["regress"](inputs=tf.constant(examples))["outputs"].numpy()
    np.testing.assert_allclose(regressed, expected, atol=1e-6)
    classified = signatures["classify"](inputs=tf.constant(examples))
    assert {tuple(row) for row in classified["classes"].numpy()} == {(b"on time", b"delayed")}
    np.testing.assert_allclose(
        classified["scores"].numpy(), np.hstack([1 - expected, expected]), atol=1e-6
    )


def to_dense(examples: list[bytes], graph: tft.TFTransformOutput) -> dict[str, tf.Tensor]:
    """Each raw feature as a client sends it: one value a row, NaN or "" where it is absent."""
    spec = graph.raw_feature_spec()
    columns = {}
    for name in RAW_FEATURES:
        kind = spec[name].dtype
        default = {tf.string: "", tf.float32: math.nan, tf.int64: 0}[kind]
        parsed = tf.io.parse_example(examples, {name: tf.io.FixedLenFeature([], kind, default)})
        columns[name] = parsed[name]
    return columns


def test_a_request_needs_neither_the_label_nor_what_the_model_does_not_read(
    folder: Path, examples: list[bytes], expected: np.ndarray
) -> None:
    example = tf.train.Example.FromString(examples[0])
    for name in set(example.features.feature) - set(RAW_FEATURES):
        del example.features.feature[name]
    serve = tf.saved_model.load(str(folder)).signatures["serving_default"]
    answer = serve(examples=tf.constant([example.SerializeToString()]))[PROBABILITY].numpy()
    np.testing.assert_allclose(answer, expected[:1], atol=1e-6)


def test_answers_differ_between_rows(expected: np.ndarray) -> None:
    """Guards the comparisons above: a network that answers all rows alike would pass them."""
    assert expected.std() > 0.02
