"""What Transform learns from real rows, and what it makes of those it has not seen."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_data_validation as tfdv
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
import tf_keras
from tensorflow_transform.tf_metadata import dataset_metadata, schema_utils
from tfx_bsl.public import tfxio

from components.quantizer.conversion import convert
from ml.export import save_model
from models.flights.features import NUMERIC, VOCABULARIES
from models.flights.preprocessing import preprocessing_fn
from storage.names import RAW_SIGNATURE
from tests.conftest import PROJECT, thin
from tests.models.flights.settings import CONFIG, MODEL, TASK, read_month

LABEL, WEIGHT = TASK.label, TASK.weight
PROBABILITY, TIME, FEATURES = MODEL.prediction, MODEL.time_column, MODEL.raw_features

Row = dict[str, Any]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return thin(read_month(201303), 2000).select([*FEATURES, TIME, LABEL]).to_pylist()


@pytest.fixture(scope="module")
def graph(rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> tft.TFTransformOutput:
    """A transform graph of a sample of March."""
    return learn(rows, tmp_path_factory.mktemp("transform"))


# As 32-bit numbers go: 1013.2 is not one of them, and its variance comes out above 0.
CONSTANT = {"temp": 51.3, "pressure": 1013.2, "distance": 733.0, "visib": 0.0, "wind_gust": None}


@pytest.fixture(scope="module")
def constant_graph(
    rows: list[Row], tmp_path_factory: pytest.TempPathFactory
) -> tft.TFTransformOutput:
    """A transform graph of rows with columns that do not vary or are empty."""
    same = [row | CONSTANT | {"humid": None, "origin": "EWR"} for row in rows]
    same[0] = same[0] | {"pressure": 1013.2001}
    return learn(same, tmp_path_factory.mktemp("constant"))


def learn(rows: list[Row], folder: Path) -> tft.TFTransformOutput:
    source = tfxio.TFExampleBeamRecord(physical_format="inmem", schema=SCHEMA).Project(list(SPEC))
    with (
        beam.Pipeline(argv=list(CONFIG.beam_args)) as pipeline,
        tft_beam.Context(temp_dir=str(folder / "tmp")),
    ):
        batches = pipeline | beam.Create([encode(row) for row in rows]) | source.BeamSource()
        function = (batches, source.TensorAdapterConfig()) | tft_beam.AnalyzeDataset(
            partial(preprocessing_fn, custom_config=MODEL.custom_config)
        )
        _ = function | tft_beam.WriteTransformFn(str(folder / "graph"))
        metadata = dataset_metadata.DatasetMetadata(SCHEMA)
        _ = metadata | tft_beam.WriteMetadata(str(folder / "graph" / "metadata"), pipeline)
    return tft.TFTransformOutput(str(folder / "graph"))


SCHEMA = tfdv.load_schema_text(str(PROJECT / CONFIG.gate.schema))
SPEC = {
    name: spec
    for name, spec in schema_utils.schema_as_feature_spec(SCHEMA).feature_spec.items()
    if name in (*FEATURES, TIME, LABEL)
}


def encode(row: Row) -> bytes:
    example = tf.train.Example()
    for name, value in row.items():
        feature = example.features.feature[name]
        if isinstance(value, str):
            feature.bytes_list.value.append(value.encode())
        elif isinstance(value, datetime):
            feature.int64_list.value.append(int(value.timestamp()))
        elif isinstance(value, int):
            feature.int64_list.value.append(value)
        elif value is not None:
            feature.float_list.value.append(value)
    return bytes(example.SerializeToString())


def transform(graph: tft.TFTransformOutput, rows: list[Row]) -> dict[str, np.ndarray]:
    raw = tf.io.parse_example([encode(row) for row in rows], SPEC)
    return {name: value.numpy() for name, value in graph.transform_raw_features(raw).items()}


def test_preprocessing_centres_and_scales_numeric_features(
    graph: tft.TFTransformOutput, rows: list[Row]
) -> None:
    numbers = transform(graph, rows)[NUMERIC][:, :-2]
    assert np.abs(numbers.mean(axis=0)).max() < 0.1
    assert np.all((numbers.std(axis=0) > 0.5) & (numbers.std(axis=0) < 1.1))


def test_preprocessing_replaces_an_absent_number_by_the_mean_and_marks_it(
    graph: tft.TFTransformOutput, rows: list[Row]
) -> None:
    known = next(r for r in rows if r["temp"] is not None and r["pressure"] is not None)
    absent = known | {"temp": None, "pressure": None}
    before, after = transform(graph, [known, absent])[NUMERIC]
    changed = np.flatnonzero(before != after)
    assert len(changed) == 4
    temp, pressure, *indicators = changed
    assert (after[temp], after[pressure]) == (0, 0)
    np.testing.assert_array_equal(after[indicators], [1, 1])
    np.testing.assert_array_equal(before[indicators], [0, 0])


def test_preprocessing_keeps_numbers_finite_and_within_four_deviations(
    graph: tft.TFTransformOutput, rows: list[Row]
) -> None:
    strange = [
        rows[0] | {"temp": value, "precip": value, "wind_speed": value, "distance": value}
        for value in (math.inf, -math.inf, math.nan, 3e38, -3e38)
    ]
    nothing = {name: None if isinstance(v, float) else v for name, v in rows[0].items()}
    numbers = transform(graph, [*strange, nothing | {"distance": 100.0}])[NUMERIC]
    assert np.isfinite(numbers).all()
    assert np.abs(numbers).max() <= 4


def test_preprocessing_gives_unseen_rare_and_absent_categories_id_0(
    graph: tft.TFTransformOutput, rows: list[Row]
) -> None:
    rare = next(r for r in rows if sum(o["dest"] == r["dest"] for o in rows) < 20)
    ids = transform(graph, [rows[0] | {"dest": "ZZZ"}, rows[0] | {"dest": ""}, rare])["dest"]
    assert set(ids.ravel()) == {0}


@pytest.mark.parametrize("name", VOCABULARIES)
def test_preprocessing_gives_frequent_categories_ids_of_their_own(
    graph: tft.TFTransformOutput, rows: list[Row], name: str
) -> None:
    values = sorted({row[name] for row in rows})
    frequent = [v for v in values if sum(row[name] == v for row in rows) >= 20]
    ids = transform(graph, [rows[0] | {name: value} for value in frequent])[name].ravel()
    assert sorted(ids) == list(range(1, graph.vocabulary_size_by_name(name) + 1))


def test_preprocessing_makes_hours_and_weekdays_from_zero(
    graph: tft.TFTransformOutput, rows: list[Row]
) -> None:
    made = transform(
        graph,
        [
            rows[0] | {"sched_dep_time": 0, "day_of_week": 1},
            rows[0] | {"sched_dep_time": 959, "day_of_week": 5},
            rows[0] | {"sched_dep_time": 2359, "day_of_week": 7},
        ],
    )
    assert made["hour"].ravel().tolist() == [0, 9, 23]
    assert made["weekday"].ravel().tolist() == [0, 4, 6]


def test_preprocessing_gives_impossible_times_and_days_an_hour_and_a_weekday(
    graph: tft.TFTransformOutput, rows: list[Row]
) -> None:
    strange = [
        rows[0] | {"sched_dep_time": clock, "sched_arr_time": clock, "day_of_week": day}
        for clock, day in ((2400, 0), (9999, 8), (-5, -3), (2**40, 2**62), (-(2**62), -(2**62)))
    ]
    made = transform(graph, strange)
    assert ((made["hour"] >= 0) & (made["hour"] < 24)).all()
    assert ((made["weekday"] >= 0) & (made["weekday"] < 7)).all()
    assert np.isfinite(made[NUMERIC]).all()


def test_preprocessing_weights_a_row_sixty_days_older_by_half(
    graph: tft.TFTransformOutput, rows: list[Row]
) -> None:
    newest = max(row[TIME] for row in rows)
    made = transform(
        graph, [rows[0] | {TIME: newest - timedelta(days=days)} for days in (0, 60, 120)]
    )
    np.testing.assert_allclose(made[WEIGHT].ravel(), [1, 0.5, 0.25])


@pytest.mark.parametrize("weight", [WEIGHT, ""])
def test_preprocessing_makes_a_weight_if_it_has_a_name(weight: str) -> None:
    found: dict[str, tf.Tensor] = {}

    def preprocess(inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        found.update(preprocessing_fn(inputs, {**MODEL.custom_config, "weight": weight}))
        return found

    specs = {name: tf.TensorSpec([None, 1], spec.dtype) for name, spec in SPEC.items()}
    tft.get_transform_input_columns(preprocess, specs)
    assert (WEIGHT in found, "" in found) == (bool(weight), False)


def test_preprocessing_saves_no_rows_in_the_graph(
    graph: tft.TFTransformOutput,
) -> None:
    size = sum(p.stat().st_size for p in Path(graph.transform_savedmodel_dir).rglob("*.*"))
    assert size < 500_000


def test_preprocessing_makes_a_column_without_variance_0(
    constant_graph: tft.TFTransformOutput, rows: list[Row]
) -> None:
    usual = rows[0] | CONSTANT
    other = {"temp": 90.0, "pressure": 990.0, "distance": 2475.0, "visib": 10.0, "wind_gust": 40.0}
    strange = [usual | {name: value} for name, value in other.items()]
    strange += [usual | {"humid": 50.0}, usual | {"temp": math.inf}]
    numbers = transform(constant_graph, [usual, *strange])[NUMERIC]
    np.testing.assert_array_equal(numbers[1:], np.tile(numbers[0], (len(strange), 1)))


def test_tflite_model_makes_a_column_without_variance_0_too(
    constant_graph: tft.TFTransformOutput, rows: list[Row], tmp_path: Path
) -> None:
    """The edge model is made of the same graph; it must also have operators for it."""
    names = (*VOCABULARIES, "hour", "weekday")
    inputs: dict[str, Any] = {n: tf_keras.Input((1,), dtype=tf.int64, name=n) for n in names}
    width = transform(constant_graph, rows[:1])[NUMERIC].shape[1]
    inputs[NUMERIC] = tf_keras.Input((width,), name=NUMERIC)
    dense = tf_keras.layers.Dense(1, "sigmoid", kernel_initializer="ones", name=PROBABILITY)
    model = tf_keras.Model(inputs, dense(0.1 * inputs[NUMERIC]))
    save_model(model, constant_graph, str(tmp_path), MODEL.custom_config)
    content = convert(str(tmp_path), RAW_SIGNATURE, float16=False, quantize=False)
    edge = tf.lite.Interpreter(model_content=content).get_signature_runner(RAW_SIGNATURE)
    saved = tf.saved_model.load(str(tmp_path)).signatures[RAW_SIGNATURE]
    usual = rows[0] | CONSTANT
    requests = [usual, usual | {"temp": 90.0, "pressure": 990.0, "humid": 50.0}, rows[1]]
    raw = {}
    for name in FEATURES:
        column = [row[name] for row in requests]
        is_text = SPEC[name].dtype == tf.string
        column = [math.nan if value is None else value for value in column]
        raw[name] = np.array(column, object if is_text else SPEC[name].dtype.as_numpy_dtype)
    by_edge = edge(**raw)[PROBABILITY]
    by_saved = saved(**{n: tf.constant(v) for n, v in raw.items()})[PROBABILITY].numpy()
    np.testing.assert_allclose(by_edge, by_saved, atol=1e-6)
    assert by_edge[0] == by_edge[1] != by_edge[2]
