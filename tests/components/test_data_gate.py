"""DataGate on statistics of real months, whole and with faults made on purpose."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import anomalies_pb2
from tfx.v1.types import standard_artifacts as standard

from components.artifacts import statistics_uri
from components.data_gate import DataGate, parse_warn_only
from components.errors import BlockingAnomalies, UserError
from tests.conftest import PROJECT, read_month, thin

Fault = Callable[[pd.DataFrame], None]


@cache
def month(number: int) -> pd.DataFrame:
    frame = thin(read_month(number), 5000).to_pandas()
    frame["time_hour"] = frame["time_hour"].astype("int64") // 10**9
    return frame


def write_statistics(uri: Path, **splits: pd.DataFrame) -> standard.ExampleStatistics:
    artifact = standard.ExampleStatistics()
    artifact.uri = str(uri)
    artifact.split_names = json.dumps(list(splits))
    for split, frame in splits.items():
        path = Path(statistics_uri(artifact, split))
        path.parent.mkdir(parents=True)
        found = tfdv.generate_statistics_from_dataframe(frame)
        path.write_bytes(found.SerializeToString())
    return artifact


def pass_gate(
    root: Path, served: pd.DataFrame | None = None, warn_only: tuple[str, ...] = (), **splits: Any
) -> standard.ExampleAnomalies:
    """Runs the component's executor on statistics of some splits."""
    schema = standard.Schema()
    schema.uri = str(PROJECT / "schema")
    anomalies = standard.ExampleAnomalies()
    anomalies.uri = str(root / "anomalies")
    inputs = {
        "statistics": [write_statistics(root / "statistics", **splits)],
        "schema": [schema],
        "served_statistics": [
            write_statistics(root / "served", **({} if served is None else {"train": served}))
        ],
    }
    executor = DataGate.EXECUTOR_SPEC.executor_class()
    parameters = {"environment": "TRAINING", "warn_only": json.dumps(warn_only)}
    executor.Do(inputs, {"anomalies": [anomalies]}, parameters)
    return anomalies


@pytest.mark.parametrize("number", range(201301, 201313))
def test_real_months_pass_the_schema(tmp_path: Path, number: int) -> None:
    passed = pass_gate(tmp_path, test=month(number))
    assert passed.get_int_custom_property("warnings") == 0


@pytest.mark.parametrize(("served", "new"), [(201301, 201307), (201306, 201312), (201311, 201312)])
def test_real_months_pass_against_the_statistics_of_another_season(
    tmp_path: Path, served: int, new: int
) -> None:
    passed = pass_gate(tmp_path, served=month(served), train=month(new), eval=month(new))
    assert passed.get_string_custom_property("drift") == "compared"


def put(column: str, row: int, value: object) -> Fault:
    def fault(frame: pd.DataFrame) -> None:
        frame.loc[frame.index[row], column] = value

    return fault


def replace(column: str, old: object, new: object) -> Fault:
    def fault(frame: pd.DataFrame) -> None:
        frame[column] = frame[column].replace(old, new)

    return fault


def drop(column: str) -> Fault:
    def fault(frame: pd.DataFrame) -> None:
        del frame[column]

    return fault


def lose(column: str, share: float) -> Fault:
    def fault(frame: pd.DataFrame) -> None:
        lost = np.random.default_rng(7).random(len(frame)) < share
        frame.loc[lost, column] = None

    return fault


@pytest.mark.parametrize(
    ("fault", "feature", "words"),
    [
        (put("late", 3, 7), "late", "value: 7. The schema allows 0 to 1."),
        (put("late", 3, None), "late", "fewer"),
        (put("temp", 3, math.inf), "temp", "inf"),
        (put("humid", 3, 101.0), "humid", "101"),
        (put("origin", 3, "QQQ"), "origin", "QQQ"),
        (put("distance", 3, -5.0), "distance", "-5"),
        (replace("carrier", "UA", "U2"), "carrier", "U2"),
        (drop("carrier"), "carrier", "missing"),
        (lose("temp", 0.3), "temp", "0.9"),
        (lose("dest", 0.01), "dest", "fewer"),
    ],
)
def test_a_fault_stops_the_run_naming_split_feature_and_numbers(
    tmp_path: Path, fault: Fault, feature: str, words: str
) -> None:
    broken = month(201303).copy()
    fault(broken)
    with pytest.raises(BlockingAnomalies) as stopped:
        pass_gate(tmp_path, train=month(201303), test=broken)
    lines = [line for line in str(stopped.value).splitlines() if f"test: {feature}: " in line]
    assert lines, stopped.value
    assert any(words in line for line in lines), lines
    assert "train: " not in str(stopped.value)


def test_a_few_unseen_categories_are_absorbed_where_the_domain_leaves_room(tmp_path: Path) -> None:
    frame = month(201303).copy()
    put("carrier", 3, "ZZ")(frame)
    put("dest", 4, "ZZZ")(frame)
    pass_gate(tmp_path, test=frame)


def test_a_category_that_moves_too_far_from_what_is_served_is_drift(tmp_path: Path) -> None:
    frame = month(201303).copy()
    replace("carrier", "UA", "AA")(frame)
    with pytest.raises(
        BlockingAnomalies, match=r"train: carrier: COMPARATOR_L_INFTY_HIGH: .*0\.1\d"
    ):
        pass_gate(tmp_path, served=month(201303), train=frame)


def test_drift_is_judged_on_the_window_not_on_the_days_held_out(tmp_path: Path) -> None:
    frame = month(201303).copy()
    replace("carrier", "UA", "AA")(frame)
    pass_gate(tmp_path, served=month(201303), train=month(201303), eval=frame)


@pytest.mark.parametrize("entry", ["INT_TYPE_BIG_INT", "late:INT_TYPE_BIG_INT"])
def test_what_is_warn_only_is_counted_and_does_not_stop(tmp_path: Path, entry: str) -> None:
    frame = month(201303).copy()
    put("late", 3, 7)(frame)
    passed = pass_gate(tmp_path, warn_only=(entry,), test=frame)
    assert passed.get_int_custom_property("warnings") == 1
    content = Path(passed.uri, "Split-test", "SchemaDiff.pb").read_bytes()
    kept = anomalies_pb2.Anomalies.FromString(content)
    assert list(kept.anomaly_info) == ["late"]


def test_warn_only_for_one_feature_leaves_others_blocking(tmp_path: Path) -> None:
    frame = month(201303).copy()
    put("late", 3, 7)(frame)
    with pytest.raises(BlockingAnomalies):
        pass_gate(tmp_path, warn_only=("month:INT_TYPE_BIG_INT",), test=frame)


def test_an_anomaly_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UserError, match="late:TOO_LATE"):
        parse_warn_only(["INT_TYPE_BIG_INT", "late:TOO_LATE"])
