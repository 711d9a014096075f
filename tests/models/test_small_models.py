"""The small models of the repository, each from its data to a monitored server."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from tensorflow_serving.apis import predict_pb2

from ml.file_names import TUNING_FILE
from storage.names import RAW_SIGNATURE
from tests import forked
from tests.models.trial import ModelData
from tests.serving.server.running import running

# The worst allowed value of the headline metric, and the sign that makes higher better.
MODELS = {"penguins": (0.95, 1), "digits": (0.95, 1), "diamonds": (650.0, -1)}
# Settings of a run by the model's name; one model has its network tuned on the way.
SETTINGS = {
    "penguins": (
        *("--set", "tuning.trials=2", "--set", "tuning.finalists=0"),
        *("--set", "tuning.space.training.learning_rate.low=0.004"),
        *("--set", "tuning.space.training.learning_rate.high=0.006"),
    )
}
ROWS = 300


def local_runner(command: str, model: str, output: Path, *arguments: str) -> str:
    options = ["--model", model, "--output", str(output)]
    done = forked.run(["local_runner.py", command, *options, *arguments])
    assert done.returncode == 0, done.stdout
    return done.stdout


def to_inputs(rows: pa.Table, model: ModelData) -> dict[str, np.ndarray]:
    """Columns as a client sends them: "" or NaN where a value is absent."""
    inputs = {}
    for name in model.model.raw_features:
        column = rows[name]
        if pa.types.is_string(column.type):
            inputs[name] = np.array(pc.fill_null(column, "").to_pylist(), object)
        elif pa.types.is_floating(column.type):
            inputs[name] = column.to_numpy().astype(np.float32)
        else:
            inputs[name] = np.array(column.to_pylist(), np.int64)
    return inputs


def as_json(inputs: dict[str, np.ndarray]) -> dict[str, Any]:
    return {
        name: [None if value != value else value for value in column.tolist()]
        if column.ndim == 1
        else column.tolist()
        for name, column in inputs.items()
    }


def check_tuning(output: Path, provenance: Path) -> None:
    """That the search's best settings went to Trainer, to the provenance and into the report."""
    tuning = json.loads((provenance / TUNING_FILE).read_text())
    assert len(tuning["trials"]) == 2
    best = tuning["best"]["settings"]
    assert [*best] == ["training.learning_rate"]
    assert json.loads((provenance / "provenance.json").read_text())["hyperparameters"] == best
    (report,) = output.glob("models/*/reports/*/report.html")
    assert f"Trial {tuning['best']['number']} was taken" in report.read_text()


@pytest.mark.parametrize("name", MODELS)
def test_small_model_is_pushed_served_and_monitored(name: str, tmp_path: Path) -> None:
    model = ModelData(name)
    output, requests = tmp_path / "output", tmp_path / "requests"
    screen = local_runner("run", name, output, *SETTINGS.get(name, ()))
    (version,) = output.glob(f"serving_model/{model.config.model_name}/[0-9]*")
    assert f"Pushed version {version.name}" in screen
    (record,) = output.glob("serving_model/*/.flightdeck/*/provenance.json")
    headline = json.loads(record.read_text())["headline"]
    worst, sign = MODELS[name]
    assert headline["name"] == model.task.headline.name
    assert sign * headline["value"] >= sign * worst
    if name in SETTINGS:
        check_tuning(output, record.parent)
    content = (version / "model.tflite").read_bytes()
    interpreter = Interpreter(model_content=content)
    assert any(tensor["dtype"] == np.int8 for tensor in interpreter.get_tensor_details())

    rows = model.read()
    # From the whole file: some are sorted by the label.
    rows = rows.take(np.linspace(0, len(rows) - 1, ROWS).astype(int))
    inputs = to_inputs(rows, model)
    expected = interpreter.get_signature_runner(RAW_SIGNATURE)
    options = ("--prefer-tflite", "--request-log", str(requests), "--request-log-sampling", "1")
    with running(output / "serving_model", *options) as server:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = model.config.model_name
        request.model_spec.signature_name = RAW_SIGNATURE
        for feature, column in inputs.items():
            request.inputs[feature].CopyFrom(tf.make_tensor_proto(column))
        response = server.predictions.Predict(request, timeout=60)
        over_grpc = tf.make_ndarray(response.outputs[model.config.prediction])
        complete = rows.slice(10, 20)
        document = {
            "signature_name": RAW_SIGNATURE,
            "inputs": as_json(to_inputs(complete, model)),
        }
        response = server.rest(f"{model.config.model_name}:predict", document)
        assert response.status_code == 200, response.text
        over_rest = np.array(response.json()["outputs"])
    assert over_grpc.shape == (ROWS, model.task.outputs)
    np.testing.assert_allclose(over_rest, over_grpc[10:30], rtol=1e-4, atol=1e-4)
    found = expected(**inputs)[model.config.prediction]
    np.testing.assert_allclose(over_grpc, found, rtol=1e-4, atol=1e-4)

    now = datetime.now(UTC)
    since, until = ((now + timedelta(days=days)).strftime("%Y-%m-%d") for days in (-1, 1))
    screen = local_runner(
        *("monitor", name, output),
        *("--requests", str(requests), "--since", since, "--until", until),
    )
    (page,) = output.rglob("monitoring/*/report.json")
    report = json.loads(page.read_text())
    assert report["version"] == int(version.name)
    assert report["requests"]["rows"]["current"] == ROWS + 20
    assert report["evaluated"]
    assert report["alarms"] == []
