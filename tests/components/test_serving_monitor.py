"""Tests that ServingMonitor lets real months pass, and says what is wrong with others."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import tensorflow as tf
import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx.v1.types import standard_artifacts as standard
from tfx_bsl.coders import example_coder

from components.serving_monitor.component import ServingMonitor
from components.serving_monitor.page import render
from components.serving_monitor.prediction_checks import check_prediction_drift
from components.serving_monitor.predictions import Bins
from ml.artifacts import statistics_uri
from ml.example_columns import Columns, to_example_batch
from ml.requests import Requests
from ml.statistics import Statistics
from pipeline.config import load_config
from pipeline.model import Model
from pipeline.monitoring import monitor_settings
from storage.errors import UserError
from tests.conftest import PROJECT, read_month, thin
from tests.trips.features import RAW_FEATURES

LABEL, PROBABILITY = load_config().label, load_config().prediction

ANSWER = f"prediction.{PROBABILITY}"
COLUMNS = [*RAW_FEATURES, LABEL, ANSWER]
VERSION = 1795462379
MARCH = (1362096000, 1364774400)

FEW = load_config(settings=["monitor.min_slice_rows=200"])

Monitor = Callable[..., dict[str, Any]]


@cache
def month(number: int) -> pd.DataFrame:
    """Trips of a real month, with predictions that know a little of the label."""
    rows = thin(read_month(number), 2600).to_pandas()
    random = np.random.default_rng(number)
    rows[ANSWER] = np.clip(0.2 + 0.08 * rows[LABEL] + random.normal(0, 0.08, len(rows)), 0.01, 0.99)
    return rows[COLUMNS]


@cache
def training() -> tfdv.types.statistics_pb2.DatasetFeatureStatisticsList:
    months = pd.concat([month(201301), month(201302)], ignore_index=True)
    return tfdv.generate_statistics_from_dataframe(months.drop(columns=ANSWER))


def faulty(**columns: Any) -> pd.DataFrame:
    return month(201303).assign(**columns)


@pytest.fixture
def monitor(
    run_component: Callable[..., dict[str, Any]], curated_schema: Path, tmp_path: Path
) -> Monitor:
    """Runs ServingMonitor on rows of March, by default with those of February before them."""
    before = month(201302)

    def run(
        current: pd.DataFrame,
        previous: pd.DataFrame | None = before,
        served: Any = training,
        requests: Requests | None = None,
    ) -> dict[str, Any]:
        frames = {"current": current, "previous": previous}
        splits = {name: frame for name, frame in frames.items() if frame is not None}
        examples, statistics = standard.Examples(), standard.ExampleStatistics()
        served_statistics = standard.ExampleStatistics()
        for name, artifact in (
            ("examples", examples),
            ("statistics", statistics),
            ("served", served_statistics),
        ):
            artifact.uri = str(tmp_path / name)
            artifact.split_names = json.dumps(list(splits))
        requests = requests or Requests(VERSION, *MARCH, label_months={"current": [201303]})
        requests.rows = {name: len(frame) for name, frame in splits.items()}
        requests.labelled = {n: int(frame[LABEL].notna().sum()) for n, frame in splits.items()}
        examples.set_string_custom_property("requests", requests.to_json())
        for split, frame in splits.items():
            write_examples(tmp_path / "examples" / f"Split-{split}", frame)
            # As of StatisticsGen: what no row has, it has no statistics of.
            there = tfdv.generate_statistics_from_dataframe(frame.dropna(axis=1, how="all"))
            write(statistics_uri(statistics, split), there)
        if served:
            write(statistics_uri(served_statistics, "train"), served())
        inputs = {
            "examples": examples,
            "statistics": statistics,
            "schema": curated_schema,
            "served_statistics": served_statistics,
        }
        outputs = run_component(
            ServingMonitor,
            inputs,
            model_name="a_model",
            features=json.dumps(RAW_FEATURES),
            output=PROBABILITY,
            task=load_config().make_task().to_json(),
            slices='["company"]',
            **monitor_settings(FEW, Model.load(FEW)),
        )
        report: dict[str, Any] = outputs["report"].read()
        assert Path(outputs["report"].page).read_text() == render(report)
        return report

    return run


def write(path: str, statistics: Any) -> None:
    Path(path).parent.mkdir(parents=True)
    Path(path).write_bytes(statistics.SerializeToString())


def write_examples(folder: Path, frame: pd.DataFrame) -> None:
    folder.mkdir(parents=True)
    schema = tfdv.load_schema_text(str(PROJECT / load_config().gate.schema))
    types = {feature.name: feature.type for feature in schema.feature}
    columns = Columns({**types, ANSWER: schema_pb2.FLOAT}, frozenset(), "")
    batch = pa.RecordBatch.from_pandas(frame, preserve_index=False)
    with tf.io.TFRecordWriter(str(folder / "data_tfrecord-00000.gz"), "GZIP") as file:
        encoder = example_coder.RecordBatchToExamplesEncoder()
        for record in encoder.encode(to_example_batch(batch, columns)):
            file.write(record)


def alarming(report: dict[str, Any]) -> set[tuple[str, str, str]]:
    return {(c["kind"], c["subject"], c["against"]) for c in report["checks"] if c["alarms"]}


def values(report: dict[str, Any]) -> dict[tuple[str, str, str], float]:
    return {(c["kind"], c["subject"], c["against"]): c["value"] for c in report["checks"]}


def test_serving_monitor_raises_no_alarm_for_a_real_month(monitor: Monitor) -> None:
    march = month(201303)
    report = monitor(march)
    assert report["alarms"] == []
    assert report["evaluated"] is True
    measured = values(report)
    for kind, against in (("skew", "training"), ("drift", "previous period")):
        assert 0 < measured[kind, "company", against] < 0.05
    missing = march["wind_gust"].isna().mean() - month(201302)["wind_gust"].isna().mean()
    assert measured["missing", "wind_gust", "previous period"] == pytest.approx(abs(missing))
    assert measured["unseen", "company", "training"] == 0
    assert measured["relation", "temp", "previous period"] < 10
    assert measured["prediction drift", "", "previous period"] < 0.05
    overall, *slices = report["live"]
    delayed = march[LABEL] == 1
    pairs = (
        march.loc[delayed, [ANSWER]].merge(march.loc[~delayed, [ANSWER]], how="cross").to_numpy()
    )
    assert overall["metrics"]["auc"] == pytest.approx((pairs[:, 0] > pairs[:, 1]).mean(), abs=1e-3)
    assert overall["mean_labels"] == pytest.approx([delayed.mean()])
    assert list(overall["metrics"]) == ["auc", "auc_pr", "log_loss", "calibration"]
    assert all(0 < deviation < 0.1 for deviation in overall["deviations"].values())
    assert {row["name"] for row in slices} == {
        f"company:{name}" for name, count in march["company"].value_counts().items() if count >= 200
    }
    means = report["predictions"]["current"]["means"]
    assert means == {PROBABILITY: pytest.approx(march[ANSWER].mean())}
    learned = pd.concat([month(201301), month(201302)])[LABEL].mean()
    assert report["predictions"]["training"] == {PROBABILITY: pytest.approx(learned)}


def test_serving_monitor_names_faults_of_features(monitor: Monitor) -> None:
    march = month(201303)
    report = monitor(
        faulty(
            temp=(march["temp"] - 32) / 1.8,
            distance=march["distance"] * 1.609,
            wind_gust=np.nan,
            company=march["company"].replace("DL", "ZZ"),
        )
    )
    assert alarming(report) >= {
        ("relation", "temp", "previous period"),
        ("skew", "distance", "training"),
        ("drift", "distance", "previous period"),
        ("SCHEMA_MISSING_COLUMN", "wind_gust", "schema"),
        ("unseen", "company", "training"),
        ("skew", "company", "training"),
    }
    (unseen,) = (text for text in report["alarms"] if "does not have" in text)
    assert unseen.startswith("company: ")
    assert "(ZZ)" in unseen


def test_serving_monitor_names_faults_of_predictions(monitor: Monitor) -> None:
    march = month(201303)
    shuffled = march[ANSWER].sample(frac=1, random_state=0).to_numpy()
    report = monitor(faulty(**{ANSWER: shuffled / 8}))
    assert alarming(report) == {
        ("prediction drift", "", "previous period"),
        ("mean prediction", "", "training"),
        ("live AUC", "", "labels"),
        ("live calibration", "", "labels"),
    }


def test_serving_monitor_raises_no_alarm_for_few_rows(monitor: Monitor) -> None:
    few = faulty(temp=0.0).head(300)
    report = monitor(few)
    assert report["alarms"] == []
    assert alarming(report)
    assert "300 rows are too few to evaluate: 2,000 are needed." in report["notes"]


def test_serving_monitor_compares_with_training_without_previous_period_and_labels(
    monitor: Monitor,
) -> None:
    requests = Requests(VERSION, *MARCH, other_versions={"8": 12}, without_prediction=3)
    report = monitor(faulty(**{LABEL: np.nan}), previous=None, requests=requests)
    assert report["alarms"] == []
    assert report["live"] == []
    assert {against for _, _, against in values(report)} == {"training"}
    assert report["notes"] == [
        "The previous period (2013-01-29 to 2013-03-01) has 0 rows of this version, fewer than "
        "2,000: nothing is compared with it.",
        "No labels of the period have arrived: there is no live AUC.",
        "12 more requests of the period went to version 8.",
        "3 more rows lack the prediction.",
    ]


def test_serving_monitor_fails_without_training_statistics(monitor: Monitor) -> None:
    with pytest.raises(UserError, match=f"version {VERSION} of a_model has no training statistics"):
        monitor(month(201303).head(10), previous=None, served=None)


def test_serving_monitor_page_escapes_values_of_the_log(monitor: Monitor) -> None:
    rows = month(201303)
    report = monitor(
        rows.assign(company=rows["company"].replace("UA", "<script>alert(1)</script>")),
        previous=None,
    )
    page = render(report)
    assert any("<script>" in text for text in report["alarms"])
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert page.count("<svg") == 3


@pytest.mark.parametrize("seed", range(3))
def test_serving_monitor_raises_no_alarm_by_chance_for_few_requests(
    monitor: Monitor, seed: int
) -> None:
    march = month(201303).sample(150, random_state=seed).reset_index(drop=True)
    report = monitor(march)
    assert [check["text"] for check in report["checks"] if check["alarms"]] == []


def test_serving_monitor_raises_an_alarm_for_a_gross_fault_in_few_requests(
    monitor: Monitor,
) -> None:
    march = month(201303).sample(200, random_state=1).reset_index(drop=True)
    march["company"] = march["company"].replace("UA", "ZZ")
    march["pressure"] *= 0.02953
    checks = [check for check in monitor(march)["checks"] if check["alarms"]]
    assert {(check["kind"], check["subject"]) for check in checks} >= {
        ("unseen", "company"),
        ("skew", "pressure"),
    }


def test_serving_monitor_page_template_is_installed_with_its_package() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["components.serving_monitor"]
    (template,) = (PROJECT / "components/serving_monitor").glob("*.j2")
    assert any(template.match(pattern) for pattern in patterns)


def test_prediction_drift_counts_predictions_that_are_no_numbers() -> None:
    bins = Bins.choose(load_config().make_task(), Statistics(), np.zeros((0, 1)))
    past = np.linspace(0, 1, 1000)[:, None]
    now = np.where(np.arange(1000)[:, None] % 10 == 0, past, np.nan)
    (check,) = check_prediction_drift(bins, now, past, 0.15)
    assert check.alarms
    (check,) = check_prediction_drift(bins, now, now, 0.15)
    assert not check.alarms
