"""Tests of backtests, with runs that do as they are told."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ml.metrics import RMSE
from ml.tasks import Task
from orchestration.backtest import backtest as backtest_module
from orchestration.backtest.backtest import Backtest, ForeignDirectoryError
from orchestration.backtest.months import Month
from orchestration.backtest.plot import draw
from orchestration.backtest.report import conclusion, make_table, write_csv
from orchestration.backtest.settings import parse_variant
from orchestration.local.helper_process import Helper, HelperError
from orchestration.local.history import RunRecord
from orchestration.local.output_directory import BusyError, OutputDirectory
from orchestration.outcome import Outcome

TASK = Task("binary", "delayed")
KEYS = {201302: "k2", 201303: "k3", 201304: "k4"}


@dataclass
class World:
    """Runs that do as they are told, and what is served."""

    directory: OutputDirectory
    outcomes: dict[int, str] = field(default_factory=dict)
    serving: tuple[int, str] | None = None
    ran: list[int] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def backtest(self, keys: dict[int, str] = KEYS, name: str = "base") -> Backtest:
        return Backtest(
            name=name,
            directory=self.directory,
            run_keys=keys,
            run_month=lambda month: self.run(month, keys[month]),
            served=lambda: self.serving,
            task=TASK,
            prepare=lambda: None,
            say=self.said.append,
        )

    def run(self, month: int, key: str) -> RunRecord:
        self.ran.append(month)
        root, run_id = self.directory.root, f"run-{month}-{len(self.ran)}"
        (root / f"served-{run_id}").write_text(str(self.serving[0] if self.serving else 0))
        outcome = self.outcomes.get(month, "pushed")
        facts: dict[str, Any] = {"started": "2026-01-01T00:00:00+00:00", "run_key": key}
        if outcome == "pushed":
            self.serving = (month % 100, key)
            facts["version"] = month % 100
        elif outcome == "killed after its push":
            self.serving = (month % 100, key)
            RunRecord(run_id, **facts).write(self.directory)
            raise KeyboardInterrupt
        else:
            facts["reasons"] = ("first reason", "second reason")
            (root / f"stopped-{run_id}").touch()
        record = RunRecord(
            run_id, ended="2026-01-01T00:01:30+00:00", outcome=Outcome(outcome), **facts
        )
        record.write(self.directory)
        return record

    def measured(self) -> list[str]:
        return (self.directory.root / "measured").read_text().splitlines()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(backtest_module, "_MEASURE", "toy_measurement.measure")
    return World(OutputDirectory(tmp_path / "output"))


def test_backtest_evaluates_each_month_with_the_version_of_the_month_before(world: World) -> None:
    months = world.backtest().run()
    assert world.ran == list(KEYS)
    assert [(m.month, m.outcome, m.version, m.served_version) for m in months] == [
        (201302, "pushed", 2, None),
        (201303, "pushed", 3, 2),
        (201304, "pushed", 4, 3),
    ]
    assert [m.served_score for m in months] == [None, 0.62, 0.63]
    # The first version, had it never been replaced.
    assert [m.first_score for m in months] == [None, 0.62, 0.62]
    assert [m.baseline_score for m in months] == [0.72, 0.72, 0.72]
    assert [m.drift for m in months] == [None, ("size", 0.25, 0.5), ("size", 0.25, 0.5)]
    assert [m.seconds for m in months] == [90, 90, 90]
    assert world.said == ["base: 201302, 1 of 3", "base: 201303, 2 of 3", "base: 201304, 3 of 3"]


def test_backtest_plays_the_strategies_on_its_months(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backtest_module, "_PLAY", "toy_measurement.play")
    backtest = world.backtest()
    played = backtest.play(backtest.run())
    assert [(served.month, served.newest) for served in played] == [
        *((201302, None), (201303, 2), (201304, 3))
    ]
    assert (world.directory.root / "played").read_text() == "86400 promote\n"


def test_backtest_goes_on_after_a_month_that_is_not_pushed(world: World) -> None:
    world.outcomes = {201302: "not blessed", 201304: "stopped by the gate"}
    months = world.backtest().run()
    assert [m.served_version for m in months] == [None, None, 3]
    assert [m.first_score for m in months] == [None, None, 0.63]
    assert [m.served_score for m in months] == [None, None, 0.63]
    assert months[2].new_score is None
    assert months[2].decision == "stopped by the gate\nfirst reason\nsecond reason"
    assert months[1].decision == "pushed version 3"


def test_backtest_does_not_run_a_finished_month_again(world: World) -> None:
    first = world.backtest().run()
    assert world.backtest().run() == first
    assert world.ran == list(KEYS)
    assert world.measured() == [
        "run-201302-1 delayed",
        "run-201303-2 delayed",
        "run-201304-3 delayed",
    ]


def test_backtest_resumes_where_it_was_stopped(world: World) -> None:
    world.outcomes = {201303: "interrupted"}
    with pytest.raises(KeyboardInterrupt):
        world.backtest().run()
    world.outcomes = {}
    months = world.backtest().run()
    assert world.ran == [201302, 201303, 201303, 201304]
    assert [m.run_id for m in months] == ["run-201302-1", "run-201303-3", "run-201304-4"]


def test_backtest_does_not_repeat_a_run_that_ended_before_it_was_killed(world: World) -> None:
    with world.directory.locked():
        world.run(201302, "k2")
    (world.directory.root / "backtest.json").write_text('{"run_keys": {"201302": "k2"}}')
    world.backtest().run()
    assert world.ran == list(KEYS)


def test_backtest_counts_a_run_killed_after_its_push_as_pushed(world: World) -> None:
    world.outcomes = {201303: "killed after its push"}
    with pytest.raises(KeyboardInterrupt):
        world.backtest().run()
    months = world.backtest().run()
    assert world.ran == list(KEYS)
    assert (months[1].outcome, months[1].version) == ("pushed", 3)
    assert months[2].served_version == 3


def test_backtest_ends_at_a_failed_run_and_tries_it_again(world: World) -> None:
    world.outcomes = {201303: "failed"}
    months = world.backtest().run()
    assert [m.outcome for m in months] == ["pushed", "failed"]
    assert not months[1].is_decided
    world.outcomes = {}
    months = world.backtest().run()
    assert [m.outcome for m in months] == ["pushed", "pushed", "pushed"]
    assert world.ran == [201302, 201303, 201303, 201304]


def test_backtest_accepts_more_or_fewer_months_later(world: World) -> None:
    few = {month: KEYS[month] for month in (201302, 201303)}
    assert len(world.backtest(few).run()) == 2
    whole = world.backtest().run()
    assert world.ran == list(KEYS)
    assert world.backtest(few).run() == whole[:2]
    assert world.backtest().run() == whole


def backtested(world: World) -> None:
    world.backtest().run()


def ran_otherwise(world: World) -> None:
    with world.directory.locked():
        world.run(201302, "another key")


def served(world: World) -> None:
    world.serving = (7, "")


def damaged(world: World) -> None:
    world.directory.root.mkdir()
    (world.directory.root / "backtest.json").write_text("{")


@pytest.mark.parametrize(
    ("before", "keys", "message"),
    [
        (
            backtested,
            {**KEYS, 201303: "k"},
            r"with another configuration, code or data \(of 201303\)",
        ),
        (backtested, {201303: "k3", 201304: "k4"}, "a backtest from 201302 on, not from 201303"),
        (ran_otherwise, KEYS, "the run run-201302-1, which is not of this backtest"),
        (served, KEYS, "serves version 7 before the first month"),
        (damaged, KEYS, "backtest.json cannot be read"),
    ],
)
def test_backtest_refuses_a_directory_of_another_kind(
    world: World, before: Callable[[World], None], keys: dict[int, str], message: str
) -> None:
    before(world)
    ran = list(world.ran)
    with pytest.raises(ForeignDirectoryError, match=f"{message}.*choose another directory by --o"):
        world.backtest(keys).check()
    assert world.ran == ran


def test_backtest_leaves_a_directory_in_use_alone(world: World) -> None:
    with world.directory.locked(), pytest.raises(BusyError):
        world.backtest().run()
    assert world.ran == []


def scores(month: Month, new: float, served: float, first: float, baseline: float) -> Month:
    return replace(
        month, new_score=new, served_score=served, first_score=first, baseline_score=baseline
    )


MONTHS = [
    Month(201306, "r6", Outcome.PUSHED, 11, new_score=0.75, baseline_score=0.77, seconds=90),
    scores(
        Month(
            *(201307, "r7", Outcome.NOT_BLESSED, None, ("Evaluator: too low",)),
            served_version=11,
            drift=("precip", 0.45, 0.9),
        ),
        *(0.61, 0.70, 0.70, 0.72),
    ),
    Month(201308, "r8", Outcome.STOPPED_BY_GATE, None, ("DataGate: [delayed] is 7",), 30.0),
    scores(
        Month(201309, "r9", Outcome.PUSHED, 12, served_version=11, drift=("seats", 0.1, 0.2)),
        *(0.69, 0.68, 0.66, 0.7),
    ),
]


def rows(backtests: dict[str, list[Month]]) -> list[list[str]]:
    console = Console(file=io.StringIO(), width=200)
    console.print(make_table(backtests, TASK.headline))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    return [line.split() for line in lines if line.strip()]


def test_backtest_table_shows_all_months_and_the_means_of_complete_ones() -> None:
    _, _, *shown = (" ".join(row) for row in rows({"base": MONTHS}))
    assert shown == [
        "201306 0.7500 - - 0.7700 - pushed version 11",
        "201307 0.6100 0.7000 0.7000 0.7200 precip 0.45 of 0.9 not blessed",
        "Evaluator: too low",
        "201308 - - - - - stopped by the gate",
        "DataGate: [delayed] is 7",
        "201309 0.6900 0.6800 0.6600 0.7000 seats 0.1 of 0.2 pushed version 12",
        "mean 0.6500 0.6900 0.6800 0.7100",
    ]


def test_backtest_table_tells_several_backtests_apart() -> None:
    _, heading, *shown = rows({"base": MONTHS, "warm": MONTHS[:1]})
    assert heading[0] == "settings"
    assert [row[0] for row in shown if row[0] in ("base", "warm")] == ["base"] * 5 + ["warm"]


def test_backtest_conclusion_tells_what_retraining_is_worth() -> None:
    last = scores(Month(201310, "r10", Outcome.PUSHED, 13, served_version=12), 0.7, 0.7, 0.65, 0.7)
    (line,) = conclusion({"base": [*MONTHS, last]}, TASK.headline)
    assert "with monthly retraining 0.6933" in line
    assert "without 0.6700: retraining gained +0.0233." in line
    # Nothing can be said where the first version was all that ever served.
    assert conclusion({"base": MONTHS}, TASK.headline) == []


def test_backtest_of_a_regression_says_that_lower_is_better() -> None:
    months = [
        scores(
            Month(number, "r", Outcome.PUSHED, 11, served_version=version),
            *(500.0, 510.0, 561.0, 505.0),
        )
        for number, version in ((201306, 11), (201307, 12))
    ]
    console = Console(file=io.StringIO(), width=200)
    console.print(make_table({"base": months}, RMSE))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "RMSE on each span (lower is better)" in shown
    assert "510.0" in shown
    (line,) = conclusion({"base": months}, RMSE)
    assert line == (
        "mean RMSE with monthly retraining 510.0, without 561.0: retraining gained +10.0%."
    )


def test_backtest_csv_has_a_line_for_each_month_of_each_backtest(tmp_path: Path) -> None:
    write_csv({"base": MONTHS, "warm": MONTHS[:1]}, tmp_path / "backtest.csv")
    lines = list(csv.DictReader((tmp_path / "backtest.csv").open()))
    assert [line["settings"] for line in lines] == ["base"] * 4 + ["warm"]
    assert [line["month"] for line in lines[:4]] == ["201306", "201307", "201308", "201309"]
    assert lines[1]["new_score"] == "0.61"
    assert lines[0]["served_score"] == ""
    assert (lines[1]["drift_feature"], lines[1]["drift_limit"]) == ("precip", "0.9")
    assert lines[2]["reasons"] == "DataGate: [delayed] is 7"


@pytest.mark.parametrize("backtests", [{"base": MONTHS}, {"base": MONTHS, "warm": MONTHS[:2]}])
def test_backtest_plot_is_drawn_with_missing_values(
    backtests: dict[str, list[Month]], tmp_path: Path
) -> None:
    draw(backtests, tmp_path / "backtest.png", TASK.headline)
    assert (tmp_path / "backtest.png").read_bytes().startswith(b"\x89PNG")


def test_parse_variant_reads_a_name_and_settings() -> None:
    assert parse_variant("few:data.window=2") == ("few", ["data.window=2"])
    assert parse_variant('a-1:gate.warn_only=["x","y"],training.epochs=3') == (
        "a-1",
        ['gate.warn_only=["x","y"]', "training.epochs=3"],
    )


@pytest.mark.parametrize("text", ["few", "few:", "few:window", ":data.window=2", "../x:a=1"])
def test_parse_variant_refuses_other_text_and_tells_what_is_expected(text: str) -> None:
    with pytest.raises(ValueError, match=r"NAME:KEY=VALUE\[,KEY=VALUE\] is expected"):
        parse_variant(text)


def test_helper_that_fails_names_its_error_and_its_log(tmp_path: Path) -> None:
    log = tmp_path / "helper.log"
    with pytest.raises(HelperError, match=rf"toy_measurement.fail: ValueError: no(.|\n)*{log}"):
        Helper("toy_measurement.fail", ("no",), str(log)).result()
    assert "Traceback" in log.read_text()


def test_helper_that_dies_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(HelperError, match=r"toy_measurement.die: its process died"):
        Helper("toy_measurement.die", (), str(tmp_path / "log")).result()
