"""The penguins: data, schema, preprocessing and network."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import tensorflow_transform as tft
from click.testing import CliRunner

from data.penguins import make
from models.penguins.network import build_model
from models.penguins.preprocessing import NUMBERS
from tests.models.trial import ModelData, change

PENGUINS = ModelData("penguins")


@pytest.fixture(scope="module")
def rows() -> pa.Table:
    return PENGUINS.read()


@pytest.fixture(scope="module")
def graph(rows: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> tft.TFTransformOutput:
    return PENGUINS.learn(rows, tmp_path_factory.mktemp("penguins"))


def test_penguins_are_those_of_the_package(tmp_path: Path) -> None:
    again = tmp_path / "penguins.csv"
    CliRunner().invoke(make.main, ["--output", str(again)], catch_exceptions=False)
    source = importlib.resources.files("palmerpenguins") / "data" / "penguins.csv"
    committed = Path(make.__file__).with_name("penguins.csv")
    assert again.read_bytes() == committed.read_bytes() == source.read_bytes()


def test_penguins_have_absent_values_and_three_species(rows: pa.Table) -> None:
    assert len(rows) == 344
    absent = {name: rows[name].null_count for name in rows.column_names if rows[name].null_count}
    assert absent == dict.fromkeys(NUMBERS, 2) | {"sex": 11}
    counts = {
        entry["values"]: entry["counts"] for entry in pc.value_counts(rows["species"]).to_pylist()
    }
    assert counts == {"Adelie": 152, "Gentoo": 124, "Chinstrap": 68}


def test_schema_accepts_the_penguins(rows: pa.Table) -> None:
    assert PENGUINS.anomalies(rows) == {}


@pytest.mark.parametrize(
    ("column", "value"),
    [("species", "Emperor"), ("island", "Dream "), ("body_mass_g", 3.75), ("bill_depth_mm", 39.1)],
)
def test_schema_refuses_a_wrong_value(rows: pa.Table, column: str, value: object) -> None:
    wrong = change(rows, 0, *[{column: value}] * 20)
    assert list(PENGUINS.anomalies(pa.concat_tables([rows, wrong]))) == [column]


def test_preprocessing_scales_numbers_and_numbers_categories(
    rows: pa.Table, graph: tft.TFTransformOutput
) -> None:
    made = PENGUINS.transform(graph, rows)
    np.testing.assert_allclose(made["numbers"].mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(made["numbers"].std(axis=0), 1, atol=0.01)
    assert set(made["island"].ravel()) == {1, 2, 3}
    assert made["species"].ravel().tolist() == PENGUINS.task.encode(rows["species"]).tolist()


def test_preprocessing_gives_absent_and_unknown_values_a_place(
    rows: pa.Table, graph: tft.TFTransformOutput
) -> None:
    absent = dict.fromkeys(("sex", *NUMBERS))
    made = PENGUINS.transform(
        graph, change(rows, 0, absent, {"island": "Elephant", "sex": "n/a", "body_mass_g": 1e30})
    )
    assert made["numbers"][0].tolist() == [0, 0, 0, 0]
    assert made["sex"].ravel().tolist() == [0, 0]
    assert made["island"][1] == 0
    assert made["numbers"][1, -1] == 4


def test_network_predicts_a_probability_for_each_species(
    rows: pa.Table, graph: tft.TFTransformOutput
) -> None:
    model = build_model(PENGUINS.learning, {"island": 4, "sex": 3})
    made = PENGUINS.transform(graph, rows.slice(0, 10))
    predictions = model.predict({name: made[name] for name in model.input_names}, verbose=0)
    assert predictions.shape == (10, 3)
    np.testing.assert_allclose(predictions.sum(axis=1), 1, atol=1e-5)
