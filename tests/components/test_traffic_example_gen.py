"""Tests that what champion and challenger logged is read as it is, whatever else the log holds."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from components.serving_monitor.page import render
from components.serving_monitor.traffic import compare_traffic
from components.traffic_example_gen import TrafficExampleGen
from ml.artifacts import load_schema
from ml.compared_requests import Pair, clean, find_pair
from pipeline.challenger_config import ChallengerConfig
from pipeline.config import load_config
from serving.server.request_records import make_records
from storage.directory import ModelDirectory
from storage.errors import DataError
from storage.names import REQUEST_LOG_SUFFIX, TRAFFIC_FILE
from storage.traffic import TakenOut, TrafficChange, TrafficPolicy, format_traffic
from tests.conftest import read_month, thin, write_span
from tests.trips.features import RAW_FEATURES

CONFIG = load_config()
LABEL, OUTPUT = CONFIG.label, CONFIG.prediction
MODEL = CONFIG.model_name
DAY = 86_400
BEGIN = 15_768 * DAY  # 2013-03-04
CHAMPION, CHALLENGER = 7, 8


@pytest.fixture(scope="module")
def trips() -> pa.Table:
    return thin(read_month(201303), 60)


@pytest.fixture
def serving(tmp_path: Path) -> ModelDirectory:
    made = tmp_path / "made"
    made.mkdir()
    (made / "saved_model.pb").write_bytes(b"a model")
    models = ModelDirectory(str(tmp_path / "serving"), MODEL)
    for version, label in ((CHAMPION, "champion"), (CHALLENGER, "challenger")):
        models.publish(version, str(made), str(made))
        models.pin(version, label)
    return models


def change_traffic(models: ModelDirectory, *changes: tuple[int, int, int], **fields: Any) -> None:
    """A policy with such a history: seconds since BEGIN, champion and challenger."""
    history = tuple(
        TrafficChange(
            datetime.fromtimestamp(BEGIN + second, UTC).isoformat(), "ann", "shadow", *pair
        )
        for second, *pair in changes
    )
    policy = TrafficPolicy(**{"mode": "shadow", "history": history, **fields})
    with models.locked():
        models.write_note(TRAFFIC_FILE, format_traffic(policy))


def log(
    root: Path,
    trips: pa.Table,
    second: float,
    role: str,
    version: int,
    *,
    request: str = "",
    scores: np.ndarray | None = None,
    extra: dict[str, int] | None = None,
) -> None:
    """A request for all trips, as the server logs it where there is a policy."""
    rows = trips.to_pandas()
    inputs = {}
    for name in RAW_FEATURES:
        values = rows[name].to_numpy()
        if values.dtype == object:
            values = np.array([value.encode() for value in values], object)
        elif values.dtype == np.float64:
            values = values.astype(np.float32)
        inputs[name] = values
    scores = np.full(len(rows), 0.3) if scores is None else scores
    outputs = {OUTPUT: scores.astype(np.float32)[:, None]}
    folder = root / "log" / MODEL
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"requests-{len(list(folder.iterdir())):04d}{REQUEST_LOG_SUFFIX}"
    micros = int((BEGIN + second) * 1e6)
    with tf.io.TFRecordWriter(str(path), "GZIP") as file:
        for number, record in enumerate(make_records(version, inputs, outputs, micros)):
            example = tf.train.Example.FromString(record)
            own: dict[str, bytes | int] = {"request.row": number, "request.latency": 1500}
            own |= {"request.role": role.encode(), "request.id": request.encode()}
            own |= extra or {}
            for name, value in own.items():
                feature = example.features.feature[name]
                if isinstance(value, bytes):
                    feature.bytes_list.value.append(value)
                else:
                    feature.int64_list.value.append(value)
            file.write(example.SerializeToString())


@pytest.fixture
def compared(
    run_component: Callable[..., dict[str, Any]], curated_schema: Path, tmp_path: Path
) -> Callable[..., dict[str, Any] | None]:
    """Runs TrafficExampleGen, and compares what it wrote."""

    def run(schema: Path = curated_schema, **settings: Any) -> dict[str, Any] | None:
        examples = run_component(
            TrafficExampleGen,
            {"schema": schema},
            log_uri=str(tmp_path / "log"),
            model_name=MODEL,
            serving_dir=str(tmp_path / "serving"),
            features=json.dumps(RAW_FEATURES),
            output=OUTPUT,
            data_uri=str(tmp_path / "spans"),
            layout=CONFIG.data.source.layout,
            task=CONFIG.make_task().to_json(),
            encryption_keys="",
        )["examples"]
        rules = dataclasses.replace(ChallengerConfig(min_rows=10), **settings).comparison
        artifact = type("Schema", (), {"uri": str(schema)})()
        return compare_traffic(
            CONFIG.make_task(), examples, load_schema(artifact), OUTPUT, ["company"], 1, rules
        )

    return run


def page(comparison: dict[str, Any]) -> str:
    """The page of a report with nothing but a comparison."""
    current = {"rows": 1, "means": {}, "quantiles": {}, "histogram": [1.0, 0.0]}
    return render(
        {
            **{"model": MODEL, "version": CHAMPION, "since": "", "until": "", "evaluated": True},
            **{"alarms": [], "notes": [], "live": [], "titles": {}, "checks": []},
            "requests": {"rows": {"current": 1}},
            "headline": {"name": "auc", "title": "AUC"},
            "predictions": {"bins": ["all"], "training": {}, "current": current},
            "comparison": json.loads(json.dumps(comparison)),
        }
    )


def play(root: Path, trips: pa.Table, days: int = 8) -> None:
    """A request a day that both predict; the challenger knows the label."""
    random = np.random.default_rng(0)
    labels = trips[LABEL].to_numpy()
    for day in range(days):
        second = day * DAY + 3600
        noise = random.uniform(0, 0.2, (2, len(labels)))
        request = f"{day:016x}"
        log(root, trips, second, "champion", CHAMPION, request=request, scores=0.3 + noise[0])
        scores = np.where(labels == 1, 0.7, 0.1) + noise[1]
        log(
            root,
            trips,
            second + 1,
            "challenger",
            CHALLENGER,
            request=request,
            scores=scores,
            extra={"request.shadow": 1, "request.latency": 2500},
        )


def test_traffic_example_gen_gives_the_comparison_rows_pairs_and_labels(
    compared: Callable[..., Any], serving: ModelDirectory, trips: pa.Table, tmp_path: Path
) -> None:
    write_span(tmp_path / "spans", 201303, trips)
    change_traffic(serving, (0, CHAMPION, CHALLENGER))
    play(tmp_path, trips)
    found = compared()
    assert found["verdict"] == "better", found["reasons"]
    assert (found["champion"], found["challenger"]) == (CHAMPION, CHALLENGER)
    assert (found["mode"], found["since"], found["left_out"]) == ("shadow", "2013-03-04", {})
    rows = 8 * len(trips)
    assert found["rows"]["challenger"] == {"rows": rows, "failed": 0, "labelled": rows}
    assert found["slices"][0]["blocks"] == 8
    assert found["slices"][0]["rows"] == {"champion": rows, "challenger": rows}
    assert found["slices"][1]["name"].startswith("company:")
    assert found["latency"]["champion"]["0.5"] == (1500, 1500, 1500)
    assert found["latency"]["challenger"]["0.99"] == (2500, 2500, 2500)
    shown = page(found)
    assert f"Challenger {CHALLENGER} and champion {CHAMPION}" in shown
    assert "log loss (tested)" in shown
    assert "2,500 (2,500 to 2,500)" in shown


def test_traffic_example_gen_reads_what_is_of_the_pair_alone(
    compared: Callable[..., Any], serving: ModelDirectory, trips: pa.Table, tmp_path: Path
) -> None:
    write_span(tmp_path / "spans", 201303, trips)
    few = trips.slice(0, 10)
    # Another challenger before, the pair for a day, and again after another champion.
    stretches = [(0, CHAMPION, 5), (DAY, CHAMPION, CHALLENGER), (2 * DAY, 6, CHALLENGER)]
    change_traffic(serving, *stretches, (3 * DAY, CHAMPION, CHALLENGER))
    for day in range(4):
        for role, version in (("champion", CHAMPION), ("challenger", CHALLENGER)):
            log(tmp_path, few, day * DAY + 60, role, version, request=f"{day}")
    log(tmp_path, few, DAY + 60, "champion", CHAMPION, request="1")  # Again.
    log(tmp_path, few, DAY + 60, "champion", CHALLENGER, request="a")  # In the wrong role.
    log(tmp_path, few, DAY + 60, "king", CHAMPION, request="b")
    log(tmp_path, few, DAY + 60, "", CHAMPION, request="c")
    log(tmp_path, few, DAY + 60, "champion", CHAMPION)  # Without an id.
    log(tmp_path, few, DAY + 60, "champion", CHAMPION, request="d", extra={"request.row": -1})
    log(tmp_path, few, 1e9, "champion", CHAMPION, request="e")  # It has not come yet.
    odd = {"request.latency": -5, "request.shadow": 7}
    log(tmp_path, few, DAY + 90, "challenger", CHALLENGER, request="\xff" * 99, extra=odd)
    found = compared()
    assert found["left_out"] == {"without an id": 20, "repeated": 10}
    assert found["rows"]["champion"]["rows"] == 20
    assert found["rows"]["challenger"]["rows"] == 30
    assert found["slices"][0]["rows"] == {"champion": 20, "challenger": 20}
    assert found["slices"][0]["blocks"] == 2
    assert found["verdict"] == "not yet"


def test_traffic_example_gen_compares_without_labels_what_needs_none(
    compared: Callable[..., Any], serving: ModelDirectory, trips: pa.Table, tmp_path: Path
) -> None:
    (tmp_path / "spans").mkdir()
    write_span(tmp_path / "spans", 201301, thin(read_month(201301), 20))
    change_traffic(serving, (0, CHAMPION, CHALLENGER))
    play(tmp_path, trips, days=2)
    found = compared()
    assert found["verdict"] == "not yet"
    assert found["rows"]["champion"]["labelled"] == 0
    assert 0 < found["slices"][0]["apart"] < 1
    assert found["slices"][0]["metrics"][0]["champion"] is None
    assert "not yet" in page(found)


@pytest.mark.parametrize("case", ["no policy", "off", "no label", "nothing logged"])
def test_traffic_example_gen_compares_nothing_where_no_challenger_has_traffic(
    compared: Callable[..., Any],
    serving: ModelDirectory,
    trips: pa.Table,
    tmp_path: Path,
    case: str,
) -> None:
    write_span(tmp_path / "spans", 201303, trips)
    log(tmp_path, trips, 60, "", CHAMPION)
    if case != "no policy":
        change_traffic(
            serving, (0, CHAMPION, CHALLENGER), mode="off" if case == "off" else "shadow"
        )
    if case == "no label":
        serving.unpin("challenger")
    found = compared()
    if case == "nothing logged":
        assert found["reasons"] == ["nothing was logged of the two yet"]
        assert "nothing was logged of the two yet" in page(found)
    else:
        assert found is None


def test_traffic_example_gen_reports_a_challenger_that_a_server_took_out(
    compared: Callable[..., Any], serving: ModelDirectory, trips: pa.Table, tmp_path: Path
) -> None:
    write_span(tmp_path / "spans", 201303, trips)
    log(tmp_path, trips, 60, "champion", CHAMPION, request="1")
    out = TakenOut(CHALLENGER, "it gave NaN", "2013-03-05T00:00:00+00:00")
    change_traffic(serving, (0, CHAMPION, CHALLENGER), taken_out=out)
    found = compared()
    assert found["verdict"] == "worse"
    assert found["reasons"][0] == "a server took it out: it gave NaN"


def test_traffic_example_gen_refuses_a_damaged_policy(
    compared: Callable[..., Any], serving: ModelDirectory
) -> None:
    with serving.locked():
        serving.write_note(TRAFFIC_FILE, b'{"mode": "both"}')
    with pytest.raises(DataError, match=r"champion and challenger cannot be compared: .*traffic"):
        compared()


def test_find_pair_takes_labels_that_moved_since_the_last_change(serving: ModelDirectory) -> None:
    change_traffic(serving, (0, 1, 2), (50, 3, 4))
    pair = find_pair(serving, BEGIN + 90)
    assert pair == Pair(CHAMPION, CHALLENGER, ((BEGIN + 50, BEGIN + 90),))
    change_traffic(serving)
    assert find_pair(serving, 5.0) == Pair(CHAMPION, CHALLENGER, ((0.0, 5.0),))
    assert Pair.from_json(pair.to_json()) == pair


IDS = st.sampled_from([None, b"", b"a", b"b", b"\xff"])


@given(
    st.lists(
        st.tuples(
            IDS,
            st.integers(-(2**63), 2**63 - 1) | st.integers(-1, 2),
            st.sampled_from([b"champion", b"challenger"]),
            st.integers(-(2**63), 2**63 - 1),
        ),
        max_size=12,
    )
)
def test_clean_counts_each_row_once_whatever_the_log_holds(rows: list[Any]) -> None:
    names = ["request.id", "request.row", "request.role", "request.time"]
    frame = pd.DataFrame(rows, columns=names).astype({"request.id": object})
    kept, left_out = clean(frame.assign(**{"request.stretch": 0}))
    assert len(kept) + sum(left_out.values()) == len(rows)
    assert not kept.duplicated(["request.id", "request.row", "request.role"]).any()
    assert (kept["request.row"] >= 0).all()
    assert kept.groupby("request.id")["request.time"].nunique().le(1).all()
