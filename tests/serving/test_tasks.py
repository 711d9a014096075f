"""Tests that the server and its client serve each task: several classes, numbers, and vectors."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from serving.__main__ import main

if TYPE_CHECKING:
    from tests.serving.server.running import RunningServer

VECTORS = [[0.5, -1.0, 2.0], [3.0, 0.25, 0.125], [0.0, 0.0, 0.0]]
COLOURS = ["red", "blue", ""]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server of a model of each task, and of one in TFLite format."""
    from tests.components import task_models
    from tests.serving.server.running import running

    root = tmp_path_factory.mktemp("tasks")
    for name, task in (
        ("kinds", task_models.KINDS),
        ("tips", task_models.TIPS),
        ("price", task_models.PRICE),
    ):
        task_models.save(root / name / "1", task, tflite=False)
    with running(root) as server:
        yield server


def expected(name: str) -> np.ndarray:
    from tests.components import task_models

    task = {"kinds": task_models.KINDS, "tips": task_models.TIPS, "price": task_models.PRICE}[name]
    found: np.ndarray = task_models.predict(
        task, np.array(VECTORS, np.float32), np.array(COLOURS, object)
    ).numpy()
    return found


@pytest.mark.parametrize("name", ["kinds", "tips", "price"])
def test_server_predicts_rows_with_vectors_in_both_forms_of_json(
    tasks: RunningServer, name: str
) -> None:
    rows = [{"vector": v, "colour": c} for v, c in zip(VECTORS, COLOURS, strict=True)]
    document: dict[str, Any] = {"signature_name": "raw_features", "instances": rows}
    found = tasks.rest(f"{name}:predict", document).json()["predictions"]
    np.testing.assert_allclose(found, expected(name), rtol=1e-5)
    columns: dict[str, Any] = {"vector": VECTORS, "colour": COLOURS}
    document = {"signature_name": "raw_features", "inputs": columns}
    found = tasks.rest(f"{name}:predict", document).json()["outputs"]
    np.testing.assert_allclose(found, expected(name), rtol=1e-5)


def test_server_names_a_vector_of_another_length(tasks: RunningServer) -> None:
    row = {"vector": [1.0, 2.0], "colour": ""}
    response = tasks.rest("kinds:predict", {"signature_name": "raw_features", "instances": [row]})
    assert response.status_code == 400
    assert 'input "vector" has the shape [1, 2], [?, 3] is expected' in response.json()["error"]


def test_server_classifies_several_classes_by_name(tasks: RunningServer) -> None:
    rows = [
        {"vector": v, **({"colour": c} if c else {})} for v, c in zip(VECTORS, COLOURS, strict=True)
    ]
    document = {"signature_name": "classify", "examples": rows}
    found = tasks.rest("kinds:classify", document).json()["results"]
    names = [[name for name, _ in row] for row in found]
    assert names == [["Adelie", "Gentoo", "Chinstrap"]] * 3
    scores = [[score for _, score in row] for row in found]
    np.testing.assert_allclose(scores, expected("kinds"), rtol=1e-5)


def test_server_regresses_numbers_in_the_unit_of_the_label(tasks: RunningServer) -> None:
    rows = [{"vector": v, "colour": c} for v, c in zip(VECTORS, COLOURS, strict=True)]
    document = {"signature_name": "regress", "examples": rows}
    found = tasks.rest("price:regress", document).json()["results"]
    np.testing.assert_allclose(found, expected("price")[:, 0], rtol=1e-5)
    refused = tasks.rest("price:classify", {"signature_name": "classify", "examples": rows})
    assert refused.status_code == 400
    refused = tasks.rest("kinds:regress", {"signature_name": "regress", "examples": rows})
    assert refused.status_code == 400


# The client.


def predict(server: RunningServer, file: Path, model: str, *options: str) -> Result:
    arguments = ["predict", str(file), "--server", server.rest_url, "--model", model]
    return CliRunner().invoke(main, [*arguments, *options])


@pytest.fixture(params=["parquet", "fixed.parquet", "csv"])
def rows_file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / f"rows.{request.param}"
    if request.param == "csv":
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["vector", "colour"])
            writer.writerows(zip(map(json.dumps, VECTORS), COLOURS, strict=True))
        return path
    length = 3 if "fixed" in request.param else -1
    vectors = pa.array(VECTORS, pa.list_(pa.float64(), length))
    pq.write_table(pa.table({"vector": vectors, "colour": COLOURS}), path)
    return path


def test_predict_names_the_classes_of_a_model(tasks: RunningServer, rows_file: Path) -> None:
    result = predict(tasks, rows_file, "kinds")
    assert result.exit_code == 0, result.output
    found = list(csv.DictReader(io.StringIO(result.stdout)))
    names = ["Adelie", "Gentoo", "Chinstrap"]
    assert list(found[0]) == ["row", "class", *(f"prediction.{name}" for name in names)]
    scores = [[float(row[f"prediction.{name}"]) for name in names] for row in found]
    np.testing.assert_allclose(scores, expected("kinds"), rtol=1e-5)
    assert [row["class"] for row in found] == [names[k] for k in expected("kinds").argmax(axis=1)]


@pytest.mark.parametrize("name", ["tips", "price"])
def test_predict_prints_a_single_output_as_it_is(
    tasks: RunningServer, rows_file: Path, name: str
) -> None:
    result = predict(tasks, rows_file, name)
    found = list(csv.DictReader(io.StringIO(result.stdout)))
    assert list(found[0]) == ["row", "prediction"]
    values = [float(row["prediction"]) for row in found]
    np.testing.assert_allclose(values, expected(name)[:, 0], rtol=1e-5)


@pytest.mark.parametrize(
    ("vector", "shown"),
    [("[1, 2]", "'[1, 2]'"), ("1", "'1'"), ("", "''"), ('[1, 2, "x"]', "in row 0"), ("[1", "[1")],
)
def test_predict_names_a_value_that_is_no_vector(
    tasks: RunningServer, tmp_path: Path, vector: Any, shown: str
) -> None:
    path = tmp_path / "rows.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["vector", "colour"], [vector, "red"]])
    result = predict(tasks, path, "kinds")
    assert result.exit_code == 1
    assert shown in result.stderr
    assert "a list of 3 values is expected" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_warm_up_keeps_all_values_of_a_vector_and_leaves_out_what_is_absent() -> None:
    from tensorflow.core.example import example_pb2

    from serving.server.warmup import _to_example

    row = {
        "vector": np.array([[0.5, np.nan, 2.0]], np.float32),
        "number": np.array([np.nan], np.float32),
        "colour": np.array([b""], object),
    }
    features = example_pb2.Example.FromString(_to_example(row)).features.feature
    assert len(features["vector"].float_list.value) == 3
    # Not even as an empty list, which a parser of one value refuses.
    assert list(features) == ["vector"]
