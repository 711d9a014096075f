"""Fairness: the rates of slices are TFMA's, and slices that differ are found, others are not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import tensorflow_model_analysis as tfma
from google.protobuf import json_format
from tensorflow.core.example import example_pb2
from tensorflow_metadata.proto.v0 import schema_pb2

from components.evaluator.columns import COLUMNS
from components.evaluator.fairness import (
    CompareSlices,
    Fairness,
    describe_fairness,
    plan_fairness,
    read_fairness,
)
from ml.fairness.report import FairnessSettings
from ml.tasks import Task
from pipeline.config import load_config
from storage.errors import DataError
from storage.tfrecords import open_records

BINARY = Task("binary", "label")
CLASSES = Task("multiclass", "label", ("0", "1", "2"), ("red", "green", "blue"))
NUMBER = Task("regression", "label")
THRESHOLDS = (0.25, 0.5)
PAIRS = (
    ("false_positive_rate", "FallOut"),
    ("false_negative_rate", "MissRate"),
    ("selection_rate", "PredictedPositiveRate"),
)


def compare(
    folder: Path, task: Task, rows: dict[str, Any], weight: str = "", **settings: Any
) -> dict[str, Any]:
    """Counts rows in two batches, compares them, and reads the report."""
    columns = [name for name in rows if name not in ("label", "prediction", "weight")]
    found = FairnessSettings(tuple(columns), **{"min_slice_examples": 1} | settings)
    kept = {name: frozenset(rows[name].tolist()) for name in columns}
    fairness = Fairness(task, found, "own", weight, kept, [])
    names = [*columns, "weight"] if weight else columns
    extracts = []
    for part in np.array_split(np.arange(len(rows["label"])), 2):
        extracts.append(
            {
                COLUMNS: pa.RecordBatch.from_pydict(
                    {name: pa.array([[v] for v in rows[name][part].tolist()]) for name in names}
                ),
                # What the bootstrap draws by.
                tfma.INPUT_KEY: np.array([_example(b"number", b"%d" % n) for n in part], object),
                tfma.LABELS_KEY: np.asarray(rows["label"][part], float),
                tfma.PREDICTIONS_KEY: {"own": rows["prediction"][part], "other": None},
            }
        )
    with beam.Pipeline(argv=list(load_config().beam_args)) as pipeline:
        _ = pipeline | beam.Create(extracts) | CompareSlices(fairness, str(folder))
    content = read_fairness(str(folder))
    assert content is not None
    return content


def _example(name: bytes, value: bytes) -> bytes:
    example = example_pb2.Example()
    example.features.feature[name.decode()].bytes_list.value.append(value)
    return bytes(example.SerializeToString())


def random_rows(task: Task, rows: int = 300) -> dict[str, Any]:
    """Scores with ties at the thresholds; in one slice no row is positive."""
    rng = np.random.default_rng(11)
    place = rng.choice(["north", "south", "none"], rows, p=[0.5, 0.4, 0.1])
    labels = rng.integers(0, 3 if task == CLASSES else 2, rows)
    labels[place == "none"] = 0
    scores = rng.choice([0.0, 0.1, 0.25, 0.5, 0.50001, 0.75, 1.0], rows).astype(np.float32)[:, None]
    if task == CLASSES:
        scores = rng.dirichlet([1, 1, 1], rows).round(2).astype(np.float32)
    return {
        "label": labels,
        "prediction": scores,
        "place": place,
        "size": rng.integers(1, 3, rows),
        "weight": rng.choice([0.5, 1.0, 3.0], rows),
    }


@pytest.mark.parametrize("task", [BINARY, CLASSES], ids=lambda task: task.kind)
@pytest.mark.parametrize("weight", ["", "weight"])
def test_fairness_rates_are_those_of_tfma(task: Task, weight: str, tmp_path: Path) -> None:
    rows = random_rows(task)
    content = compare(tmp_path, task, rows, weight, thresholds=THRESHOLDS)
    metrics = [
        {
            "class_name": kind,
            "config": json.dumps({"name": f"{name}@{threshold}", "thresholds": [threshold]}),
        }
        for name, kind in PAIRS
        for threshold in THRESHOLDS
    ]
    spec: dict[str, Any] = {"metrics": metrics}
    if task == CLASSES:
        spec["binarize"] = {"class_ids": {"values": [0, 1, 2]}}
    config = json_format.ParseDict(
        {
            "model_specs": [
                {
                    "label_key": "label",
                    "prediction_key": "prediction",
                    "example_weight_key": weight,
                }
            ],
            "slicing_specs": [{}, {"feature_keys": ["place"]}, {"feature_keys": ["size"]}],
            "metrics_specs": [spec],
        },
        tfma.EvalConfig(),
    )
    wide = task == CLASSES
    frame = pd.DataFrame(
        {
            **rows,
            "label": rows["label"].astype(float),
            "prediction": [*rows["prediction"]] if wide else rows["prediction"][:, 0],
        }
    )
    stock = tfma.analyze_raw_data(frame, config)
    expected = {
        (tuple(key), name, sub_key): float(value["doubleValue"])
        for key, by_output in stock.slicing_metrics
        for by_sub_key in by_output.values()
        for sub_key, by_name in by_sub_key.items()
        for name, value in by_name.items()
    }
    compared = 0
    for row in content["metrics"]:
        sub_key = f"classId:{CLASSES.class_names.index(row['class'])}" if wide else ""
        for name, _ in PAIRS:
            key = (tuple(row["slice"].items()), f"{name}@{row['threshold']}", sub_key)
            value = row[name]["value"]
            assert (np.nan if value is None else value) == pytest.approx(
                expected[key], abs=1e-9, nan_ok=True
            ), key
            compared += 1
    assert compared == len(expected) == 6 * 2 * 3 * (3 if wide else 1)
    nobody = [row for row in content["metrics"] if row["slice"] == {"place": "none"}]
    unknown = [row["false_negative_rate"] for row in nobody if row.get("class") != "red"]
    assert unknown
    for rate in unknown:
        assert rate == {"value": None, "low": None, "high": None, "unknown": "no row is positive"}


def two_slices(rows: int, harmed: float) -> dict[str, Any]:
    """Negative rows; in one place, and more so in one corner of it, more scores are too high."""
    rng = np.random.default_rng(5)
    place, size = rng.choice(["north", "south"], rows), rng.choice(["big", "small"], rows)
    corner = (place == "south") & (size == "small")
    chance = np.where(corner, harmed, 0.2)
    labels = (rng.random(rows) < 0.5).astype(int)
    scores = np.where(rng.random(rows) < chance, 0.9, 0.1)
    scores = np.where(labels == 1, np.where(rng.random(rows) < 0.8, 0.9, 0.1), scores)
    return {"label": labels, "prediction": scores[:, None], "place": place, "size": size}


def test_fairness_finds_the_crossed_slice_that_is_worst(tmp_path: Path) -> None:
    content = compare(tmp_path, BINARY, two_slices(3000, harmed=0.6), min_slice_examples=100)
    worst = content["worst_slices"][0]
    assert worst["slice"] == {"place": "south", "size": "small"}
    assert worst["metric"] in ("false_positive_rate", "selection_rate")
    assert worst["p_value"] <= worst["p_value_corrected"] < 1e-6
    # All slices of two columns and those of both together, by three metrics.
    assert content["tests"] == 8 * 3
    rates = [one for one in content["worst_slices"] if one["metric"] == "false_positive_rate"]
    assert rates[0]["value"] == pytest.approx(0.6, abs=0.05)
    assert rates[0]["rest"] == pytest.approx(0.2, abs=0.05)
    # No slice is worse by fewer false positives.
    assert all(one["value"] > one["rest"] for one in rates)
    assert "differ" not in describe_fairness(content)
    assert describe_fairness(content).startswith("fairness by place, size: false positive rate 0.")


def test_fairness_finds_no_slice_where_there_is_only_chance(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    rows = {
        "label": rng.integers(0, 2, 2000),
        "prediction": rng.random((2000, 1)),
        "one": rng.integers(0, 12, 2000),
        "two": rng.integers(0, 12, 2000),
    }
    content = compare(tmp_path, BINARY, rows, min_slice_examples=50)
    assert content["tests"] >= 24 * 3
    assert content["worst_slices"] == []


@pytest.mark.parametrize(
    ("confidence", "harmed", "fails"), [(0.0, 0.6, True), (0.95, 0.6, True), (0.95, 0.35, False)]
)
def test_fairness_limits_fail_in_one_line_each(
    confidence: float, harmed: float, fails: bool, tmp_path: Path
) -> None:
    content = compare(
        tmp_path,
        BINARY,
        two_slices(3000, harmed),
        min_slice_examples=100,
        max_difference={"false_positive_rate": 0.1},
        confidence=confidence,
    )
    lines = [line for line in content["failures"] if line.startswith("fairness: place: ")]
    assert len(lines) == fails
    if not fails:
        return
    assert lines[0].startswith("fairness: place: false positive rate at 0.5 is 0.")
    assert " for 'south' and 0." in lines[0]
    assert lines[0].endswith(" apart: at most 0.1 is allowed (fairness.max_difference)")
    (crossed,) = [line for line in content["failures"] if "place 'south' and size 'small'" in line]
    assert ": false positive rate at 0.5 is 0.5" in crossed
    assert " on all others, by more than chance (corrected p " in crossed
    assert not any("\n" in line for line in content["failures"])


def test_fairness_ratio_is_of_the_lower_rate_to_the_higher(tmp_path: Path) -> None:
    content = compare(
        tmp_path,
        BINARY,
        two_slices(3000, 0.6),
        min_ratio={"selection_rate": 0.95, "false_negative_rate": 0.5},
    )
    rates = {
        one["slice"]["place"]: one["selection_rate"]["value"]
        for one in content["metrics"]
        if "place" in one["slice"]
    }
    (one,) = [
        one
        for one in content["comparisons"]
        if (one["column"], one["metric"]) == ("place", "selection_rate")
    ]
    assert one["slices"] == ["south", "north"]
    assert one["ratio"]["value"] == pytest.approx(rates["north"] / rates["south"])
    assert one["ratio"]["low"] < one["ratio"]["value"] < one["ratio"]["high"]
    assert any("(fairness.min_ratio)" in line for line in content["failures"])
    assert not any("false negative" in line for line in content["failures"])


def test_fairness_of_a_regression_compares_errors(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    place = rng.choice(["north", "south"], 800)
    labels = rng.normal(50, 10, 800)
    noise = rng.normal(0, 1, 800) * np.where(place == "south", 6, 2)
    rows = {
        "label": labels,
        "prediction": (labels + noise + 3 * (place == "south"))[:, None],
        "place": place,
    }
    content = compare(tmp_path, NUMBER, rows, max_difference={"rmse": 2.0, "mean_error": 20.0})
    south = next(one for one in content["metrics"] if one["slice"] == {"place": "south"})
    error = (rows["prediction"][:, 0] - labels)[place == "south"]
    assert south["mean_error"]["value"] == pytest.approx(error.mean())
    assert south["rmse"]["value"] == pytest.approx(np.sqrt((error**2).mean()))
    # The interval is that of a mean.
    width = south["mean_error"]["high"] - south["mean_error"]["value"]
    assert width == pytest.approx(1.96 * error.std() / np.sqrt(len(error)), rel=0.35)
    (line,) = content["failures"]
    assert line.startswith("fairness: place: RMSE is ")
    by_metric = {one["metric"]: one for one in content["comparisons"]}
    assert by_metric["mean_error"]["ratio"]["value"] is None
    assert "threshold" not in south


def test_fairness_does_not_judge_what_too_few_rows_show(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    place = np.repeat(["north", "so\nuth"], [400, 60])
    labels = rng.integers(0, 2, 460)
    labels[place != "north"] = 0
    labels[-5:] = 1
    scores = np.where(rng.random(460) < 0.2, 1 - labels, labels) * 0.8 + 0.1
    scores[-5:] = 0.1  # All five positive rows of the south are missed.
    rows = {"label": labels, "prediction": scores[:, None], "place": place}
    content = compare(tmp_path, BINARY, rows, max_difference={"false_negative_rate": 0.1})
    assert content["failures"] == []
    assert content["unknown"] == [
        "place:so\\nuth: false negative rate at 0.5 is unknown: only 5 rows are positive, at least "
        "16 are needed",
        "place: false negative rate at 0.5 cannot be compared: it is known in one slice of at "
        "least 1 rows",
    ]
    south = content["metrics"][-1]
    assert south["slice"] == {"place": "so\nuth"}
    assert south["false_negative_rate"]["value"] == 1.0
    assert south["false_negative_rate"]["low"] < 0.8


def test_fairness_file_that_is_no_object_is_refused(tmp_path: Path) -> None:
    assert read_fairness(str(tmp_path)) is None
    for text in ("[1]", "{"):
        (tmp_path / "fairness.json").write_text(text)
        with pytest.raises(DataError, match=r"fairness\.json is no"):
            read_fairness(str(tmp_path))


def test_plan_fairness_counts_each_value(tmp_path: Path) -> None:
    """With many classes, so that a slice takes much memory, only the largest slices are kept."""
    path = str(tmp_path / "rows.gz")
    values = ["<b>", *["a"] * 30, *["b"] * 20, *["c"] * 10, *["d"] * 9]
    with open_records(path) as out:
        for value in values:
            out.write(_example(b"place", value.encode()))
    schema = schema_pb2.Schema(feature=[{"name": "place", "type": schema_pb2.BYTES}])
    names = tuple(map(str, range(1000)))
    task = Task("multiclass", "label", names)
    settings = FairnessSettings(("place",), thresholds=(0.1, 0.2, 0.3, 0.4), min_slice_examples=10)
    plan = plan_fairness([path], schema, task, settings, "own")
    assert plan.kept == {"place": frozenset({"a", "b", "c"})}
    small = {"column": "place", "slices": 2, "rows": 10, "why": "fewer than 10 rows"}
    assert plan.left_out == [small]
    many = FairnessSettings(("place",), tuple(np.arange(1, 21) / 21), min_slice_examples=1)
    plan = plan_fairness([path], schema, task, many, "own")
    assert plan.kept == {"place": frozenset({"a", "b"})}
    large = {"column": "place", "slices": 3, "rows": 20, "why": "not among the 2 largest"}
    assert plan.left_out == [large]
