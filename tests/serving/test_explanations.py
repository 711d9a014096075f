"""The embedded server explains predictions, and its client prints explanations."""

from __future__ import annotations

import base64
import csv
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from serving.__main__ import main
from storage.names import BACKGROUND_FILE
from storage.versions import ModelVersions

if TYPE_CHECKING:
    from tests.serving.server.running import RunningServer

VECTORS = [[0.5, -1.0, 2.0], [3.0, 0.25, 0.125], [0.0, 0.0, 0.0], [-1.0, 1.0, 0.5]]
COLOURS = ["red", "blue", "", "red"]
BACKGROUND: dict[str, Any] = {
    "signature_name": "raw_features",
    "inputs": {
        "vector": [[0.1, 0.2, 0.3], [1.0, -1.0, 0.0], [0.5, 0.5, -0.5]],
        "colour": ["red", "", "green"],
    },
    "groups": {},
}
NAMES = ("kinds", "tips", "price")
GROUPS: dict[str, dict[str, list[str]]] = {
    "kinds": {"place": ["vector"]},
    "tips": {"everything": ["vector", "colour"]},
    "price": {},
}
EXPLAINED = {
    "kinds": ["place", "colour"],
    "tips": ["everything"],
    "price": ["colour", "vector[0]", "vector[1]", "vector[2]"],
}


def write_background(root: Path, name: str, content: Any) -> None:
    folder = Path(ModelVersions(str(root), name).provenance_uri(1))
    folder.mkdir(parents=True)
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / BACKGROUND_FILE).write_text(text)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Serving directory: a model of each task, and one without background rows."""
    from tests.components import task_models

    root = tmp_path_factory.mktemp("explained")
    tasks = dict(zip(NAMES, (task_models.KINDS, task_models.TIPS, task_models.PRICE), strict=True))
    for name, task in tasks.items():
        task_models.save(root / name / "1", task)
        write_background(root, name, BACKGROUND | {"groups": GROUPS[name]})
    task_models.save(root / "plain" / "1", task_models.TIPS, tflite=False)
    task_models.save(root / "damaged" / "1", task_models.TIPS, tflite=False)
    write_background(root, "damaged", '{"inputs": {"vector": [[1, 2]]')
    return root


@pytest.fixture(scope="module", params=["saved_model", "tflite"])
def server(request: pytest.FixtureRequest, models: Path) -> Iterator[RunningServer]:
    from tests.serving.server.running import running

    options = ["--prefer-tflite"] if request.param == "tflite" else []
    with running(models, "--max-request-mb", "2", *options) as server:
        yield server


def body(rows: int = 4) -> dict[str, Any]:
    pairs = zip(VECTORS[:rows], COLOURS[:rows], strict=True)
    return {
        "signature_name": "raw_features",
        "instances": [{"vector": vector, "colour": colour} for vector, colour in pairs],
    }


@pytest.mark.parametrize("name", NAMES)
def test_server_explains_what_it_predicts_with_the_same_body(
    server: RunningServer, name: str
) -> None:
    predicted = server.rest(f"{name}:predict", body()).json()
    response = server.rest(f"{name}:explain", body())
    assert response.status_code == 200, response.text
    found = response.json()
    assert found["predictions"] == predicted["predictions"]
    assert len(found["explanations"]) == 4
    for prediction, one in zip(found["predictions"], found["explanations"], strict=True):
        sums = np.sum([one["base_values"], *one["shap_values"].values()], axis=0)
        scale = 1000 if name == "price" else 1  # Predictions are float32.
        np.testing.assert_allclose(sums, prediction, rtol=1e-6, atol=1e-4 * scale)
        assert list(one["shap_values"]) == EXPLAINED[name]
    assert server.rest(f"{name}:explain", body()).json() == found


def test_server_gives_the_exact_shapley_values_of_two_features(server: RunningServer) -> None:
    """A permutation and its reverse are all orders of two."""
    inputs = BACKGROUND["inputs"]

    def mean(vector: Any, colour: Any) -> np.ndarray:
        """The mean prediction over the background rows, of which the values are that are None."""
        rows = [
            {"vector": vector or own, "colour": own_colour if colour is None else colour}
            for own, own_colour in zip(inputs["vector"], inputs["colour"], strict=True)
        ]
        document = {"signature_name": "raw_features", "instances": rows}
        predictions = server.rest("kinds:predict", document).json()["predictions"]
        return np.mean(predictions, axis=0)

    (one,) = server.rest("kinds:explain", body(1)).json()["explanations"]
    vector, colour = VECTORS[0], COLOURS[0]
    none, first, second, both = (
        mean(*pair) for pair in [(None, None), (vector, None), (None, colour), (vector, colour)]
    )
    np.testing.assert_allclose(one["base_values"], none, atol=1e-6)
    expected = (first - none + both - second) / 2
    np.testing.assert_allclose(one["shap_values"]["place"], expected, atol=1e-6)
    expected = (second - none + both - first) / 2
    np.testing.assert_allclose(one["shap_values"]["colour"], expected, atol=1e-6)


def test_server_explains_requests_in_column_form(server: RunningServer) -> None:
    columns = {"vector": VECTORS, "colour": COLOURS}
    document = {"signature_name": "raw_features", "inputs": columns}
    found = server.rest("kinds:explain", document).json()
    rows = server.rest("kinds:explain", body()).json()
    assert found["outputs"] == rows["predictions"]
    assert found["explanations"] == rows["explanations"]


def test_server_explains_predictions_of_tf_examples_and_does_not_log_them(
    models: Path, tmp_path: Path
) -> None:
    from tests.components import task_models
    from tests.serving.server.running import running
    from tests.serving.server.test_request_log import read

    examples = [
        base64.b64encode(task_models.example(vector, colour.encode())).decode()
        for vector, colour in zip(VECTORS, COLOURS, strict=True)
    ]
    logged = ["--request-log", str(tmp_path), "--request-log-sampling", "1"]
    with running(models, "--model", "kinds", *logged) as server:
        assert server.rest("kinds:predict", body(1)).status_code == 200
        document: dict[str, Any] = {"instances": [{"b64": example} for example in examples]}
        found = server.rest("kinds:explain", document).json()
        assert found == server.rest("kinds:explain", body()).json()
        for wrong in (b"\xff", task_models.example([1.0, 2.0]), task_models.example([])):
            document = {"instances": [{"b64": base64.b64encode(wrong).decode()}]}
            refused = server.rest("kinds:explain", document)
            assert refused.status_code == 400
            assert "row 0" in refused.json()["error"]
    assert len(read(tmp_path / "kinds")) == 1


def test_server_refuses_what_it_cannot_explain(server: RunningServer) -> None:
    for name in ("plain", "damaged"):
        refused = server.rest(f"{name}:explain", body())
        assert refused.status_code == 501
        assert f"version 1 of {name} has no background rows" in refused.json()["error"]
        assert server.rest(f"{name}:predict", body()).status_code == 200
    many = body() | {"instances": body()["instances"] * 26}
    refused = server.rest("kinds:explain", many)
    assert refused.status_code == 413
    assert "100 are allowed" in refused.json()["error"]
    refused_bodies: tuple[dict[str, Any], ...] = (
        *({}, {"instances": []}, {"instances": [{"vector": [1.0]}]}, {"instances": ["x"]}),
    )
    for wrong in refused_bodies:
        document = {"signature_name": "raw_features", **wrong}
        assert server.rest("kinds:explain", document).status_code == 400
    assert server.rest("absent:explain", body()).status_code == 404
    for count in (0, 1, 3):
        columns: dict[str, Any] = {"vector": VECTORS, "colour": COLOURS[:count]}
        document = {"signature_name": "raw_features", "inputs": columns}
        assert server.rest("kinds:explain", document).status_code == 400
    nan = body(1)
    nan["instances"][0]["vector"] = [float("nan")] * 3
    assert server.rest("kinds:explain", nan).status_code == 200


@pytest.mark.parametrize(
    "change",
    [
        {"inputs": {"vector": [], "colour": []}},
        {"inputs": {"vector": [[1.0, 2.0, 3.0]], "colour": ["a", "b"]}},
        {"inputs": {"vector": [[1.0, 2.0]], "colour": ["a"]}},
        {"inputs": {"vector": [[1.0, 2.0, "x"]], "colour": ["a"]}},
        {"inputs": {"vector": [[1.0, 2.0, 3.0]]}},
        {"signature_name": "serving_default"},
        {"signature_name": 3},
        {"groups": []},
        {"groups": {"a": ["vector"], "b": ["vector"]}},
        {"groups": {"a": ["vector", "vector"]}},
        {"groups": {"a": []}},
        {"groups": {"a": [["vector"]]}},
        {"groups": {"a": ["unknown"]}},
        {"groups": {"colour": ["vector"]}},
    ],
)
def test_background_refuses_a_file_that_does_not_fit(models: Path, change: Any) -> None:
    from serving.server.errors import ServingError
    from serving.server.explaining import Background
    from serving.server.models import load_model

    model = load_model(str(models / "kinds" / "1"), prefer_tflite=True, concurrency=1)
    Background(json.dumps(BACKGROUND).encode(), model)
    with pytest.raises(ServingError):
        Background(json.dumps(BACKGROUND | change).encode(), model)


class Wide:
    """A model of many numbers."""

    def __init__(self, features: int):
        from tensorflow.core.framework import types_pb2

        from serving.server.signatures import Signature, TensorInfo

        numbers = TensorInfo(types_pb2.DT_FLOAT, (None,), "")
        names = [f"f{place}" for place in range(features)]
        output = TensorInfo(types_pb2.DT_FLOAT, (None, 1), "")
        self.signatures = {"raw_features": Signature(dict.fromkeys(names, numbers), {"y": output})}
        self.rows = self.largest = 0

    def run(self, signature: str, inputs: Any, outputs: Any, seconds: float) -> Any:
        rows = len(inputs["f0"])
        self.rows, self.largest = self.rows + rows, max(self.largest, rows)
        return {"y": (2 * inputs["f0"] + inputs["f1"])[:, None].astype(np.float32)}


def wide_background(model: Any, rows: int) -> Any:
    from serving.server.explaining import Background

    chance = np.random.default_rng(1)
    names = model.signatures["raw_features"].inputs
    inputs = {name: chance.normal(size=rows).tolist() for name in names}
    content = {"signature_name": "raw_features", "inputs": inputs}
    return Background(json.dumps(content).encode(), model)


def test_explanation_takes_bounded_predictions_and_memory_however_wide_the_model() -> None:
    model: Any = Wide(1500)
    background = wide_background(model, 60)
    row = {name: np.ones(1, np.float32) for name in background.inputs}
    found = background.explain(model, row, time.monotonic() + 600)
    assert model.rows < 20_000
    assert model.largest * 1500 * 4 <= 16 << 20
    assert found.values.sum() + found.base[0] == pytest.approx(3, abs=1e-4)
    expected = 2 * (1 - background.inputs["f0"].mean())
    assert found.values[0][list(found.names).index("f0"), 0] == pytest.approx(expected, abs=1e-5)


def test_explanation_ends_when_its_time_is_over() -> None:
    from serving.server.errors import ServingError

    model: Any = Wide(20)
    background = wide_background(model, 50)
    row = {name: np.ones(1, np.float32) for name in background.inputs}
    with pytest.raises(ServingError, match="not ready in time"):
        background.explain(model, row, time.monotonic())
    assert model.rows == 0


# The client.


def explain(server: RunningServer, file: Path, model: str, *options: str) -> Result:
    arguments = ["explain", str(file), "--server", server.rest_url, "--model", model]
    return CliRunner().invoke(main, [*arguments, *options])


@pytest.fixture
def rows_file(tmp_path: Path) -> Path:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"vector": VECTORS, "colour": COLOURS}), path)
    return path


def test_explain_prints_values_that_sum_to_the_prediction(
    server: RunningServer, rows_file: Path
) -> None:
    result = explain(server, rows_file, "price", "--rows", "3")
    assert result.exit_code == 0, result.output
    lines = list(csv.DictReader(io.StringIO(result.stdout)))
    assert list(lines[0]) == ["row", "output", "prediction", "base_value", *EXPLAINED["price"]]
    assert [line["row"] for line in lines] == ["0", "1", "2"]
    for line in lines:
        sums = sum(float(line[name]) for name in ("base_value", *EXPLAINED["price"]))
        assert sums == pytest.approx(float(line["prediction"]), abs=0.1)


def test_explain_prints_a_line_for_each_class(server: RunningServer, rows_file: Path) -> None:
    result = explain(server, rows_file, "kinds")
    assert result.exit_code == 0, result.output
    lines = list(csv.DictReader(io.StringIO(result.stdout)))
    assert len(lines) == 12
    names = {line["output"] for line in lines}
    assert names in ({"Adelie", "Gentoo", "Chinstrap"}, {"prediction"})  # TFLite knows no names.


def test_explain_says_why_a_model_cannot_be_explained(
    server: RunningServer, rows_file: Path
) -> None:
    result = explain(server, rows_file, "plain")
    assert result.exit_code == 1
    assert "no background rows" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert explain(server, rows_file, "kinds", "--version", "1", "--label", "x").exit_code == 2
