"""The diamonds: data, schema, preprocessing and network."""

from __future__ import annotations

import gzip
import importlib.metadata
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
import tensorflow_transform as tft
from click.testing import CliRunner

from data.diamonds import make
from models.diamonds.network import build_model
from models.diamonds.preprocessing import CATEGORIES, NUMBERS, WEIGHT_CLASS, WEIGHT_CLASSES
from tests.models.trial import ModelData, change

DIAMONDS = ModelData("diamonds")
ROUND = {"carat": 1.0, "x": 6.5, "y": 6.5, "z": 4.0}


@pytest.fixture(scope="module")
def rows() -> pa.Table:
    return DIAMONDS.read()


@pytest.fixture(scope="module")
def graph(rows: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> tft.TFTransformOutput:
    return DIAMONDS.learn(
        rows.take(list(range(0, len(rows), 20))), tmp_path_factory.mktemp("diamonds")
    )


def test_diamonds_are_those_of_the_package(tmp_path: Path) -> None:
    again = tmp_path / "diamonds.csv.gz"
    CliRunner().invoke(make.main, ["--output", str(again)], catch_exceptions=False)
    source = importlib.metadata.distribution("plotnine").locate_file("plotnine/data/diamonds.csv")
    committed = Path(make.__file__).with_name("diamonds.csv.gz")
    # Another zlib compresses to other bytes.
    assert gzip.decompress(again.read_bytes()) == gzip.decompress(committed.read_bytes())
    assert gzip.decompress(again.read_bytes()) == Path(str(source)).read_bytes()


def test_diamonds_are_complete_and_some_sizes_are_unknown(rows: pa.Table) -> None:
    assert len(rows) == 53_940
    assert not any(column.null_count for column in rows.columns)
    sizes = rows.select(["x", "y", "z"]).to_pandas()
    assert (sizes.eq(0).any(axis=1).sum(), sizes.gt(15).sum().sum()) == (20, 3)


def test_schema_accepts_the_diamonds(rows: pa.Table) -> None:
    assert DIAMONDS.anomalies(rows) == {}


@pytest.mark.parametrize(
    ("column", "value"),
    [("cut", "Excellent"), ("color", "d"), ("carat", 0.0), ("price", 0.0), ("depth", 0.61)],
)
def test_schema_refuses_a_wrong_value(rows: pa.Table, column: str, value: object) -> None:
    few = rows.slice(0, 500)
    wrong = change(rows, 0, *[{column: value}] * 20)
    assert list(DIAMONDS.anomalies(pa.concat_tables([few, wrong]))) == [column]


def test_preprocessing_scales_numbers_and_numbers_categories(
    rows: pa.Table, graph: tft.TFTransformOutput
) -> None:
    made = DIAMONDS.transform(graph, rows.slice(0, 1000))
    assert made["numbers"].shape == (1000, NUMBERS)
    assert np.isfinite(made["numbers"]).all()
    assert set(made["cut"].ravel()) == {1, 2, 3, 4, 5}
    np.testing.assert_array_equal(made["price"].ravel(), rows["price"].slice(0, 1000).to_numpy())


@pytest.mark.parametrize("size", [0.0, -1.0, 58.9, 1e30])
def test_preprocessing_takes_the_usual_size_for_an_impossible_one(
    rows: pa.Table, graph: tft.TFTransformOutput, size: float
) -> None:
    made = DIAMONDS.transform(graph, change(rows, 0, ROUND, ROUND | {"x": size, "z": size}))
    np.testing.assert_allclose(made["numbers"][0], made["numbers"][1], atol=1e-6)


def test_preprocessing_stays_finite_for_strange_numbers(
    rows: pa.Table, graph: tft.TFTransformOutput
) -> None:
    strange = [
        {"carat": 0.0},
        {"carat": -1.0},
        {"carat": 1e30},
        {"depth": 1e30, "table": -1e30},
    ]
    made = DIAMONDS.transform(graph, change(rows, 0, *strange, {"cut": "", "color": "Z"}))
    assert np.isfinite(made["numbers"]).all()
    assert (made["cut"].ravel()[-1], made["color"].ravel()[-1]) == (0, 0)


def test_preprocessing_takes_an_unknown_weight_for_the_mean(
    rows: pa.Table, graph: tft.TFTransformOutput
) -> None:
    (row,) = rows.slice(0, 1).to_pylist()
    request = {name: tf.constant([[value]]) for name, value in (row | {"carat": math.nan}).items()}
    made = graph.transform_raw_features(request)
    assert np.isfinite(made["numbers"]).all()
    assert made["numbers"][0, 0] == 0


def test_preprocessing_gives_each_twentieth_of_a_carat_a_class(
    rows: pa.Table, graph: tft.TFTransformOutput
) -> None:
    weights = [0.2, 0.69, 0.7, 0.74, 0.99, 1.0, 3.0, 5.01]
    made = DIAMONDS.transform(graph, change(rows, 0, *({"carat": weight} for weight in weights)))
    found = made[WEIGHT_CLASS].ravel()[-len(weights) :]
    assert list(found) == [4, 13, 14, 14, 19, 20, 60, 60]
    assert found.max() == WEIGHT_CLASSES - 1


def test_network_starts_at_the_usual_price() -> None:
    prices = np.array([[326.0], [2400.0], [18823.0]])
    model = build_model(DIAMONDS.learning, dict.fromkeys([*CATEGORIES, WEIGHT_CLASS], 9), prices)
    row = {name: np.zeros((1, 1), np.int64) for name in (*CATEGORIES, WEIGHT_CLASS)}
    row["numbers"] = np.zeros((1, NUMBERS), np.float32)
    (price,) = model.predict(row, verbose=0)[0]
    assert price == pytest.approx(np.exp(np.log(prices).mean()), rel=0.3)
