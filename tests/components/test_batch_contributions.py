"""BatchPredictor explains predictions: its columns, its limits, and the server's same values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.batch_predictor.contributions import Contributions
from components.batch_predictor.job import predict_table
from ml.tasks import Task
from ml.tflite_runner import Input
from serving.server.explaining import read_background
from serving.server.models import load_model
from storage.encryption_keys import add_key, require_keys
from storage.errors import DataError, SurroundingsError
from storage.names import BACKGROUND_FILE
from storage.table_formats import Format
from storage.versions import ModelVersions
from tests.components import tiny_table_model
from tests.components.test_batch_predictor import TASK, predict, request_of, rows, source_of, write
from tests.components.tiny_table_model import BACKGROUND, NAME, VERSION

COLUMNS = ("shap.base_value", "shap.way", "shap.company", "shap.legs[0]", "shap.legs[1]")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Serving directory and keys, with background rows; not to be changed."""
    return tiny_table_model.push(tmp_path_factory.mktemp("served"), background=BACKGROUND)


@pytest.mark.parametrize("model_format", ["tflite", "saved_model"])
def test_batch_predictor_explains_as_the_server_does(
    served: Path, tmp_path: Path, model_format: Any
) -> None:
    path = write(tmp_path / "in.parquet", rows(20))
    outcome = predict(served, path, tmp_path / "out", explain=True, model_format=model_format)
    table = pq.read_table(tmp_path / "out")
    assert table.column_names[-6:] == ["prediction.score", *COLUMNS]
    assert outcome.manifest["contributions"]["shap.way"] == "way"
    found = np.array([table[name].to_numpy() for name in COLUMNS])
    np.testing.assert_allclose(found.sum(axis=0), table["prediction.score"].to_numpy(), rtol=1e-5)
    # The model is a sum, so that a contribution is the distance from the mean of the background.
    np.testing.assert_allclose(
        found[3], [leg[0] - 1.0 for leg in table["legs"].to_pylist()], atol=1e-6
    )
    directory = ModelVersions(str(served / "serving_model"), NAME)
    model = load_model(
        directory.version_uri(VERSION), prefer_tflite=model_format == "tflite", concurrency=1
    )
    background = read_background(directory.provenance_uri(VERSION), model)
    assert background is not None
    inputs = {
        "company": np.array([text.encode() for text in table["company"].to_pylist()], object),
        "legs": np.array(table["legs"].to_pylist(), np.float32),
        "miles": np.array(table["miles"].to_pylist(), np.float32),
        "stops": np.array(table["stops"].to_pylist(), np.int64),
    }
    explained = background.explain(model, inputs, float("inf"))
    assert [f"shap.{name}" for name in explained.names] == list(COLUMNS[1:])
    np.testing.assert_allclose(found[1:].T, explained.values[:, :, 0], atol=1e-5)
    np.testing.assert_allclose(found[0], explained.base[0], rtol=1e-6)


def test_batch_predictor_explains_the_predicted_class_of_csv(tmp_path: Path) -> None:
    background = {**BACKGROUND, "inputs": {**BACKGROUND["inputs"], "legs": [0.0, 1.0]}}
    served = tiny_table_model.push(tmp_path / "served", 2, width=1, background=background)
    path = tmp_path / "in.csv"
    path.write_text("miles,stops,company,legs,shap.way\n100,1,a,1,mine\n300,0,b,2,mine\nx,1,a,1,\n")
    task = Task("multiclass", "delayed", ("0", "1"), ("no", "yes"))
    predict(served, path, tmp_path / "out", task=task, explain=True, output_format=Format.PARQUET)
    table = pq.read_table(tmp_path / "out")
    assert table.column_names[-4:] == [
        *("shap.base_value", "shap.way_2", "shap.company", "shap.legs")
    ]
    assert table["shap.way"].to_pylist() == ["mine", "mine"]
    for row in table.to_pylist():
        assert row["prediction.class"] == "yes"
        sums = sum(row[name] for name in table.column_names[-4:])
        assert sums == pytest.approx(row["prediction.score"][1])
    assert (tmp_path / "out" / "_rejected").exists()


class Picky:
    """A sum of two numbers that no row may make 3."""

    def __init__(self) -> None:
        number = Input(np.dtype(np.float32), ())
        self.inputs: Mapping[str, Input] = {"a": number, "b": number}

    def predict_features(self, features: Mapping[str, np.ndarray]) -> np.ndarray:
        total = features["a"] + features["b"]
        if (total == 3).any():
            raise ValueError("three")
        return np.asarray(total[:, None], np.float32)


def test_contributions_are_absent_where_the_model_fails_on_a_part_of_a_row() -> None:
    content = {"signature_name": "raw_features", "inputs": {"a": [1], "b": [1]}}
    contributions = Contributions(json.dumps(content).encode(), Picky(), TASK)
    inputs = {"a": np.array([5, 2, 0], np.float32), "b": np.array([5, 9, 0], np.float32)}
    found = contributions.explain(inputs, np.array([[10], [11], [0]], np.float32))
    assert found[[0, 2]].tolist() == [[2, 4, 4], [2, -1, -1]]
    assert np.isnan(found[1]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"signature_name": "serving_default"}, "no inputs of the signature raw_features"),
        ({"inputs": []}, "no inputs of the signature"),
        ({"inputs": {"a": [1]}}, "the input 'b' is missing"),
        ({"inputs": {"a": [], "b": []}}, "one row or more"),
        ({"inputs": {"a": [1, 2], "b": [1]}}, "as many"),
        ({"inputs": {"a": [[1]], "b": [1]}}, "'a' has not the shape"),
        ({"inputs": {"a": [[1], [1, 2]], "b": [1]}}, "background.json of the version"),
        ({"inputs": {"a": ["x"], "b": [1]}}, "other values than numbers"),
        ({"inputs": {"a": [None], "b": [1]}}, "other values than numbers"),
        ({"inputs": {"a": 1, "b": 1}}, "'a' has not the shape"),
        ({"inputs": {"a": [float("nan")], "b": [1]}}, "not a finite number"),
        ({"groups": {"g": ["a", "c"]}}, "group 'g' is no list of inputs"),
        ({"inputs": {"a": [1], "b": [2]}}, "the model fails on background.json"),
    ],
)
def test_contributions_refuse_background_rows_that_do_not_fit(change: Any, message: str) -> None:
    content = {"signature_name": "raw_features", "inputs": {"a": [1], "b": [1]}} | change
    with pytest.raises(SurroundingsError, match=message):
        Contributions(json.dumps(content).encode(), Picky(), TASK).check()


@given(st.one_of(st.binary(max_size=40), st.text(max_size=40).map(str.encode)))
def test_contributions_refuse_what_is_no_file_of_rows(content: bytes) -> None:
    for wrong in (content, b'{"inputs": %s}' % content):
        with pytest.raises(SurroundingsError, match="cannot be explained"):
            Contributions(wrong, Picky(), TASK)


def test_contributions_refuse_a_file_that_is_nested_too_deep() -> None:
    with pytest.raises(SurroundingsError, match="recursion"):
        Contributions(b"[" * 100_000, Picky(), TASK)


def test_batch_predictor_explains_nothing_without_background_rows(tmp_path: Path) -> None:
    served = tiny_table_model.push(tmp_path / "served")
    path = write(tmp_path / "in.parquet", rows(4))
    with pytest.raises(SurroundingsError, match="the version brings no background rows"):
        predict(served, path, tmp_path / "out", explain=True)
    assert not (tmp_path / "out").exists()
    predict(served, path, tmp_path / "out")


def test_batch_predictor_does_not_mix_rows_with_and_without_explanations(
    served: Path, tmp_path: Path
) -> None:
    path, output = write(tmp_path / "in.parquet", rows(4)), tmp_path / "out"
    predict(served, path, output, explain=True)
    assert predict(served, path, output, explain=True).reused == 1
    with pytest.raises(DataError, match=r"the settings have changed .*explained_with"):
        predict(served, path, output)


def test_batch_predictor_explains_with_an_encrypted_version(tmp_path: Path) -> None:
    key_file = str(tmp_path / "encryption.keys")
    add_key(key_file)
    sealed = tiny_table_model.push(
        tmp_path / "sealed", background=BACKGROUND, keys=require_keys(key_file)
    )
    provenance = ModelVersions(str(sealed / "serving_model"), NAME).provenance_uri(VERSION)
    assert b"raw_features" not in Path(provenance, BACKGROUND_FILE).read_bytes()
    path, output = write(tmp_path / "in.parquet", rows(4)), tmp_path / "out"
    request = replace(request_of(path, output), explain=True)
    with pytest.raises(SurroundingsError, match="is encrypted with the key"):
        predict_table(source_of(sealed), request, beam.Pipeline)
    source = replace(source_of(sealed), encryption_keys=key_file)
    assert predict_table(source, request, beam.Pipeline).manifest["rows"] == 4
    assert not np.isnan(pq.read_table(output)["shap.way"].to_numpy()).any()
