"""What Transform learns from real rows, and what it makes of those it has not seen."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_data_validation as tfdv
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from tensorflow_transform.tf_metadata import schema_utils
from tfx_bsl.public import tfxio

from pipeline.config import load_config
from pipeline.features import LABEL, NUMERIC, RAW_FEATURES, TIME, VOCABULARIES, WEIGHT
from pipeline.preprocessing import preprocessing_fn
from tests.conftest import PROJECT, read_month, thin

Row = dict[str, Any]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return thin(read_month(201303), 2000).select([*RAW_FEATURES, TIME, LABEL]).to_pylist()


@pytest.fixture(scope="module")
def graph(rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> tft.TFTransformOutput:
    """A transform graph learned from a sample of March."""
    folder = tmp_path_factory.mktemp("transform")
    source = tfxio.TFExampleBeamRecord(physical_format="inmem", schema=SCHEMA).Project(list(SPEC))
    with (
        beam.Pipeline(argv=list(load_config().beam_args)) as pipeline,
        tft_beam.Context(temp_dir=str(folder / "tmp")),
    ):
        batches = pipeline | beam.Create([encode(row) for row in rows]) | source.BeamSource()
        function = (batches, source.TensorAdapterConfig()) | tft_beam.AnalyzeDataset(
            preprocessing_fn
        )
        _ = function | tft_beam.WriteTransformFn(str(folder / "graph"))
    return tft.TFTransformOutput(str(folder / "graph"))


SCHEMA = tfdv.load_schema_text(str(PROJECT / "schema" / "schema.pbtxt"))
SPEC = {
    name: spec
    for name, spec in schema_utils.schema_as_feature_spec(SCHEMA).feature_spec.items()
    if name in (*RAW_FEATURES, TIME, LABEL)
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


def test_numbers_of_the_training_rows_are_centred_and_scaled(
    graph: tft.TFTransformOutput, rows: list[Row]
) -> None:
    numbers = transform(graph, rows)[NUMERIC][:, :-2]
    assert np.abs(numbers.mean(axis=0)).max() < 0.1
    assert np.all((numbers.std(axis=0) > 0.5) & (numbers.std(axis=0) < 1.1))


def test_an_absent_number_becomes_the_mean_and_pressure_and_temp_say_so(
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


def test_every_number_is_finite_and_within_four_deviations_whatever_comes(
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


def test_unseen_rare_and_absent_categories_share_id_0(
    graph: tft.TFTransformOutput, rows: list[Row]
) -> None:
    rare = next(r for r in rows if sum(o["dest"] == r["dest"] for o in rows) < 20)
    ids = transform(graph, [rows[0] | {"dest": "ZZZ"}, rows[0] | {"dest": ""}, rare])["dest"]
    assert set(ids.ravel()) == {0}


@pytest.mark.parametrize("name", VOCABULARIES)
def test_frequent_categories_have_ids_of_their_own(
    graph: tft.TFTransformOutput, rows: list[Row], name: str
) -> None:
    values = sorted({row[name] for row in rows})
    frequent = [v for v in values if sum(row[name] == v for row in rows) >= 20]
    ids = transform(graph, [rows[0] | {name: value} for value in frequent])[name].ravel()
    assert sorted(ids) == list(range(1, graph.vocabulary_size_by_name(name) + 1))


def test_clock_times_become_hours_and_days_become_weekdays_from_zero(
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


def test_clock_times_and_days_that_do_not_exist_still_have_an_hour_and_a_weekday(
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


def test_a_row_sixty_days_older_than_the_newest_counts_half(
    graph: tft.TFTransformOutput, rows: list[Row]
) -> None:
    newest = max(row[TIME] for row in rows)
    made = transform(
        graph, [rows[0] | {TIME: newest - timedelta(days=days)} for days in (0, 60, 120)]
    )
    np.testing.assert_allclose(made[WEIGHT].ravel(), [1, 0.5, 0.25])


def test_the_transformation_is_saved_without_the_rows_it_was_learned_from(
    graph: tft.TFTransformOutput,
) -> None:
    size = sum(p.stat().st_size for p in Path(graph.transform_savedmodel_dir).rglob("*.*"))
    assert size < 500_000
