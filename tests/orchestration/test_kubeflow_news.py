"""Tests of what a run on Kubeflow finds new, and of the alarm that starts one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestration.kubeflow import alarm, news
from orchestration.kubeflow.client import KubeflowPipelines
from orchestration.kubeflow.package import read_package
from storage.errors import DataError, SurroundingsError
from storage.spans import DataSource
from tests.orchestration.kubeflow_stub import PACKAGE, KubeflowStub

KEY = "0123456789abcdef"
SCHEDULE = "flightdeck-training-m"


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which runs leave notes."""
    for name in ("KF_PIPELINES_ENDPOINT", "KF_PIPELINES_NAMESPACE", "KF_PIPELINES_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv(alarm.API_VARIABLE, raising=False)
    monkeypatch.setenv(news.STATE_VARIABLE, str(tmp_path / "state" / "m"))
    return tmp_path / "state" / "m"


@pytest.fixture
def data(tmp_path: Path) -> dict[str, Any]:
    """Two months, and the parameters of the task that reads them."""
    for month in (201301, 201302):
        add_month(tmp_path / "data", month)
    uri = str(tmp_path / "data")
    layout = DataSource(uri, "span-{YYYY}{MM}", "time").layout
    return {"data_uri": uri, "layout": layout, "as_of": 0.0, "window": 1.0}


def add_month(root: Path, month: int) -> None:
    folder = root / f"span-{month}"
    folder.mkdir(parents=True)
    (folder / "rows.parquet").write_text(str(month))


def raise_alarm(state: Path, name: str) -> None:
    state.mkdir(parents=True, exist_ok=True)
    (state / "alarm.json").write_text(json.dumps({"id": name, "reason": "why"}))


def test_look_finds_nothing_where_the_last_run_had_the_same_data(data: dict[str, Any]) -> None:
    found = news.look(KEY, data)
    assert news.NOTHING not in found
    # A run that failed notes nothing.
    assert news.look(KEY, data) == found
    news.note(found)
    assert news.look(KEY, data) == news.NOTHING


def test_look_finds_new_data_another_package_and_changed_files(
    data: dict[str, Any], tmp_path: Path
) -> None:
    news.note(news.look(KEY, data))
    assert news.look("another", data) != news.NOTHING
    add_month(tmp_path / "data", 201303)
    found = news.look(KEY, data)
    assert found != news.NOTHING
    news.note(found)
    assert news.look(KEY, data) == news.NOTHING
    os.utime(tmp_path / "data/span-201303/rows.parquet", (1, 1))
    assert news.look(KEY, data) != news.NOTHING


def test_look_tells_two_schedules_of_a_model_apart(data: dict[str, Any], tmp_path: Path) -> None:
    for key in (KEY, "another"):
        news.note(news.look(key, data))
    assert {news.look(key, data) for key in (KEY, "another")} == {news.NOTHING}
    add_month(tmp_path / "data", 201303)
    news.note(news.look(KEY, data))
    assert news.look(KEY, data) == news.NOTHING
    assert news.look("another", data) != news.NOTHING


def test_look_obeys_an_alarm_once(data: dict[str, Any], state: Path) -> None:
    news.note(news.look(KEY, data))
    raise_alarm(state, "a")
    found = news.look(KEY, data)
    assert json.loads(found)["alarm"] == "a"
    assert news.look(KEY, data) == found  # Not before the run has ended.
    raise_alarm(state, "b")
    news.note(found)
    assert json.loads(news.look(KEY, data))["alarm"] == "b"
    news.note(news.look(KEY, data))
    assert news.look(KEY, data) == news.NOTHING


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, b'{"inputs": 3}', b"\xff"])
def test_look_takes_a_damaged_state_for_none(
    content: bytes, data: dict[str, Any], state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    news.note(news.look(KEY, data))
    (state / "schedule.json").write_bytes(content)
    (state / "alarm.json").write_bytes(content)
    found = news.look(KEY, data)
    assert found != news.NOTHING
    assert "alarm.json is not an alarm" in capsys.readouterr().err
    (state / "alarm.json").unlink()
    news.note(found)
    assert news.look(KEY, data) == news.NOTHING


def test_look_trains_in_any_case_where_it_is_not_asked_or_keeps_no_state(
    data: dict[str, Any], state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        found = news.look("", data)
        assert found != news.NOTHING
        news.note(found)
    assert not state.exists()
    monkeypatch.delenv(news.STATE_VARIABLE)
    for _ in range(2):
        found = news.look(KEY, data)
        assert found != news.NOTHING
        news.note(found)


def test_look_names_the_data_that_is_missing(data: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="nowhere"):
        news.look(KEY, data | {"data_uri": "/nowhere"})


@pytest.mark.parametrize("given", ["", "x", "{}", '{"key": 1, "data": "", "alarm": ""}'])
def test_note_of_something_else_is_a_warning(
    given: str, state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    news.note(given)
    assert "warning: the next run trains again" in capsys.readouterr().err
    assert not (state / "schedule.json").exists()


def test_note_that_cannot_be_written_is_a_warning(
    data: dict[str, Any], state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = news.look(KEY, data)
    state.parent.mkdir(parents=True)
    state.write_text("a file where the folder should be")
    news.note(found)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: the next run trains again")
    assert news.look(KEY, data) != news.NOTHING
    assert "warning: what is new is not known" in capsys.readouterr().err


def test_run_key_is_of_package_and_parameters_but_itself() -> None:
    key = news.run_key("1", {"a": 1, news.ONLY_IF_NEW: ""})
    assert key == news.run_key("1", {news.ONLY_IF_NEW: key, "a": 1})
    assert len({key, news.run_key("2", {"a": 1}), news.run_key("1", {"a": 2})}) == 3


# The alarm


@pytest.fixture
def report(tmp_path: Path) -> Path:
    """A report that calls for an alarm."""
    folder = tmp_path / "report"
    folder.mkdir()
    checks = [{"kind": "skew", "subject": "x", "against": "training", "alarms": True}]
    content = {"model": "m", "version": 7, "since": "2013-03-01", "until": "2013-04-01"}
    text = json.dumps({**content, "alarms": ["x: skew"], "checks": checks})
    (folder / "report.json").write_text(text)
    (folder / "report.html").write_text("<p>x</p>")
    return folder


@pytest.fixture
def scheduled(monkeypatch: pytest.MonkeyPatch) -> Iterator[KubeflowStub]:
    """A server with the training schedule, which tasks know."""
    with KubeflowStub() as stub:
        monkeypatch.setenv(alarm.API_VARIABLE, stub.host)
        monkeypatch.setenv(alarm.SCHEDULE_VARIABLE, SCHEDULE)
        package = read_package(PACKAGE.encode())
        KubeflowPipelines(stub.host).schedule(SCHEDULE, "0 6 1 * *", package, {"epochs": 3})
        yield stub


def test_alarm_waits_for_the_next_run_of_the_schedule(
    report: Path, data: dict[str, Any], state: Path
) -> None:
    news.note(news.look(KEY, data))
    said = alarm.publish(report)
    assert said.startswith("Alarm monitor-2013-03-01-")
    assert (state / "monitoring/2013-03-01_2013-04-01_7/report.html").read_text() == "<p>x</p>"
    news.note(news.look(KEY, data))
    assert news.look(KEY, data) == news.NOTHING
    # The same period raises no other alarm.
    assert "was raised before" in alarm.publish(report)
    assert news.look(KEY, data) == news.NOTHING


def test_alarm_starts_one_run_of_the_training_schedule(
    report: Path, scheduled: KubeflowStub
) -> None:
    said = alarm.publish(report)
    (run,) = scheduled.runs.values()
    assert said.endswith(f"Run {run['run_id']} of the schedule {SCHEDULE} was started.")
    assert run["runtime_config"]["parameters"]["epochs"] == 3
    alarm.publish(report)
    assert len(scheduled.runs) == 1


@pytest.mark.parametrize(("fault", "reason"), [("disabled", "is enabled"), ("down", "HTTP 5")])
def test_alarm_stays_where_no_run_can_be_started(
    fault: str, reason: str, report: Path, scheduled: KubeflowStub, state: Path
) -> None:
    if fault == "disabled":
        KubeflowPipelines(scheduled.host).disable_schedule(SCHEDULE)
    else:
        scheduled.fail("CreateRun", 500)
    said = alarm.publish(report)
    assert "No run was started: " in said
    assert reason in said
    assert (state / "alarm.json").exists()
    assert not scheduled.runs


def test_alarm_that_cannot_be_raised_is_an_error(report: Path, state: Path) -> None:
    state.parent.mkdir(parents=True)
    state.write_text("a file where the folder should be")
    with pytest.raises(SurroundingsError, match="the alarm cannot be raised"):
        alarm.publish(report)


def test_report_without_a_place_for_alarms_raises_none(
    report: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(news.STATE_VARIABLE)
    assert alarm.publish(report) == ""
