"""DataGate on statistics of real months, whole and with faults made on purpose."""

from __future__ import annotations

import json
import math
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2
from tfx.v1.types import standard_artifacts as standard
from tfx_bsl.coders import example_coder

from components.data_gate import reading
from components.data_gate.anomalies import parse_warn_only
from components.data_gate.component import DataGate, GateFacts
from components.data_gate.gate import Gate
from components.data_gate.label_checks import (
    find_classes_to_doubt,
    find_label_unrelated,
    find_label_unusable,
    find_leaks,
    find_weight_unusable,
)
from components.data_gate.reading import hash_rows
from components.data_gate.row_checks import find_duplicates
from ml.artifacts import schema_uri, statistics_uri
from ml.baselines import Sample
from ml.comparisons import only
from ml.example_columns import Columns, to_example_batch
from ml.examples import RowDecoder
from ml.tasks import Task
from pipeline.config import load_config
from storage.errors import BlockingAnomalies, UserError
from storage.tfrecords import open_records
from tests.conftest import PROJECT, read_month, seconds_of, thin
from tests.trips.features import RAW_FEATURES

TASK = load_config().make_task()
LABEL = TASK.label

Fault = Callable[[pd.DataFrame], None]

# Frames that no test changes: what is made of them is made once.
_KEPT: dict[int, pd.DataFrame] = {}


@cache
def month(number: int) -> pd.DataFrame:
    frame = thin(read_month(number), 5000).to_pandas()
    frame["time_hour"] = seconds_of(frame["time_hour"])
    return keep(frame)


@cache
def window(first: int, last: int) -> pd.DataFrame:
    """Some months to learn from, all of them together thinned to about 5,000 rows."""
    months = [month(number) for number in range(first, last + 1)]
    return keep(pd.concat([frame.iloc[:: len(months)] for frame in months], ignore_index=True))


def window_before(number: int) -> pd.DataFrame:
    """The window that a run trains on by default before it is evaluated on a month."""
    return window(max(201301, number - 6), number - 1)


def keep(frame: pd.DataFrame) -> pd.DataFrame:
    _KEPT[id(frame)] = frame
    return frame


def statistics_of(frame: pd.DataFrame) -> bytes:
    return kept_statistics(id(frame)) if id(frame) in _KEPT else make_statistics(frame)


@cache
def kept_statistics(key: int) -> bytes:
    return make_statistics(_KEPT[key])


def make_statistics(frame: pd.DataFrame) -> bytes:
    content: bytes = tfdv.generate_statistics_from_dataframe(frame).SerializeToString()
    return content


def write_statistics(uri: Path, **splits: pd.DataFrame) -> standard.ExampleStatistics:
    artifact = standard.ExampleStatistics()
    artifact.uri = str(uri)
    artifact.split_names = json.dumps(list(splits))
    for split, frame in splits.items():
        path = Path(statistics_uri(artifact, split))
        path.parent.mkdir(parents=True)
        path.write_bytes(statistics_of(frame))
    return artifact


@cache
def example_columns() -> Columns:
    schema = tfdv.load_schema_text(str(PROJECT / load_config().gate.schema))
    return Columns.from_schema(schema, "time_hour")


def examples_of(frame: pd.DataFrame) -> bytes:
    return kept_examples(id(frame)) if id(frame) in _KEPT else make_examples(frame)


@cache
def kept_examples(key: int) -> bytes:
    return make_examples(_KEPT[key])


def make_examples(frame: pd.DataFrame) -> bytes:
    batch = pa.RecordBatch.from_pandas(frame, preserve_index=False)
    encoder = example_coder.RecordBatchToExamplesEncoder()
    with tempfile.NamedTemporaryFile(suffix=".gz") as file:
        with open_records(file.name) as records:
            for record in encoder.encode(to_example_batch(batch, example_columns())):
                records.write(record)
        return Path(file.name).read_bytes()


def write_examples(uri: Path, **splits: pd.DataFrame) -> standard.Examples:
    artifact = standard.Examples()
    artifact.uri = str(uri)
    artifact.split_names = json.dumps(list(splits))
    for split, frame in splits.items():
        folder = uri / f"Split-{split}"
        folder.mkdir(parents=True)
        (folder / "data_tfrecord-00000.gz").write_bytes(examples_of(frame))
    return artifact


def pass_gate(
    root: Path,
    served: pd.DataFrame | None = None,
    warn_only: tuple[str, ...] = (),
    features: tuple[str, ...] = RAW_FEATURES,
    **splits: Any,
) -> standard.ExampleAnomalies:
    """Runs the component's executor, as the pipeline sets it, on some splits.

    Whole examples are written only with `train` and `test`, where DataGate looks at them, and else
    their labels.
    """
    rows = splits
    if not {"train", "test"} <= splits.keys():
        rows = {name: frame[[LABEL]] for name, frame in splits.items()}
    schema = standard.Schema()
    schema.uri = str(root / "schema")
    Path(schema.uri).mkdir(parents=True, exist_ok=True)
    shutil.copy(PROJECT / load_config().gate.schema, schema_uri(schema))
    anomalies = standard.ExampleAnomalies()
    anomalies.uri = str(root / "anomalies")
    inputs = {
        "examples": [write_examples(root / "examples", **rows)],
        "statistics": [write_statistics(root / "statistics", **splits)],
        "schema": [schema],
        "served_statistics": [
            write_statistics(root / "served", **({} if served is None else {"train": served}))
        ],
    }
    gate = load_config().gate
    parameters = {
        "environment": "TRAINING",
        "warn_only": json.dumps(warn_only),
        "features": json.dumps(features),
        "task": TASK.to_json(),
        "max_missing_change": gate.max_missing_change,
        "max_duplicates": gate.max_duplicates,
        "max_error_growth": gate.max_error_growth,
        "min_label_relation": gate.min_label_relation,
    }
    executor = DataGate.EXECUTOR_SPEC.executor_class()
    executor.Do(inputs, {"anomalies": [anomalies]}, parameters)
    return anomalies


def warnings_of(passed: standard.ExampleAnomalies) -> list[str]:
    facts = GateFacts.of(passed)
    assert facts.warnings == len(facts.shown)
    return list(facts.shown)


@pytest.mark.parametrize("number", range(201301, 201313))
def test_data_gate_passes_real_months(tmp_path: Path, number: int) -> None:
    passed = pass_gate(tmp_path, test=month(number))
    assert GateFacts.of(passed) == GateFacts(0, (), compared=False, drift=None)


@pytest.mark.parametrize("number", [201309, 201312])
def test_data_gate_warns_of_a_held_out_week_that_lacks_values(tmp_path: Path, number: int) -> None:
    """September ended with hardly a gust, and December with many hours without data."""
    rows = month(number)
    week = rows[rows["time_hour"] > rows["time_hour"].max() - 7 * 24 * 3600].reset_index(drop=True)
    passed = pass_gate(tmp_path / "held out", train=rows, eval=week)
    assert any("LOW_FRACTION_PRESENT" in line for line in warnings_of(passed))
    with pytest.raises(BlockingAnomalies, match="LOW_FRACTION_PRESENT"):
        pass_gate(tmp_path / "tested", test=week)


@pytest.mark.parametrize(("served", "new"), [(201301, 201307), (201306, 201312), (201311, 201312)])
def test_data_gate_passes_real_months_against_another_season(
    tmp_path: Path, served: int, new: int
) -> None:
    passed = pass_gate(tmp_path, served=month(served), train=month(new), eval=month(new))
    facts = GateFacts.of(passed)
    assert facts.compared
    assert facts.drift
    assert 0 < facts.drift.value <= facts.drift.limit


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
        (put("delayed", 3, 7), "delayed", "value: 7. The schema allows 0 to 1."),
        (put("delayed", 3, None), "delayed", "fewer"),
        (put("temp", 3, math.inf), "temp", "inf"),
        (put("humid", 3, 101.0), "humid", "101"),
        (put("origin", 3, "QQQ"), "origin", "QQQ"),
        (put("distance", 3, -5.0), "distance", "-5"),
        (replace("company", "UA", "U2"), "company", "U2"),
        (drop("company"), "company", "missing"),
        (lose("temp", 0.3), "temp", "0.9"),
        (lose("dest", 0.01), "dest", "fewer"),
    ],
)
def test_data_gate_stops_the_run_and_names_split_feature_and_value(
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


def test_data_gate_warns_of_a_few_unseen_values_of_a_category(tmp_path: Path) -> None:
    frame = month(201303).copy()
    put("company", 3, "ZZ")(frame)
    put("dest", 4, "ZZZ")(frame)
    assert warnings_of(pass_gate(tmp_path, test=frame)) == [
        "test: company: UNSEEN_VALUES: 1 rows have values outside the domain: ZZ",
        "test: dest: UNSEEN_VALUES: 1 rows have values outside the domain: ZZZ",
    ]


def test_data_gate_reports_a_category_far_from_the_served_model_as_drift(tmp_path: Path) -> None:
    frame = month(201303).copy()
    replace("company", "UA", "AA")(frame)
    with pytest.raises(
        BlockingAnomalies, match=r"train: company: COMPARATOR_L_INFTY_HIGH: .*0\.1\d"
    ):
        pass_gate(tmp_path, served=month(201303), train=frame)


def test_data_gate_checks_drift_of_the_window_and_not_of_held_out_days(tmp_path: Path) -> None:
    frame = month(201303).copy()
    replace("company", "UA", "AA")(frame)
    pass_gate(tmp_path, served=month(201303), train=month(201303), eval=frame)


@pytest.mark.parametrize("entry", ["INT_TYPE_BIG_INT", "delayed:INT_TYPE_BIG_INT"])
def test_data_gate_counts_warn_only_anomalies_and_does_not_stop(tmp_path: Path, entry: str) -> None:
    frame = month(201303).copy()
    put("delayed", 3, 7)(frame)
    passed = pass_gate(tmp_path, warn_only=(entry,), test=frame)
    assert GateFacts.of(passed).warnings == 1
    content = Path(passed.uri, "Split-test", "SchemaDiff.pb").read_bytes()
    kept = anomalies_pb2.Anomalies.FromString(content)
    assert list(kept.anomaly_info) == ["delayed"]


def test_data_gate_blocks_other_features_than_the_warn_only_one(tmp_path: Path) -> None:
    frame = month(201303).copy()
    put("delayed", 3, 7)(frame)
    with pytest.raises(BlockingAnomalies):
        pass_gate(tmp_path, warn_only=("month:INT_TYPE_BIG_INT",), test=frame)


def test_parse_warn_only_refuses_an_unknown_anomaly() -> None:
    with pytest.raises(UserError, match="delayed:TOO_LATE"):
        parse_warn_only(["INT_TYPE_BIG_INT", "delayed:TOO_LATE"])


# A new month with the window before it, and the window that the served model was trained on


@pytest.mark.parametrize("number", range(201302, 201313))
def test_data_gate_passes_real_months_with_the_window_before_served(
    tmp_path: Path, number: int
) -> None:
    before = window_before(number)
    pass_gate(tmp_path, served=before, train=before, test=month(number))


@pytest.mark.parametrize("length", [1, 3, 6])
def test_data_gate_passes_real_months_however_old_the_served_model_is(
    tmp_path: Path, length: int
) -> None:
    new = {number: month(number) for number in range(201301, 201313)}
    for first in range(201301, 201313 - length):
        # Each age of it at least once; all pairs are 102.
        for number in range(first + length, 201313, 3):
            folder = tmp_path / f"{first} {number}"
            served = window(first, first + length - 1)
            pass_gate(folder, served=served, train=new[number])


def blocking_reasons(
    root: Path, number: int, fault: Fault, *, statistics_alone: bool = False
) -> list[str]:
    """The reasons why a month with a fault does not pass with the window before it."""
    broken = month(number).copy()
    fault(broken)
    before = window_before(number)
    window = {} if statistics_alone else {"train": before}
    with pytest.raises(BlockingAnomalies) as stopped:
        pass_gate(root, served=before, test=broken, **window)
    return [line.strip() for line in str(stopped.value).splitlines()[1:]]


def convert(column: str, change: Callable[[pd.Series], Any]) -> Fault:
    def fault(frame: pd.DataFrame) -> None:
        frame[column] = change(frame[column])

    return fault


def freeze(column: str) -> Fault:
    return convert(column, lambda values: values.where(values.isna(), values.median()))


def shuffle(column: str) -> Fault:
    return convert(column, lambda values: values.sample(frac=1, random_state=7).to_numpy())


def repeat_day(day: int, instead_of: int) -> Fault:
    """Its rows once more, in place of some of another day's."""

    def fault(frame: pd.DataFrame) -> None:
        source, target = (frame.index[frame["day"] == number] for number in (day, instead_of))
        count = min(len(source), len(target))
        frame.loc[target[:count]] = frame.loc[source[:count]].to_numpy()

    return fault


@pytest.mark.parametrize("number", [201302, 201307, 201312])
@pytest.mark.parametrize("column", ["temp", "dewp"])
def test_data_gate_finds_celsius_instead_of_fahrenheit_in_any_season(
    tmp_path: Path, column: str, number: int
) -> None:
    reasons = blocking_reasons(tmp_path, number, convert(column, lambda f: (f - 32) / 1.8))
    assert any(f"test: {column}: RELATION_CHANGED: " in reason for reason in reasons), reasons


@pytest.mark.parametrize(
    ("column", "factor"),
    [("distance", 1.609), ("visib", 1.609), ("wind_speed", 0.447), ("pressure", 0.02953)],
)
def test_data_gate_finds_a_column_in_other_units(
    tmp_path: Path, column: str, factor: float
) -> None:
    reasons = blocking_reasons(tmp_path, 201312, convert(column, lambda values: values * factor))
    assert any(f"test: {column}: " in reason for reason in reasons), reasons


@pytest.mark.parametrize(
    ("old", "new", "anomaly"),
    [
        ("UA", "U2", "ENUM_TYPE_UNEXPECTED_STRING_VALUES"),
        ("UA", "AA", "COMPARATOR_L_INFTY_HIGH"),
        ("WN", "AA", "VALUE_VANISHED"),
        ("VX", "AA", "VALUE_VANISHED"),
    ],
)
def test_data_gate_finds_a_company_renamed_everywhere(
    tmp_path: Path, old: str, new: str, anomaly: str
) -> None:
    reasons = blocking_reasons(
        tmp_path, 201308, replace("company", old, new), statistics_alone=True
    )
    assert any(f"test: company: {anomaly}: " in reason for reason in reasons), reasons


def test_data_gate_warns_of_a_small_company_that_is_renamed(tmp_path: Path) -> None:
    frame = month(201308).copy()
    replace("company", "HA", "H2")(frame)
    passed = pass_gate(tmp_path, served=window_before(201308), test=frame)
    assert any("company: UNSEEN_VALUES: " in line for line in warnings_of(passed))


@pytest.mark.parametrize("column", ["temp", "humid", "wind_gust", "precip"])
def test_data_gate_finds_a_constant_column_before_a_model_is_served(
    tmp_path: Path, column: str
) -> None:
    broken = month(201310).copy()
    freeze(column)(broken)
    with pytest.raises(BlockingAnomalies, match=f"test: {column}: CONSTANT: all of "):
        pass_gate(tmp_path, train=window_before(201310), test=broken)


@pytest.mark.parametrize("number", [201305, 201309])
@pytest.mark.parametrize("column", ["company", "temp", "wind_dir", "precip", "pressure", "seats"])
def test_data_gate_finds_a_column_that_lost_30_percent(
    tmp_path: Path, column: str, number: int
) -> None:
    reasons = blocking_reasons(tmp_path, number, lose(column, 0.3), statistics_alone=True)
    assert any(f"test: {column}: " in reason for reason in reasons), reasons


def test_data_gate_finds_a_missing_rate_far_from_the_served_model(
    tmp_path: Path,
) -> None:
    def give_everyone_a_gust(frame: pd.DataFrame) -> None:
        frame["wind_gust"] = frame["wind_gust"].fillna(frame["wind_speed"] * 1.3)

    (reason,) = (
        reason
        for reason in blocking_reasons(
            tmp_path, 201310, give_everyone_a_gust, statistics_alone=True
        )
        if "MISSING_RATE_CHANGED" in reason
    )
    assert re.fullmatch(
        r"test: wind_gust: MISSING_RATE_CHANGED: 0\.\d% of the rows have no value, 80\.\d% of "
        r"the served model's training data; a change by more than 35% blocks",
        reason,
    )


@pytest.mark.parametrize("number", [201302, 201308])
def test_data_gate_finds_a_day_delivered_twice(tmp_path: Path, number: int) -> None:
    reasons = blocking_reasons(tmp_path, number, repeat_day(9, instead_of=20))
    assert re.match(r"test: \(data set\): DUPLICATE_ROWS: \d+ of 5,\d+ rows repeat", reasons[0])


@pytest.mark.parametrize("number", range(201302, 201313))
def test_data_gate_finds_shuffled_labels_in_every_month(tmp_path: Path, number: int) -> None:
    (reason,) = blocking_reasons(tmp_path, number, shuffle("delayed"))
    assert re.match(
        r"test: delayed: LABEL_UNRELATED: .* AUC of 0\.[45]\d\d, 0\.[67]\d\d in train", reason
    )


def test_data_gate_finds_inverted_labels(tmp_path: Path) -> None:
    reasons = blocking_reasons(tmp_path, 201310, convert("delayed", lambda delayed: 1 - delayed))
    assert any("test: delayed: COMPARATOR_JENSEN_SHANNON_DIVERGENCE_HIGH" in r for r in reasons)
    assert any("test: delayed: LABEL_UNRELATED" in r for r in reasons)


def test_data_gate_warns_of_drift_near_its_threshold(tmp_path: Path) -> None:
    frame = month(201303).copy()
    frame.loc[frame.index[frame["company"] == "EV"][:220], "company"] = "UA"
    passed = pass_gate(tmp_path, served=month(201303), test=frame)
    assert warnings_of(passed) == [
        "test: company: DRIFT_NEAR_THRESHOLD: drift 0.039; more than 0.05 blocks"
    ]
    drift = GateFacts.of(passed).drift
    assert drift == ("company", pytest.approx(0.039, abs=5e-4), 0.05)
    content = Path(passed.uri, "Split-test", "SchemaDiff.pb").read_bytes()
    kept = anomalies_pb2.Anomalies.FromString(content).anomaly_info["company"]
    assert kept.severity == anomalies_pb2.AnomalyInfo.WARNING
    assert [reason.short_description for reason in kept.reason] == ["DRIFT_NEAR_THRESHOLD"]


def test_data_gate_warns_of_its_own_anomalies_if_set_so(tmp_path: Path) -> None:
    broken, before = month(201308).copy(), window_before(201308)
    shuffle("delayed")(broken)
    passed = pass_gate(
        tmp_path, served=before, warn_only=("delayed:LABEL_UNRELATED",), train=before, test=broken
    )
    assert any("test: delayed: LABEL_UNRELATED: " in line for line in warnings_of(passed))


def test_data_gate_refuses_a_feature_that_the_schema_lacks(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the schema has no feature altitude"):
        pass_gate(tmp_path, features=("temp", "altitude"), test=month(201303))


# Labels that nobody can learn from


def only_label(value: object) -> Fault:
    return convert("delayed", lambda delayed: np.full(len(delayed), value))


@pytest.mark.parametrize("split", ["train", "eval", "test"])
@pytest.mark.parametrize("value", [0, 1])
def test_data_gate_stops_the_run_for_labels_of_one_value_in_any_split(
    tmp_path: Path, split: str, value: int
) -> None:
    broken = month(201303).copy()
    only_label(value)(broken)
    splits = {"train": month(201303), "eval": month(201303)} | {split: broken}
    with pytest.raises(BlockingAnomalies) as stopped:
        pass_gate(tmp_path, **splits)
    assert (
        f"{split}: delayed: LABEL_UNUSABLE: all of {len(broken):,} labels are {value}; at least "
        "two classes are needed. Have the labels of these rows arrived?" in str(stopped.value)
    )


SPECIES = Task("multiclass", "species", ("Adelie", "Chinstrap", "Gentoo"))
PRICE = Task("regression", "price")
SEX = Task("binary", "sex", ("female", "male"))


@pytest.mark.parametrize(
    ("task", "labels", "reason"),
    [
        (TASK, [0.0, 1.0, math.nan, math.nan], "2 of 4 rows have no label"),
        (TASK, [None] * 4, "none of 4 rows has a label"),
        (TASK, [1, 2, 1, 2], r"2 of 4 labels are none of the classes '0', '1': 2 \(2 rows\)\. "),
        (TASK, [-1, 1, -1, 1], r"2 of 4 labels are none of .*: -1 \(2 rows\)\. Correct the labels"),
        (TASK, [0, 0.5, 1, 1], r"1 of 4 labels are none of .*: 0\.5 \(1 rows\)"),
        (TASK, [b"no", b"yes"] * 2, r"4 of 4 labels are none of .*: 'no' \(2 rows\), 'yes'"),
        (TASK, [1, 1, 1, 1], "all of 4 labels are 1; at least two classes are needed"),
        (SEX, [0, 1, 0, 1], "4 of 4 labels are none of the classes 'female', 'male': 0"),
        (SEX, [b"male", None, b"", b"female"], "1 of 4 rows have no label"),
        (SPECIES, [b"Adelie", b"gentoo"], r"1 of 2 labels .*: 'gentoo' \(1 rows\)"),
        (SPECIES, [b"Adelie"] * 3, "all of 3 labels are 'Adelie'"),
        (SPECIES, [*range(5000)], r"5,000 of 5,000 labels are none of .* and 4,995 more values"),
        (PRICE, [b"low", b"high"], "numbers are needed for a regression, not 'low'"),
        (PRICE, [2.5, math.nan], "1 of 2 rows have no label, or none that is finite"),
        (PRICE, [2.5, 2.5], "all of 2 labels are 2.5; numbers that differ are needed"),
    ],
)
def test_find_label_unusable_names_what_the_task_does_not_allow(
    task: Task, labels: list[Any], reason: str
) -> None:
    (anomaly,) = find_label_unusable("train", array_of(labels), task)
    assert (anomaly.type, anomaly.feature) == ("LABEL_UNUSABLE", task.label)
    assert anomaly.blocks(frozenset())
    assert re.search(reason, anomaly.description), anomaly.description


def array_of(labels: list[Any]) -> np.ndarray:
    """Labels as `read_rows` gives them."""
    texts = any(isinstance(label, bytes) or label is None for label in labels)
    return np.array(labels, object if texts else None)


@pytest.mark.parametrize(
    ("task", "labels"),
    [
        (TASK, [0, 1, 1]),
        (TASK, [0.0, 1.0]),
        (SEX, [b"male", b"female"]),
        (SPECIES, [b"Gentoo", b"Adelie"]),
        (PRICE, [3, 4]),
        (PRICE, [-1e6, 2.5]),
    ],
)
def test_find_label_unusable_is_silent_for_labels_of_the_task(
    task: Task, labels: list[Any]
) -> None:
    assert list(find_label_unusable("test", array_of(labels), task)) == []


def test_find_classes_to_doubt_blocks_a_class_of_test_that_train_lacks() -> None:
    train, test = np.repeat([0.0, 1.0], 50), np.repeat([0.0, 1.0, 2.0], 20)
    (anomaly,) = find_classes_to_doubt("test", test, train, SPECIES)
    assert anomaly.type == "CLASS_NOT_IN_TRAIN"
    assert anomaly.blocks(frozenset())
    assert "no row of train is of the class 'Gentoo' (20 rows)" in anomaly.description


def test_find_classes_to_doubt_warns_of_classes_with_few_rows() -> None:
    labels = np.array([0.0] * 50 + [1.0] * 9)
    (rare,) = find_classes_to_doubt("train", labels, labels, SPECIES)
    assert not rare.blocks(frozenset())
    assert rare.description == (
        "of 59 rows few are of the classes 'Chinstrap' (9 rows), 'Gentoo' (0 rows): fewer than 10 "
        "are hardly enough to learn a class"
    )
    assert list(find_classes_to_doubt("eval", labels, labels, SPECIES)) == []
    assert list(find_classes_to_doubt("test", labels, labels, PRICE)) == []


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        ([1.0, -1.0], "1 of 2 rows have no weight, or a negative one"),
        ([math.nan, 1.0], "1 of 2 rows"),
        ([0.0, 0.0], "all of 2 weights are 0"),
    ],
)
def test_find_weight_unusable_names_weights_that_are_none(
    weights: list[float], reason: str
) -> None:
    task = Task("regression", "price", example_weight="count")
    (anomaly,) = find_weight_unusable("test", np.array(weights), task)
    assert anomaly.feature == "count"
    assert reason in anomaly.description
    assert list(find_weight_unusable("test", np.array([0.0, 2.5]), task)) == []


# Features that give the label away


@pytest.mark.parametrize(
    "leak",
    [
        lambda labels: labels,
        lambda labels: labels * 60 - 7.5,
        lambda labels: np.where(labels == 1, np.nan, labels),
        lambda labels: np.array([b"yes" if label else b"no" for label in labels], object),
    ],
)
def test_data_gate_blocks_a_feature_that_gives_the_label_away(leak: Callable[[Any], Any]) -> None:
    rows = window_before(201304)[[*RAW_FEATURES, LABEL]]
    rows = rows.assign(dewp=leak(rows[LABEL].to_numpy()))
    labels = rows[LABEL].to_numpy(float)
    leaks = list(
        find_leaks(
            "train", Sample(rows[[*RAW_FEATURES]], labels, labels * 0 + 1), TASK, RAW_FEATURES
        )
    )
    (anomaly,) = leaks
    assert (anomaly.type, anomaly.feature) == ("LABEL_LEAK", "dewp")
    assert anomaly.blocks(frozenset())
    assert not anomaly.blocks(frozenset({"dewp:LABEL_LEAK"}))
    assert '"dewp:LABEL_LEAK" in gate.warn_only' in anomaly.description


def test_data_gate_stops_the_run_for_a_leak_unless_it_is_named(tmp_path: Path) -> None:
    before, new = window_before(201303).copy(), month(201303).copy()
    for frame in (before, new):
        frame["sched_arr_time"] = frame["sched_arr_time"] % 2 * 0 + frame[LABEL]
    with pytest.raises(BlockingAnomalies, match="train: sched_arr_time: LABEL_LEAK: "):
        pass_gate(tmp_path / "blocked", train=before, test=new)
    passed = pass_gate(
        tmp_path / "named", warn_only=("sched_arr_time:LABEL_LEAK",), train=before, test=new
    )
    assert any("LABEL_LEAK" in line for line in warnings_of(passed))


def test_find_leaks_names_the_feature_of_a_vector_and_spares_few_rows() -> None:
    random = np.random.default_rng(7)
    labels = random.integers(0, 3, 300).astype(float)
    rows = pd.DataFrame({"image[0]": random.normal(size=300), "image[1]": labels})
    (anomaly,) = find_leaks("train", Sample(rows, labels, np.ones(300)), SPECIES, ["image"])
    assert anomaly.feature == "image"
    assert anomaly.description.startswith("image[1] alone predicts ")
    few = Sample(rows[:40], labels[:40], np.ones(40))
    assert list(find_leaks("train", few, SPECIES, ["image"])) == []


# Labels that no longer follow from the features, by task


def related(task: Task, rows: int, seed: int) -> Sample:
    random = np.random.default_rng(seed)
    table = pd.DataFrame(random.normal(size=(rows, 3)), columns=["a", "b", "c"])
    score = table["a"] + 0.5 * table["b"] + random.normal(size=rows)
    labels = score if task.kind == "regression" else np.digitize(score, [-0.5, 0.5])
    return Sample(table, np.asarray(labels, float), np.ones(rows))


@pytest.mark.parametrize("task", [SPECIES, PRICE], ids=lambda task: task.kind)
def test_find_label_unrelated_finds_shuffled_labels_of_any_task(task: Task) -> None:
    window, rows = related(task, 2000, 1), related(task, 1000, 2)
    assert list(find_label_unrelated("test", rows, window, task, 0.25)) == []
    shuffled = np.random.default_rng(3).permutation(rows.labels)
    (anomaly,) = find_label_unrelated(
        "test", Sample(rows.rows, shuffled, rows.weights), window, task, 0.25
    )
    assert anomaly.type == "LABEL_UNRELATED"
    assert task.headline.title in anomaly.description


@pytest.mark.parametrize("task", [SPECIES, PRICE], ids=lambda task: task.kind)
def test_find_label_unrelated_allows_for_chance_in_few_rows(task: Task) -> None:
    window = related(task, 2000, 1)
    for seed in range(20):
        assert not list(find_label_unrelated("test", related(task, 30, seed), window, task, 0.25))


def test_find_label_unrelated_is_silent_where_the_features_never_told_the_label() -> None:
    window, rows = related(SPECIES, 500, 1), related(SPECIES, 500, 2)
    random = np.random.default_rng(3)
    now, before = (Sample(s.rows, random.permutation(s.labels), s.weights) for s in (rows, window))
    assert not list(find_label_unrelated("test", now, before, SPECIES, 0.25))


# Rows that repeat


def test_find_duplicates_allows_for_tables_where_rows_repeat_by_nature() -> None:
    random = np.random.default_rng(7)
    window = pd.DataFrame({"a": random.integers(0, 20, 500), "b": random.integers(0, 20, 500)})
    rows = pd.DataFrame({"a": random.integers(0, 20, 200), "b": random.integers(0, 20, 200)})
    assert rows.duplicated().mean() > 0.1
    (anomaly,) = find_duplicates("test", hash_rows(rows), hash_rows(window), 0.005)
    assert not anomaly.blocks(frozenset())
    twice = pd.concat([rows, rows], ignore_index=True)
    (anomaly,) = find_duplicates("test", hash_rows(twice), hash_rows(window), 0.005)
    assert anomaly.blocks(frozenset())


def test_find_duplicates_does_not_block_one_row_of_61() -> None:
    rows = pd.DataFrame({"a": np.arange(61.0)})
    rows.loc[60, "a"] = 3.0
    window = pd.DataFrame({"a": np.arange(61.0)})
    (anomaly,) = find_duplicates("test", hash_rows(rows), hash_rows(window), 0.005)
    assert not anomaly.blocks(frozenset())


@pytest.mark.parametrize("split", ["train", "eval", "test"])
@pytest.mark.parametrize("kind", [schema_pb2.INT, schema_pb2.FLOAT])
def test_data_gate_finds_soft_labels_whatever_the_schema_allows(split: str, kind: int) -> None:
    schema = tfdv.load_schema_text(str(PROJECT / load_config().gate.schema))
    delayed = tfdv.get_feature(schema, LABEL)
    delayed.type = kind
    delayed.ClearField("int_domain")
    limits = asdict(load_config().gate)
    del limits["schema"], limits["warn_only"]
    gate = Gate(schema=schema, features=RAW_FEATURES, task=TASK, **limits)
    labels = month(201303)[[LABEL]].astype(float)
    labels.loc[3, LABEL] = 0.5
    found = list(gate.check_labels(split, labels, labels, []))
    assert {a.feature for a in found if a.blocks(frozenset())} == {LABEL}


# What the window says nothing about


def test_data_gate_warns_of_columns_of_one_value_in_the_whole_window(tmp_path: Path) -> None:
    window = month(201303).copy()
    freeze("temp")(window)
    replace("origin", "JFK", "EWR")(window)
    replace("origin", "LGA", "EWR")(window)
    window["pressure"] = 1013.2 + 1e-5 * (window["day"] % 2)
    passed = pass_gate(tmp_path, train=window)
    rows = len(window)
    assert [line for line in warnings_of(passed) if "CONSTANT" in line] == [
        f"train: origin: CONSTANT: all of {rows:,} values are 'EWR'; the model can learn nothing "
        "from it",
        f"train: temp: CONSTANT: all of {window['temp'].count():,} values are "
        f"{window['temp'].median():g}, or as good as that; the model can learn nothing from it",
        f"train: pressure: CONSTANT: all of {rows:,} values are 1013.2, or as good as that; the "
        "model can learn nothing from it",
    ]


# Months of few rows


@cache
def whole_month(number: int) -> pd.DataFrame:
    frame = read_month(number).to_pandas()
    frame["time_hour"] = seconds_of(frame["time_hour"])
    return frame


def sample(number: int, rows: int, seed: int) -> pd.DataFrame:
    return whole_month(number).sample(rows, random_state=seed).reset_index(drop=True)


@pytest.mark.parametrize(
    ("number", "rows", "seed"),
    [
        *((201303, 100, seed) for seed in range(6)),
        *((201303, 200, seed) for seed in range(2)),
        *((201308, 200, seed) for seed in (7, 16, 19)),  # Without an hour of fog.
        (201311, 50, 3),
        (201302, 1000, 1),
    ],
)
def test_data_gate_passes_a_random_sample_of_a_real_month(
    tmp_path: Path, number: int, rows: int, seed: int
) -> None:
    pass_gate(tmp_path, served=window_before(number), test=sample(number, rows, seed))


def test_data_gate_passes_random_samples_against_a_whole_window(tmp_path: Path) -> None:
    """Few have a trip to Hawaii, without which all distances lie in other bins."""
    before = keep(pd.concat(map(whole_month, range(201306, 201312))))
    for seed in range(6):
        pass_gate(tmp_path / str(seed), served=before, test=sample(201312, 100, seed))


def test_data_gate_passes_a_random_sample_with_its_rows_examined(tmp_path: Path) -> None:
    before = window_before(201303)
    pass_gate(tmp_path, served=before, train=before, test=sample(201303, 100, 3))


@pytest.mark.parametrize(
    ("fault", "feature"),
    [
        (replace("company", "UA", "AA"), "company"),
        (replace("company", "UA", "U2"), "company"),
        (convert("distance", lambda miles: miles * 1.609), "distance"),
        (convert("pressure", lambda mbar: mbar * 0.02953), "pressure"),
        (convert("humid", lambda percent: percent / 100), "humid"),
        (convert("sched_dep_time", lambda time: time // 2), "sched_dep_time"),
        (convert("delayed", lambda delayed: 1 - delayed), "delayed"),
        (lose("temp", 0.5), "temp"),
    ],
)
def test_data_gate_stops_the_run_for_a_gross_fault_in_200_rows(
    tmp_path: Path, fault: Fault, feature: str
) -> None:
    broken = sample(201303, 200, 5)
    fault(broken)
    with pytest.raises(BlockingAnomalies, match=f"test: {feature}: "):
        pass_gate(tmp_path, served=window_before(201303), test=broken)


def test_data_gate_warns_of_what_chance_explains(tmp_path: Path) -> None:
    passed = pass_gate(tmp_path, served=window_before(201303), test=sample(201303, 100, 0))
    (line,) = (x for x in warnings_of(passed) if "company: COMPARATOR_L_INFTY_HIGH" in x)
    assert re.search(r"By chance: without drift these rows may show 0\.1\d\d?\.$", line)
    content = Path(passed.uri, "Split-test", "SchemaDiff.pb").read_bytes()
    kept = anomalies_pb2.Anomalies.FromString(content).anomaly_info["company"]
    assert kept.severity == anomalies_pb2.AnomalyInfo.WARNING


# Reading


@pytest.mark.parametrize(("hashed", "kept"), [(0, 1), (1, 1), (3, 1), (3, 4), (20_000, 1)])
def test_read_split_takes_every_nth_row_of_all_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hashed: int, kept: int
) -> None:
    monkeypatch.setattr(reading, "_BATCH", 64)
    rows = month(201303).iloc[:500].reset_index(drop=True)
    file = tmp_path / "rows.gz"
    file.write_bytes(make_examples(rows))
    schema = tfdv.load_schema_text(str(PROJECT / load_config().gate.schema))
    read = reading.read_split([str(file)], schema, only([LABEL], schema), hashed=hashed, kept=kept)
    assert read.labels[LABEL].tolist() == rows[LABEL].tolist()
    places = list(range(0, 500, hashed)) if hashed else []
    assert len(read.hashes) == len(places)
    assert read.rows[LABEL].tolist() == rows[LABEL].iloc[places[::kept]].tolist()
    assert len(np.unique(read.hashes)) == len(rows.iloc[places].drop_duplicates())


def test_read_split_converts_the_labels_of_one_batch_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_BATCH", 64)
    converted: list[int] = []
    convert = RowDecoder.rows

    def count(self: RowDecoder, table: pa.Table) -> pd.DataFrame:
        converted.append(len(table))
        return convert(self, table)

    monkeypatch.setattr(RowDecoder, "rows", count)
    rows = month(201303).iloc[:500].reset_index(drop=True)
    rows.loc[100, LABEL] = None  # Whole numbers in one batch, floats in another.
    file = tmp_path / "rows.gz"
    file.write_bytes(make_examples(rows))
    schema = tfdv.load_schema_text(str(PROJECT / load_config().gate.schema))
    read = reading.read_split([str(file)], schema, only([LABEL], schema))
    assert max(converted) == 64
    pd.testing.assert_series_equal(read.labels[LABEL], rows[LABEL], check_dtype=False)


def test_hash_rows_is_the_same_with_and_without_an_absent_number_in_the_column() -> None:
    whole = pd.DataFrame({"n": np.array([1, 2, 3]), "text": [b"a", None, b"c"]})
    absent = pd.DataFrame({"n": [1.0, 2.0, np.nan], "text": [b"a", None, b"c"]})
    assert hash_rows(whole)[:2].tolist() == hash_rows(absent)[:2].tolist()
    assert len(set(hash_rows(whole)) | set(hash_rows(absent))) == 4
