"""Tests that a model carries columns of any name, in all that serves it."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
import tensorflow_model_analysis as tfma
import tensorflow_transform as tft
from ai_edge_litert.interpreter import Interpreter
from tensorflow_metadata.proto.v0 import schema_pb2
from tensorflow_serving.apis import classification_pb2, regression_pb2

from components.evaluator import columns
from components.evaluator.evaluation import evaluate, with_defaults
from components.evaluator.results import read_metrics
from components.quantizer.candidates import CandidateMaker
from components.serving_validator.warmup import write_warmup
from ml.examples import read_columns
from ml.fit import FitSettings, fine_tune, select_inputs
from ml.identity.model import model_identity
from ml.names import graph_names
from ml.predictors import SavedModelPredictor, TFLitePredictor, check_model, load_predictor
from ml.request_log import read
from ml.scores import measure
from ml.signature_inputs import name_inputs
from pipeline.config import EvaluationConfig
from pipeline.evaluation import make_eval_config
from pipeline.model import Model
from serving.server.request_records import make_records
from storage.errors import UserError
from storage.names import RAW_SIGNATURE, REQUEST_LOG_SUFFIX, TFLITE_MODEL
from storage.tfrecords import open_records
from tests.components.conftest import BEAM_ARGS
from tests.components.digits import write_records
from tests.components.odd_names import (
    NAMES,
    NUMBERS,
    PREDICTION,
    TASK,
    TEXTS,
    OddModel,
    build_network,
    make_odd_model,
    save,
)
from tests.serving.server.running import RunningServer, predict_request, running

ATOL = 1e-5
SETTINGS = FitSettings(TASK, "", "", 1, 32, 1e-3, 7)


@pytest.fixture(scope="module")
def model(
    tmp_path_factory: pytest.TempPathFactory, run_component: Callable[..., dict[str, Any]]
) -> OddModel:
    return make_odd_model(tmp_path_factory.mktemp("odd"), run_component)


@pytest.fixture(scope="module")
def expected(model: OddModel) -> np.ndarray:
    """What the SavedModel predicts for serialized examples."""
    return SavedModelPredictor(str(model.folder)).predict(model.examples)


@pytest.fixture(scope="module")
def serving_dir(model: OddModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Serving directory of it, with warm-up requests."""
    folder = tmp_path_factory.mktemp("served")
    version = folder / "toy" / "1"
    shutil.copytree(model.folder, version)
    assert write_warmup(str(version), "toy", model.examples[:3], NAMES) == [RAW_SIGNATURE]
    return folder


@pytest.fixture(scope="module", params=["SavedModel", "TFLite"])
def server(serving_dir: Path, request: pytest.FixtureRequest) -> Iterator[RunningServer]:
    """A server of one format."""
    arguments = ["--prefer-tflite"] if request.param == "TFLite" else []
    with running(serving_dir, *arguments) as server:
        yield server


def test_every_feature_of_the_model_changes_its_prediction(
    model: OddModel, expected: np.ndarray
) -> None:
    """Otherwise the other tests would not notice one that is lost."""
    predictor = TFLitePredictor((model.folder / TFLITE_MODEL).read_bytes())
    for name in NAMES:
        other = np.roll(model.columns[name], 1, axis=0)
        found = predictor.predict_features({**model.columns, name: other})
        assert np.abs(found - expected).max() > 1e-3, name


def test_a_tflite_model_predicts_as_the_savedmodel_for_columns_of_any_name(
    model: OddModel, expected: np.ndarray
) -> None:
    content = (model.folder / TFLITE_MODEL).read_bytes()
    predictor = load_predictor(str(model.folder))
    np.testing.assert_allclose(predictor.predict(model.examples), expected, atol=ATOL)
    # As on a device.
    runner = Interpreter(model_content=content).get_signature_runner(RAW_SIGNATURE)
    found = runner(**model.columns)[PREDICTION]
    np.testing.assert_allclose(found, expected, atol=ATOL)


def test_signatures_of_a_savedmodel_are_called_by_graph_names_in_python(
    model: OddModel, expected: np.ndarray
) -> None:
    signature = tf.saved_model.load(str(model.folder)).signatures[RAW_SIGNATURE]
    arguments = graph_names(NAMES)
    columns = {arguments[name]: tf.constant(column) for name, column in model.columns.items()}
    np.testing.assert_allclose(signature(**columns)[PREDICTION], expected, atol=ATOL)


def test_a_server_carries_columns_of_any_name_over_both_protocols(
    model: OddModel, expected: np.ndarray, server: RunningServer
) -> None:
    columns = {name: column.copy() for name, column in model.columns.items()}
    request = predict_request("toy", RAW_SIGNATURE)
    for name, column in columns.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(column))
    response = server.predictions.Predict(request)
    found = tf.make_ndarray(response.outputs[PREDICTION])
    np.testing.assert_allclose(found, expected, atol=ATOL)

    as_json = {name: as_values(column) for name, column in columns.items()}
    body: dict[str, Any] = {"signature_name": RAW_SIGNATURE, "inputs": as_json}
    response = server.rest("toy:predict", body)
    np.testing.assert_allclose(response.json()["outputs"], expected, atol=ATOL)

    instances = [{name: as_json[name][row] for name in NAMES} for row in range(len(expected))]
    body = {"signature_name": RAW_SIGNATURE, "instances": instances}
    response = server.rest("toy:predict", body)
    np.testing.assert_allclose(response.json()["predictions"], expected, atol=ATOL)


def as_values(column: np.ndarray) -> list[Any]:
    return [v.decode() if isinstance(v, bytes) else v for v in column.tolist()]


@pytest.mark.parametrize("server", ["SavedModel"], indirect=True)
def test_a_server_takes_examples_with_columns_of_any_name(
    model: OddModel, expected: np.ndarray, server: RunningServer
) -> None:
    rows = [{"b64": base64.b64encode(row).decode()} for row in model.examples]
    response = server.rest("toy:predict", {"instances": rows})
    np.testing.assert_allclose(response.json()["predictions"], expected, atol=ATOL)

    examples = [tf.train.Example.FromString(row) for row in model.examples]
    classify = classification_pb2.ClassificationRequest()
    classify.model_spec.name, classify.model_spec.signature_name = "toy", "classify"
    regress = regression_pb2.RegressionRequest()
    regress.model_spec.name, regress.model_spec.signature_name = "toy", "regress"
    for example in examples:
        serialized = example.SerializeToString()
        classify.input.example_list.examples.add().MergeFromString(serialized)
        regress.input.example_list.examples.add().MergeFromString(serialized)
    result = server.predictions.Classify(classify).result
    labels = [[one.label for one in row.classes] for row in result.classifications]
    assert labels == [list(TASK.class_names)] * len(expected)
    scores = [row.classes[1].score for row in result.classifications]
    np.testing.assert_allclose(scores, expected.ravel(), atol=ATOL)
    values = [row.value for row in server.predictions.Regress(regress).result.regressions]
    np.testing.assert_allclose(values, expected.ravel(), atol=ATOL)

    # REST's examples: features by name, of which an absent one is left out.
    named = [
        {
            name: as_values(column)[row]
            for name, column in model.columns.items()
            if column[row : row + 1].tolist() not in ([b""],)
            and not (name in NUMBERS and np.isnan(column[row]))
        }
        for row in range(len(expected))
    ]
    body = {"signature_name": "regress", "examples": named}
    found = server.rest("toy:regress", body).json()["results"]
    np.testing.assert_allclose(found, expected.ravel(), atol=ATOL)


def test_model_identity_can_analyze_columns_of_any_name(model: OddModel, tmp_path: Path) -> None:
    identity = model_identity(str(model.folder))
    assert identity.startswith("computes-")
    copy = Path(shutil.copytree(model.folder, tmp_path / "copy"))
    arguments = graph_names(NAMES)
    name_inputs(str(copy), RAW_SIGNATURE, {name: arguments[name] for name in NAMES})
    assert model_identity(str(copy)) != identity


def test_request_log_keeps_columns_of_any_name(
    model: OddModel, expected: np.ndarray, tmp_path: Path
) -> None:
    records = make_records(1, model.columns, {PREDICTION: expected}, 7_000_000)
    (tmp_path / "toy").mkdir()
    with open_records(str(tmp_path / "toy" / f"requests{REQUEST_LOG_SUFFIX}")) as file:
        for record in records:
            file.write(record)
    kinds = {name: schema_pb2.BYTES if name in TEXTS else schema_pb2.FLOAT for name in NAMES}
    (rows,) = read(str(tmp_path), "toy", kinds)
    for name in (*NUMBERS, *TEXTS):
        sent = pd.Series(model.columns[name]).replace(b"", None)
        pd.testing.assert_series_equal(rows[name], sent, check_names=False, check_dtype=False)


@pytest.mark.parametrize("by_columns", [True, False])
def test_evaluate_takes_labels_weights_and_slices_of_any_name(
    model: OddModel, expected: np.ndarray, tmp_path: Path, by_columns: bool
) -> None:
    weight, place = "cost: 1/2 (€)", "place.of (start)"  # Of the rows, but no features.
    weights = np.arange(1, len(expected) + 1) % 4 + 0.5
    places = np.array(["Köln", "B: onn, a"])[np.arange(len(expected)) % 2]
    rows = [tf.train.Example.FromString(row) for row in model.examples]
    for row, example in enumerate(rows):
        example.features.feature[weight].float_list.value.append(weights[row])
        example.features.feature[place].bytes_list.value.append(places[row].encode())
    write_records(tmp_path / "Split-test", [row.SerializeToString() for row in rows])
    schema = schema_pb2.Schema()
    schema.CopyFrom(model.schema)
    for name, kind in ((weight, schema_pb2.FLOAT), (place, schema_pb2.BYTES)):
        schema.feature.add(name=name, type=kind)
        representations = schema.tensor_representation_group[""].tensor_representation
        representations[name].dense_tensor.column_name = name
        representations[name].dense_tensor.shape.dim.add(size=1)
    task = replace(TASK, weight=weight, example_weight=weight)
    evaluated = Model("-", task, PREDICTION, "", (place, "company.name"), NAMES)
    config = make_eval_config(EvaluationConfig(min_slice_examples=1), evaluated)
    if not by_columns:
        config.metrics_specs[0].metrics.add(class_name="BinaryAccuracy")
        config.options.ClearField("compute_confidence_intervals")  # Stock TFMA's take seconds.
    config = with_defaults(config, has_baseline=False)
    assert columns.supports(config) == by_columns
    models = {spec.name: (str(model.folder), True) for spec in config.model_specs}
    files = [str(path) for path in (tmp_path / "Split-test").iterdir()]
    output = str(tmp_path / "evaluation")
    with beam.Pipeline(argv=BEAM_ARGS) as pipeline:
        evaluate(pipeline, files, schema, task, config, models, output)

    labels = np.array([row.features.feature[TASK.label].bytes_list.value[0] for row in rows])
    companies = model.columns["company.name"]
    slices = {"Overall": np.ones(len(rows), bool)}
    slices |= {f"{place}:{value}": places == value for value in set(places)}
    for value in set(companies):
        if value or not by_columns:  # Stock TFMA fills in the schema's default.
            slices[f"company.name:{value.decode()}"] = companies == value
    found = read_metrics(output)
    assert found.keys() == slices.keys()
    for name, chosen in slices.items():
        scores = measure(task, task.encode(labels[chosen]), expected[chosen], weights[chosen])
        assert found[name]["auc"] == pytest.approx(scores["auc"], abs=1e-3), name
        assert found[name]["example_count"] == pytest.approx(weights[chosen].sum()), name


def test_networks_of_columns_of_any_name_are_trained_and_converted(
    model: OddModel, tmp_path: Path
) -> None:
    graph = tft.TFTransformOutput(model.graph_uri)
    rows = read_columns(model.transformed, "train", graph.transformed_metadata.schema)
    network = build_network()
    before = network.get_weights()[0]
    fine_tune(network, rows, SETTINGS)
    assert not np.array_equal(network.get_weights()[0], before)
    content = make_maker(model, tmp_path, save).make("none", network, {}, {}).tflite
    found = TFLitePredictor(content).predict(model.examples)
    trained = network.predict(select_inputs(network, rows), verbose=0)
    np.testing.assert_allclose(found, trained, atol=ATOL)


def make_maker(model: OddModel, folder: Path, save: Callable[..., None]) -> CandidateMaker:
    return CandidateMaker(
        folder=str(folder),
        graph_uri=model.graph_uri,
        save=save,
        signature=RAW_SIGNATURE,
        settings=SETTINGS,
        targets=lambda: None,
        weight_bits=8,
    )


def test_quantizer_refuses_a_tflite_model_whose_inputs_are_no_features(
    model: OddModel, tmp_path: Path
) -> None:
    def save_renamed(network: Any, graph: Any, path: str) -> None:
        save(network, graph, path)
        name_inputs(path, RAW_SIGNATURE, graph_names(NAMES))  # As TensorFlow once did by itself.

    maker = make_maker(model, tmp_path, save_renamed)
    with pytest.raises(UserError, match=r"^the TFLite model has the input .*'fare_USD'"):
        maker.make("none", build_network(), {}, {})


def test_evaluate_refuses_a_model_with_an_input_that_the_schema_does_not_know(
    model: OddModel, tmp_path: Path
) -> None:
    known = schema_pb2.Schema(feature=[f for f in model.schema.feature if f.name != "trip.miles"])
    config = tfma.EvalConfig(model_specs=[{"name": "candidate", "label_key": TASK.label}])
    message = "^the TFLite model has the input 'trip.miles', which is no feature of the schema"
    models = {"candidate": (str(model.folder), True)}
    with pytest.raises(UserError, match=message):
        evaluate(beam.Pipeline(), [], known, TASK, config, models, str(tmp_path))
    check_model(str(model.folder), NAMES)
