"""Tests that ServingMonitor knows faults of classes and of numbers, on scikit-learn's data."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
import tensorflow_data_validation as tfdv
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_diabetes, load_digits
from tensorflow_data_validation.statistics import stats_impl
from tfx.v1.types import standard_artifacts as standard
from tfx_bsl.coders import example_coder

from components.serving_monitor.checks import Check
from components.serving_monitor.component import ServingMonitor
from components.serving_monitor.deviations import standard_deviations
from components.serving_monitor.live import measure_live
from components.serving_monitor.prediction_checks import check_live
from components.serving_monitor.predictions import Bins, describe
from components.serving_monitor.training_labels import read_training_labels
from ml.artifacts import statistics_uri
from ml.requests import Requests
from ml.scores import measure
from ml.statistics import Statistics
from ml.tasks import Task
from pipeline.config import MonitorConfig

DIGITS = Task("multiclass", "digit", tuple("0123456789"), tuple(f"digit {n}" for n in range(10)))
TEXTS = Task("multiclass", "word", tuple(f"word {n}" for n in range(10)))
PROGRESS = Task("regression", "progress")
SCHEMA = """
feature { name: "image" type: FLOAT shape { dim { size: 64 } } presence { min_fraction: 1 } }
feature { name: "ink" type: FLOAT shape { dim { size: 1 } } }
feature { name: "side" type: BYTES shape { dim { size: 1 } } }
feature { name: "bmi" type: FLOAT shape { dim { size: 1 } } }
feature { name: "digit" type: INT shape { dim { size: 1 } } }
feature { name: "word" type: BYTES shape { dim { size: 1 } } }
feature { name: "progress" type: FLOAT shape { dim { size: 1 } } }
"""
FEATURES = {DIGITS: ["image", "ink", "side"], TEXTS: ["image", "ink", "side"], PROGRESS: ["bmi"]}
CLASSES = (DIGITS, TEXTS)

Rows = dict[str, np.ndarray]


@cache
def digits() -> Rows:
    """All 1,797 images, with probabilities that are right nine times in ten."""
    images, labels = load_digits(return_X_y=True)
    random = np.random.default_rng(3)
    shown = np.where(random.random(len(labels)) < 0.9, labels, random.integers(0, 10, len(labels)))
    scores = np.full((len(labels), 10), 0.02) + 0.8 * np.eye(10)[shown]
    return {
        "image": images,
        "ink": images.mean(axis=1),
        "side": np.where(images[:, :32].sum(axis=1) > images[:, 32:].sum(axis=1), b"up", b"low"),
        "digit": labels,
        "word": np.array([f"word {n}".encode() for n in labels]),
        "prediction.p": scores.astype(np.float32),
    }


@cache
def diabetes() -> Rows:
    """Patients with the progress of their disease after a year, and a prediction by the BMI."""
    table, progress = load_diabetes(return_X_y=True)
    bmi = table[:, 2]
    slope, start = np.polyfit(bmi, progress, 1)
    return {"bmi": bmi, "progress": progress, "prediction.p": (start + slope * bmi)[:, None]}


def part(rows: Rows, share: slice, **others: Any) -> Rows:
    return {name: others.get(name, values)[share] for name, values in rows.items()}


def examples_of(rows: Rows) -> list[bytes]:
    found = []
    for place in range(len(rows["prediction.p"])):
        example = tf.train.Example()
        for name, values in rows.items():
            feature = example.features.feature[name]
            value = np.atleast_1d(values[place])
            if value.dtype.kind == "S":
                feature.bytes_list.value.extend(value.tolist())
            elif value.dtype.kind == "i":
                feature.int64_list.value.extend(value.tolist())
            elif not np.isnan(value).all():
                feature.float_list.value.extend(value.tolist())
        found.append(example.SerializeToString())
    return found


Monitor = Callable[..., dict[str, Any]]


@pytest.fixture
def monitor(run_component: Callable[..., dict[str, Any]], tmp_path: Path) -> Monitor:
    """Runs ServingMonitor on rows of the second half, with those of the first one before them."""

    def run(task: Task, current: Rows, previous: Rows, **settings: Any) -> dict[str, Any]:
        (tmp_path / "schema").mkdir(exist_ok=True)
        (tmp_path / "schema" / "schema.pbtxt").write_text(SCHEMA)
        folder = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
        examples, statistics = standard.Examples(), standard.ExampleStatistics()
        served = standard.ExampleStatistics()
        for name, artifact in (("e", examples), ("s", statistics), ("t", served)):
            artifact.uri = str(folder / name)
            artifact.split_names = '["current", "previous"]'
        requests = Requests(7, 0, 86400, label_months={"current": [201303]})
        options = tfdv.StatsOptions(
            schema=tfdv.load_schema_text(str(tmp_path / "schema/schema.pbtxt"))
        )
        for split, rows in (("current", current), ("previous", previous)):
            path = folder / "e" / f"Split-{split}" / "data.gz"
            path.parent.mkdir(parents=True)
            with tf.io.TFRecordWriter(str(path), "GZIP") as file:
                for example in examples_of(rows):
                    file.write(example)
            batch = example_coder.ExamplesToRecordBatchDecoder().DecodeBatch(examples_of(rows))
            found = stats_impl.generate_statistics_in_memory(batch, options)
            kinds = [(statistics, split), *([(served, "train")] if split == "previous" else [])]
            for artifact, name in kinds:
                uri = Path(statistics_uri(artifact, name))
                uri.parent.mkdir(parents=True)
                uri.write_bytes(found.SerializeToString())
            requests.rows[split] = len(rows["prediction.p"])
            requests.labelled[split] = requests.rows[split]
        examples.set_string_custom_property("requests", requests.to_json())
        config = MonitorConfig(min_rows=100, min_slice_rows=100)
        limits = {
            **vars(config),
            "thresholds": {**task.thresholds, **settings.pop("thresholds", {})},
            "slice_thresholds": settings.pop("slice_thresholds", {}),
            **settings,
        }
        outputs = run_component(
            ServingMonitor,
            {
                "examples": examples,
                "statistics": statistics,
                "schema": tmp_path / "schema",
                "served_statistics": served,
            },
            model_name="m",
            features=json.dumps(FEATURES[task]),
            output="p",
            task=task.to_json(),
            slices='["side", "not a feature"]',
            **{k: json.dumps(v) if isinstance(v, dict) else v for k, v in limits.items()},
        )
        report: dict[str, Any] = outputs["report"].read()
        page = Path(outputs["report"].page).read_text()
        assert all(f">{metric.title}</th>" in page for metric in task.metrics)
        return report

    return run


def alarming(report: dict[str, Any]) -> set[tuple[str, str]]:
    return {(c["kind"], c["subject"]) for c in report["checks"] if c["alarms"]}


def halves(rows: Rows, **others: Any) -> tuple[Rows, Rows]:
    """Every second row, perhaps with other values, and the rest."""
    return part(rows, slice(0, None, 2), **others), part(rows, slice(1, None, 2))


@pytest.mark.parametrize("task", CLASSES)
def test_serving_monitor_reports_classes_by_name(monitor: Monitor, task: Task) -> None:
    report = monitor(
        task,
        *halves(digits()),
        thresholds={"accuracy": 0.85},
        slice_thresholds={"accuracy": 0.8},
    )
    assert report["alarms"] == []
    assert report["headline"] == {"name": "accuracy", "title": "accuracy"}
    overall, *slices = report["live"]
    rows = part(digits(), slice(0, None, 2))
    right = rows["prediction.p"].argmax(axis=1) == rows["digit"]
    assert overall["metrics"]["accuracy"] == pytest.approx(right.mean())
    assert {row["name"] for row in slices} == {"side:up", "side:low"}
    means = report["predictions"]["current"]["means"]
    assert list(means) == list(task.class_names)
    assert sum(means.values()) == pytest.approx(1, abs=1e-5)
    training = report["predictions"]["training"]
    assert list(training) == sorted(training, key=list(training).index)
    assert training.keys() == set(task.class_names)
    assert all(0.08 < share < 0.12 for share in training.values())
    assert report["predictions"]["bins"] == list(task.class_names)
    kinds = {c["kind"] for c in report["checks"]}
    assert kinds >= {"live accuracy", "live macro AUC", "live calibration", "mean prediction"}
    assert "not a feature" not in {row["name"].partition(":")[0] for row in slices}


def test_serving_monitor_names_the_class_that_is_predicted_too_often(monitor: Monitor) -> None:
    scores = digits()["prediction.p"].copy()
    scores[::4] = np.eye(10, dtype=np.float32)[7]
    report = monitor(
        DIGITS, *halves(digits(), **{"prediction.p": scores}), thresholds={"accuracy": 0.85}
    )
    assert alarming(report) == {
        ("prediction drift", ""),
        ("mean prediction", "class digit 7"),
        ("live accuracy", ""),
        ("live calibration", "class digit 7"),
    }
    (text,) = (text for text in report["alarms"] if "live accuracy" in text)
    assert "at least 0.85 is required, less" in text


def test_serving_monitor_knows_classes_that_are_mixed_up_in_one_slice(monitor: Monitor) -> None:
    scores = digits()["prediction.p"].copy()
    up = digits()["side"] == b"up"
    scores[up] = scores[up][:, ::-1]
    report = monitor(
        DIGITS,
        *halves(digits(), **{"prediction.p": scores}),
        thresholds={"accuracy": 0.3},
        slice_thresholds={"accuracy": 0.8},
    )
    assert ("live accuracy", "side:up") in alarming(report)
    assert ("live accuracy", "side:low") not in alarming(report)
    assert ("live accuracy", "") not in alarming(report)


def test_serving_monitor_reports_a_regression_in_the_unit_of_the_label(monitor: Monitor) -> None:
    report = monitor(PROGRESS, *halves(diabetes()), thresholds={"rmse": 65, "bias": [-10, 10]})
    assert report["alarms"] == []
    (overall,) = report["live"]
    rows = part(diabetes(), slice(0, None, 2))
    errors = rows["prediction.p"][:, 0] - rows["progress"]
    assert overall["metrics"]["rmse"] == pytest.approx((errors**2).mean() ** 0.5, rel=1e-4)
    assert overall["mean_labels"] == pytest.approx([rows["progress"].mean()])
    assert {c["kind"] for c in report["checks"]} >= {"live RMSE", "live R²", "live bias"}
    before = part(diabetes(), slice(1, None, 2))["progress"]
    assert report["predictions"]["training"] == {"p": pytest.approx(before.mean(), rel=1e-3)}
    assert len(report["predictions"]["current"]["histogram"]) == 11


def test_serving_monitor_knows_predictions_in_another_unit(monitor: Monitor) -> None:
    other = diabetes()["prediction.p"] * 1.5
    report = monitor(
        PROGRESS, *halves(diabetes(), **{"prediction.p": other}), thresholds={"rmse": 65}
    )
    assert alarming(report) >= {
        ("prediction drift", ""),
        ("mean prediction", ""),
        ("live RMSE", ""),
        ("live R²", ""),
    }


def test_serving_monitor_does_not_evaluate_predictions_that_are_not_finite(
    monitor: Monitor,
) -> None:
    endless = diabetes()["prediction.p"].copy()
    endless[::4] = np.inf
    report = monitor(PROGRESS, *halves(diabetes(), **{"prediction.p": endless}))
    assert ("prediction drift", "") in alarming(report)
    (overall,) = report["live"]
    assert overall["rows"] == report["requests"]["rows"]["current"] // 2
    assert overall["metrics"]["rmse"] < 70


# The parts.


def live_of(
    task: Task, labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None = None
) -> Any:
    weights = np.ones(len(labels)) if weights is None else weights
    return measure_live(task, pd.DataFrame(), labels, predictions, weights, [], 1)


def test_check_live_leaves_out_a_metric_that_the_rows_do_not_define() -> None:
    task = Task("binary", "y")
    live = live_of(task, np.ones(50), np.full((50, 1), 0.9))
    assert live[0].metrics["auc"] is None
    checks = list(check_live(task, live, {"auc": 0.9, "log_loss": 0.2}, {}))
    assert [(check.kind, check.alarms) for check in checks] == [("live log loss", False)]


def test_measure_live_weighs_rows_as_the_evaluation_does() -> None:
    labels, predictions = np.arange(40.0), np.zeros((40, 1))
    weights = np.repeat([1.0, 0.0, 3.0], [10, 10, 20])
    (live,) = live_of(PROGRESS, labels, predictions, weights)
    twice = np.repeat(labels, weights.astype(int))
    (repeated,) = live_of(PROGRESS, twice, np.zeros((len(twice), 1)))
    assert live.rows == 30
    assert live.metrics == pytest.approx(repeated.metrics)
    assert live.mean_labels == pytest.approx([twice.mean()])
    # 30 rows of unequal weight are worth less than 30 of equal weight.
    (equal,) = live_of(PROGRESS, labels[weights > 0], predictions[weights > 0])
    assert live.deviations["bias"] > equal.deviations["bias"]


@pytest.mark.parametrize("task", [Task("binary", "y"), DIGITS, PROGRESS], ids=lambda t: t.kind)
def test_standard_deviations_are_those_of_many_samples(task: Task) -> None:
    random = np.random.default_rng(5)
    found: dict[str, list[float]] = {metric.name: [] for metric in task.metrics}
    for _ in range(100):
        noise = random.normal(0, 10, 400)
        if task.kind == "regression":
            labels = random.normal(100, 20, 400)
            predictions = (labels + noise)[:, None]
        elif task.kind == "multiclass":
            labels = random.integers(0, 10, 400) * 1.0
            predictions = np.full((400, 10), 0.07) + 0.3 * np.eye(10)[labels.astype(int)]
            wrong = random.random(400) < 0.2
            predictions[wrong] = predictions[wrong][:, ::-1]
        else:
            labels = (random.random(400) < 0.3) * 1.0
            predictions = np.clip(0.3 + 0.1 * labels + noise / 100, 0.01, 0.99)[:, None]
        values = measure(task, labels, predictions)
        for name, value in values.items():
            assert value is not None
            found[name].append(value)
        deviations = standard_deviations(task, labels, predictions, values)
    for name, samples in found.items():
        # An AUC's is that of random labels, calibration's that of the worst class alone.
        if name not in ("auc", "macro_auc", "calibration"):
            assert deviations[name] == pytest.approx(np.std(samples), rel=0.4), name
        assert (deviations[name] or 0) > 0


def test_read_training_labels_of_more_classes_than_buckets_are_groups() -> None:
    numbers = Task("multiclass", "y", tuple(str(n) for n in range(40)))
    table = pd.DataFrame({"y": np.arange(4000) % 40})
    groups = read_training_labels(numbers, tfdv.generate_statistics_from_dataframe(table))
    assert sorted(k for group in groups for k in group.outputs) == list(range(40))
    assert len(groups) == 10
    assert sum(group.mean for group in groups) == pytest.approx(1)


@pytest.mark.parametrize(
    ("classes", "values", "share"),
    [
        (("0", "1"), [0, 1, 1, 1], 0.75),
        (("2", "1"), [2, 1, 1, 1], 0.75),
        (("no", "yes"), [b"no", b"yes", b"yes", b"yes"], 0.75),
        (("false", "true"), [0, 1, 1, 1], 0.75),
    ],
)
def test_read_training_labels_gives_the_rate_of_the_positive_class(
    classes: tuple[str, str], values: list[Any], share: float
) -> None:
    table = pd.DataFrame({"y": values})
    served = tfdv.generate_statistics_from_dataframe(table)
    (found,) = read_training_labels(Task("binary", "y", classes), served)
    assert (found.outputs, found.mean) == ((0,), pytest.approx(share))


def test_read_training_labels_without_statistics_of_the_label_are_none() -> None:
    served = tfdv.generate_statistics_from_dataframe(pd.DataFrame({"x": [1]}))
    assert read_training_labels(PROGRESS, served) == []


@given(
    value=st.floats(-1e6, 1e6),
    limit=st.floats(-1e6, 1e6).filter(lambda limit: limit != 0),
    at_least=st.booleans(),
)
def test_check_is_closer_than_1_only_if_it_alarms(
    value: float, limit: float, at_least: bool
) -> None:
    check = Check("k", "", "a", value, limit, "", at_least)
    assert check.closeness >= 0
    if check.alarms:
        assert check.closeness >= 1 - 1e-9
    else:
        assert check.closeness <= 1 + 1e-9


def test_bins_of_a_regression_without_statistics_are_those_of_the_period_before() -> None:
    served = Statistics()
    served.datasets.add()
    past = np.arange(1000.0)[:, None]
    bins = Bins.choose(PROGRESS, served, past)
    np.testing.assert_allclose(bins.shares(past), [0.1] * 10 + [0], atol=0.002)
    assert describe(PROGRESS, "p", np.full((3, 1), np.nan), bins)["histogram"][-1] == 1.0
