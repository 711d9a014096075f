"""Tests of what a schedule decides, and of what it does when runs, clocks and processes fail."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import fake_runs
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_runs import KEY, World, look
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestration.local.history import list_runs
from orchestration.local.output_directory import OutputDirectory
from orchestration.local.situation import Situation
from orchestration.outcome import Outcome
from orchestration.schedule import hooks as hooks_module
from orchestration.schedule.challenger import Settled
from orchestration.schedule.completeness import unfinished
from orchestration.schedule.cron import Cron
from orchestration.schedule.decision import Backoff, Idle, Later, Retrain, decide, subject
from orchestration.schedule.hooks import Hooks
from orchestration.schedule.schedule import Schedule
from orchestration.schedule.state import Alarm, Attempt, State
from storage.errors import DataError, UserError

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)  # A Monday.
HOURLY = "0 * * * *"


class TestClock:
    """A clock whose time passes when somebody waits, and which can be put forward and back."""

    __test__ = False

    def __init__(self, time: datetime = NOON, seconds: float = 1e9):
        self.time = time
        self.left = seconds
        self.waits: list[float] = []
        self.jumps: dict[int, timedelta] = {}  # Before which wait, and how far.

    @property
    def stopping(self) -> bool:
        return self.left <= 0

    def now(self) -> datetime:
        return self.time

    def wait(self, seconds: float) -> bool:
        self.time += self.jumps.pop(len(self.waits), timedelta())
        self.waits.append(seconds)
        self.time += timedelta(seconds=seconds)
        self.left -= seconds
        return self.stopping


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(OutputDirectory(tmp_path / "output"))
    world.span.parent.mkdir(parents=True)
    pq.write_table(pa.table({"x": [1, 2, 3]}), world.span)
    return world


@dataclasses.dataclass
class Desk:
    """A schedule with all that it says, and the outcomes it tells of."""

    world: World
    tmp_path: Path
    clock: TestClock = dataclasses.field(default_factory=TestClock)
    said: list[str] = dataclasses.field(default_factory=list)
    key: str = KEY

    def schedule(self, **options: Any) -> Schedule:
        notify = f"""sh -c 'cat >> "{self.tmp_path}/told"'"""
        defaults: dict[str, Any] = {
            "look": lambda: look(self.world, self.key),
            "settle_seconds": 0.0,
            "backoff": Backoff(retries=2, seconds=300),
            "hooks": Hooks(notify),
        }
        return Schedule(
            directory=self.world.directory,
            command=self.world.command,
            say=self.said.append,
            clock=self.clock,
            **{**defaults, **options},
        )

    def fire(self, **options: Any) -> str:
        """Fires as a process of its own would: with nothing but the files in mind."""
        return self.schedule(**options).fire()

    @property
    def told(self) -> list[dict[str, Any]]:
        path = self.tmp_path / "told"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def desk(world: World, tmp_path: Path) -> Desk:
    return Desk(world, tmp_path)


# --- What is decided.

SITUATION = Situation(
    model_name="toy",
    run_key="new",
    data="d2",
    configuration="c",
    data_uri="",
    files=(),
    months={"train": (201301, 201302), "test": (201303,)},
    served=7,
    served_key="old",
    served_months={"train": (201212, 201301), "test": (201302,)},
)
SAME = {"served_months": SITUATION.months}
BACKOFF = Backoff(retries=2, seconds=300)


@pytest.mark.parametrize(
    ("change", "state", "why"),
    [
        ({}, State(), "span-201303 is new"),
        ({"served": None, "served_key": "", "served_months": {}}, State(), "nothing is served yet"),
        (SAME, State(), "the data, the configuration or the code changed"),
        (SAME, State(inputs={"old": {"data": "d1", "configuration": "c"}}), "files of the window"),
        (SAME, State(inputs={"old": {"data": "d2", "configuration": "b"}}), "the configuration"),
        (SAME, State(inputs={"old": {"data": "d2", "configuration": "c"}}), "the code changed"),
        (
            {"months": {"train": (201211, 201212), "test": (201301,)}},  # A span was withdrawn.
            State(),
            "the window was 201212 to 201302 and is 201211 to 201301 now",
        ),
    ],
)
def test_decide_retrains_for_a_change_and_names_it(
    change: dict[str, Any], state: State, why: str
) -> None:
    situation = dataclasses.replace(SITUATION, **change)
    decision = decide(situation, None, state, NOON, BACKOFF)
    assert isinstance(decision, Retrain)
    assert not decision.afresh
    assert decision.why[0].startswith(why)


def test_decide_does_nothing_where_the_served_version_has_the_same_inputs() -> None:
    situation = dataclasses.replace(SITUATION, served_key="new")
    decision = decide(situation, None, State(), NOON, BACKOFF)
    assert isinstance(decision, Idle)
    assert "version 7 of toy was made from this" in decision.reason


def test_decide_does_not_make_a_rolled_back_version_again() -> None:
    situation = dataclasses.replace(SITUATION, rolled_back=8)
    decision = decide(situation, None, State(), NOON, BACKOFF)
    assert isinstance(decision, Idle)
    assert "version 8 of toy" in decision.reason
    assert "was rolled back" in decision.reason


@pytest.mark.parametrize("served_key", ["new", "old"])
def test_decide_retrains_for_an_alarm_and_afresh_without_a_change(served_key: str) -> None:
    situation = dataclasses.replace(SITUATION, served_key=served_key)
    decision = decide(situation, Alarm("a1", "drift of x"), State(), NOON, BACKOFF)
    assert isinstance(decision, Retrain)
    assert decision.why[-1] == "alarm a1: drift of x"
    assert decision.afresh == (served_key == "new")


@pytest.mark.parametrize("outcome", ["not blessed", "stopped by the gate", "nothing new"])
def test_decide_repeats_a_final_outcome_only_after_a_change(outcome: str) -> None:
    attempt = Attempt(Outcome(outcome), 1, NOON, "run-1", ("auc 0.6, at least 0.7 is required",))
    state = State(attempts={subject(SITUATION, None): attempt})
    later = NOON + timedelta(days=30)
    decision = decide(SITUATION, None, state, later, BACKOFF)
    assert isinstance(decision, Idle)
    assert f"run run-1 of this data, configuration and code ended {outcome}" in decision.reason
    assert "at least 0.7 is required" in decision.reason
    for change in ({"run_key": "newer"}, {"served": 6}):
        changed = dataclasses.replace(SITUATION, **change)
        assert isinstance(decide(changed, None, state, later, BACKOFF), Retrain)
    assert isinstance(decide(SITUATION, Alarm("a1"), state, later, BACKOFF), Retrain)


@given(
    failures=st.integers(1, 1000),
    elapsed=st.integers(0, 10**6),
    seconds=st.floats(0, 1e6),
)
def test_decide_repeats_a_failure_after_pauses_that_double_up_to_six_hours(
    failures: int, elapsed: int, seconds: float
) -> None:
    state = State(attempts={subject(SITUATION, None): Attempt(Outcome.FAILED, failures, NOON)})
    backoff = Backoff(2, seconds)
    now = NOON + timedelta(seconds=elapsed)
    decision = decide(SITUATION, None, state, now, backoff)
    pause = min(seconds * 2 ** min(failures - 1, 64), 6 * 3600)
    if abs(elapsed - pause) > 1:
        assert isinstance(decision, Retrain if elapsed > pause else Later)
    assert backoff.pause(failures + 1) >= backoff.pause(failures)
    # The clock was put back: the pause must not last until it has caught up.
    before = NOON - timedelta(seconds=elapsed + 1)
    assert isinstance(decide(SITUATION, None, state, before, backoff), Retrain)


# --- When it fires.


@pytest.mark.parametrize(
    ("expression", "first"),
    [
        ("0 6 * * *", "Tue 3 06:00"),
        ("30 12 * * *", "Mon 2 12:30"),
        ("0 6 * * 0", "Sun 8 06:00"),
        ("0 6 * * 7", "Sun 8 06:00"),
        ("0 6 * * 1", "Mon 9 06:00"),
        ("0 6 * * 3-5", "Wed 4 06:00"),
        ("0 6 * * 6-7", "Sat 7 06:00"),
        ("0 6 * * */2", "Tue 3 06:00"),
        ("0 6 * * fri", "Fri 6 06:00"),
        ("0 6 20 * 5", "Fri 6 06:00"),  # Either fits, as in a crontab.
        ("0 6 5 * sun", "Thu 5 06:00"),
        ("0 6 20 * */2", "Sat 20 06:00"),  # A field that begins with * has to fit as well.
        ("*/20 * * * *", "Mon 2 12:20"),
    ],
)
def test_cron_means_what_it_means_in_a_crontab(expression: str, first: str) -> None:
    time = Cron(expression, "UTC").after(NOON)
    assert f"{time:%a} {time.day} {time:%H:%M}" == first


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("0 6 * *", "has 4 fields"),
        ("61 * * * *", "61"),
        ("0 6 * * 8", "day-of-week"),
        ("0 0 30 2 *", "never comes"),
        ("0 6 * * mon/0", "day-of-week"),
        ("at six", "fields"),
    ],
)
def test_cron_refuses_a_meaningless_expression(expression: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Cron(expression, "UTC")


def test_cron_uses_the_time_zone_and_refuses_an_unknown_one() -> None:
    assert Cron("0 6 * * *", "Asia/Tokyo").after(NOON) == datetime(2026, 3, 2, 21, tzinfo=UTC)
    with pytest.raises(ValueError, match="Mars/North"):
        Cron("0 6 * * *", "Mars/North")


@settings(max_examples=50)
@given(st.datetimes(datetime(2025, 1, 1), datetime(2028, 1, 1), timezones=st.just(UTC)))
def test_cron_next_time_is_later_when_clocks_change(time: datetime) -> None:
    cron = Cron("30 2 * * *", "Europe/Berlin")
    for _ in range(4):
        following = cron.after(time)
        assert timedelta(0) < following - time.astimezone(UTC) < timedelta(hours=26)
        time = following


@pytest.mark.parametrize(
    ("expression", "zone", "before", "times"),
    [
        # Midnight is left out, where clocks go forward at midnight.
        ("0 0 * * *", "America/Sao_Paulo", "2018-11-03T12", ["04T01:00-02:00", "05T00:00-02:00"]),
        ("30 2 * * *", "Europe/Berlin", "2026-03-28T12", ["29T03:00+02:00", "30T02:30+02:00"]),
        ("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T10", ["04T02:30+11:00"]),
        # A whole day is left out.
        ("0 0 * * *", "Pacific/Apia", "2011-12-29T12", ["31T00:00+14:00"]),
        # 2:30 comes twice, and fires once; what fires each half hour does so in both.
        ("30 2 * * *", "Europe/Berlin", "2026-10-24T12", ["25T02:30+02:00", "26T02:30+01:00"]),
        ("30 2 * * *", "Europe/Berlin", "2026-10-25T01:10", ["26T02:30+01:00"]),
        (
            "*/30 * * * *",
            "Europe/Berlin",
            "2026-10-25T00:10",
            ["25T02:30+02:00", "25T02:00+01:00", "25T02:30+01:00", "25T03:00+01:00"],
        ),
    ],
)
def test_cron_fires_once_on_days_on_which_clocks_change(
    expression: str, zone: str, before: str, times: list[str]
) -> None:
    time = datetime.fromisoformat(before).replace(tzinfo=UTC)
    found = []
    for _ in times:
        time = Cron(expression, zone).after(time)
        found.append(f"{time:%dT%H:%M}{time.isoformat()[-6:]}")
    assert found == times


@settings(max_examples=200)
@given(st.text(alphabet="0123456789*/,-? #LWlw@٣monjan", max_size=30))
def test_cron_refuses_any_other_text_with_a_value_error(text: str) -> None:
    with suppress(ValueError):
        assert Cron(text, "UTC").after(NOON) > NOON


@pytest.mark.parametrize("zone", ["Mars/North", "CET-1CEST", "../x", "\0"])
def test_cron_refuses_an_unknown_time_zone_of_the_machine(
    zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="time zone"):
        Cron("0 6 * * *", zone)
    if "\0" not in zone:
        monkeypatch.setenv("TZ", zone)
        with pytest.raises(ValueError, match="time zone"):
            Cron("0 6 * * *")


def firings(desk: Desk, cron: str, **options: Any) -> list[datetime]:
    """When a schedule looks, while its clock runs."""
    times: list[datetime] = []

    def note() -> Situation:
        times.append(desk.clock.now())
        return dataclasses.replace(SITUATION, served_key="new")

    desk.schedule(look=note, **options).keep_firing(Cron(cron, "UTC"))
    return times


def test_schedule_fires_at_the_times_of_the_expression(desk: Desk) -> None:
    desk.clock = TestClock(NOON + timedelta(minutes=7), seconds=3 * 3600)
    assert firings(desk, HOURLY) == [NOON + timedelta(hours=hours) for hours in (1, 2, 3)]


def test_schedule_makes_up_once_for_missed_firings(desk: Desk) -> None:
    desk.clock = TestClock(NOON, seconds=1800)
    assert firings(desk, "0 6 * * *") == []  # The first start: there is nothing to make up for.
    desk.clock = TestClock(NOON + timedelta(days=5), seconds=2 * 86400)
    times = firings(desk, "0 6 * * *")
    assert times[0] == NOON + timedelta(days=5)
    assert [f"{time:%d %H}" for time in times[1:]] == ["08 06", "09 06"]
    assert sum("Making up for the firing of 2026-03-03 06:00" in line for line in desk.said) == 1


def test_schedule_does_not_repeat_a_firing_after_a_restart(desk: Desk) -> None:
    desk.clock = TestClock(NOON, seconds=3700)
    assert firings(desk, HOURLY) == [NOON + timedelta(hours=1)]
    desk.clock = TestClock(NOON + timedelta(minutes=65), seconds=600)
    assert firings(desk, HOURLY) == []


def test_schedule_fires_once_when_the_clock_is_put_forward(desk: Desk) -> None:
    desk.clock = TestClock(NOON, seconds=7300)
    desk.clock.jumps = {10: timedelta(days=400)}
    times = firings(desk, HOURLY)
    assert len(times) == 3  # At once, and then hourly.
    assert times[0] - NOON > timedelta(days=400)


def test_schedule_keeps_firing_when_the_clock_is_put_back(desk: Desk) -> None:
    desk.clock = TestClock(NOON + timedelta(days=4000), seconds=5 * 3600)
    desk.clock.jumps = {250: timedelta(days=-4000)}
    times = firings(desk, HOURLY)
    assert sum(time < NOON + timedelta(days=1) for time in times) >= 3
    assert any("The clock was put back" in line for line in desk.said)


def test_schedule_keeps_firing_with_a_state_from_the_future(desk: Desk) -> None:
    desk.clock = TestClock(NOON + timedelta(days=4000))
    look_at = dataclasses.replace(SITUATION, served_key="new")
    assert desk.fire(look=lambda: look_at) == "nothing new"
    desk.clock = TestClock(NOON, seconds=2.5 * 3600)
    assert len(firings(desk, HOURLY)) == 2


@settings(max_examples=10)
@given(
    jumps=st.dictionaries(
        st.integers(0, 400), st.timedeltas(timedelta(days=-900), timedelta(days=900)), max_size=4
    )
)
def test_schedule_fires_within_two_hours_whatever_the_clock_did(
    jumps: dict[int, timedelta], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("jumps")
    desk = Desk(World(OutputDirectory(path / "output")), path)
    desk.clock = TestClock(NOON, seconds=4.2 * 3600)
    desk.clock.jumps = dict(jumps)
    times = firings(desk, HOURLY)
    assert times
    assert 0 <= (desk.clock.now() - times[-1]).total_seconds() <= 2.1 * 3600


def test_schedule_makes_up_once_for_a_firing_delayed_by_another_run(
    desk: Desk, world: World
) -> None:
    busy = world.directory.locked()
    busy.__enter__()
    desk.clock = TestClock(NOON + timedelta(minutes=59), seconds=1000)
    release = TestClock.wait

    def wait(seconds: float) -> bool:
        if desk.clock.left < 500 and world.directory.in_use():
            busy.__exit__(None, None, None)
        return release(desk.clock, seconds)

    desk.clock.wait = wait  # type: ignore[method-assign]
    times = firings(desk, HOURLY)
    assert len(times) == 1
    assert times[0] > NOON + timedelta(hours=1, minutes=5)
    assert sum(line.startswith("Missed, and to be made up for") for line in desk.said) == 1


# --- What a firing does.


def test_schedule_pushes_at_its_first_firing_and_finds_nothing_new_at_the_next(
    desk: Desk, world: World
) -> None:
    assert desk.fire() == "pushed"
    assert desk.fire() == "nothing new"
    assert len(world.ran()) == 1
    (told,) = desk.told
    (run_id,) = world.ran()[0]
    assert told["outcome"] == "pushed"
    assert told["version"] == 1
    assert told["run_id"] == run_id
    assert told["why"] == ["nothing is served yet"]
    assert told["months"] == {"train": [201302], "test": [201303]}
    assert told["attempt"] == 1
    assert {"started", "ended", "log", "model", "reasons"} <= told.keys()


@pytest.mark.parametrize(("status", "outcome"), [(3, "stopped by the gate"), (4, "not blessed")])
def test_schedule_reports_a_refused_model_once_and_does_not_make_it_again(
    desk: Desk, world: World, status: int, outcome: str
) -> None:
    world.plan({"status": status, "reasons": ["x is too low"]})
    assert desk.fire() == outcome
    assert desk.fire() == "nothing new"
    assert [(t["outcome"], t["reasons"], t["version"]) for t in desk.told] == [
        (outcome, ["x is too low"], None)
    ]
    desk.key = "bbbb"
    world.plan({"status": status})
    assert desk.fire() == outcome
    assert len(world.ran()) == 2


def test_schedule_repeats_a_failed_run_with_growing_pauses_and_reports_it(
    desk: Desk, world: World
) -> None:
    world.plan(*[{"status": 1, "reasons": ["no luck"]}] * 4)
    assert desk.fire() == "failed"
    assert len(world.ran()) == 3
    assert sum(desk.clock.waits) == pytest.approx(300 + 600, abs=2)
    assert [(t["outcome"], t["attempt"], t["reasons"]) for t in desk.told] == [
        ("failed", 3, ["no luck"])
    ]
    # It is left alone until its pause is over; then later firings try once each.
    assert desk.fire() == "waiting"
    desk.clock.time += timedelta(days=1)
    assert desk.fire() == "failed"
    assert len(world.ran()) == 4
    desk.clock.time += timedelta(days=1)
    assert desk.fire() == "pushed"
    assert [t["outcome"] for t in desk.told] == ["failed", "failed", "pushed"]


@pytest.mark.parametrize(
    "step",
    [
        {"status": 1, "lasting": True, "reasons": ["all labels are 0"]},
        {"status": 2, "record": False, "say": "no such setting"},
    ],
)
def test_schedule_does_not_repeat_a_run_that_would_fail_again(
    desk: Desk, world: World, step: dict[str, Any]
) -> None:
    world.plan(step)
    assert desk.fire() == "failed"
    desk.clock.time += timedelta(days=1)
    assert desk.fire() == "nothing new"
    assert len(world.ran()) == 1
    assert [(t["outcome"], t["attempt"]) for t in desk.told] == [("failed", 1)]
    assert "not tried again until one of them, or what is served, changes" in desk.said[-1]
    desk.key = "other data"
    assert desk.fire() == "pushed"


def test_schedule_reports_no_failure_for_a_run_that_fails_once(desk: Desk, world: World) -> None:
    world.plan({"status": 1})
    assert desk.fire() == "pushed"
    assert [(t["outcome"], t["attempt"]) for t in desk.told] == [("pushed", 2)]


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        ({"signal": signal.SIGKILL}, "the run was killed by SIGKILL"),
        ({"status": 1, "record": False, "say": "ImportError: no such thing"}, "ImportError: no"),
    ],
)
def test_schedule_records_a_failed_run_that_gives_no_reason(
    desk: Desk, world: World, step: dict[str, Any], reason: str
) -> None:
    world.plan(step)
    assert desk.fire(backoff=Backoff(0)) == "failed"
    (told,) = desk.told
    assert told["reasons"][0].startswith(reason)
    (record,) = list_runs(world.directory)
    assert record.outcome == "failed"
    assert record.reasons[0].startswith(reason)


def test_schedule_repeats_a_stopped_run_at_the_next_firing(desk: Desk, world: World) -> None:
    world.plan({"signal": signal.SIGTERM})
    assert desk.fire() == "interrupted"
    assert desk.told == []
    assert desk.fire() == "pushed"


def test_schedule_handles_an_alarm_once(desk: Desk, world: World) -> None:
    assert desk.fire() == "pushed"
    alarm = {"id": "a1", "reason": "drift of x", "created": "2026-03-02T12:00:00+00:00"}
    world.directory.alarm.write_text(json.dumps(alarm))
    assert desk.fire() == "pushed"
    assert world.ran()[1][1:] == ["--no-cache"]
    assert desk.told[1]["why"] == ["alarm a1: drift of x"]
    assert desk.fire() == "nothing new"
    world.directory.alarm.write_text(json.dumps({**alarm, "id": "a2"}))
    assert desk.fire() == "pushed"


def test_schedule_handles_an_alarm_whose_model_is_refused_once(desk: Desk, world: World) -> None:
    world.serve(1, "old")
    world.directory.alarm.write_text(json.dumps({"id": "a1", "reason": "drift of x"}))
    world.plan({"status": 4})
    assert desk.fire() == "not blessed"
    assert desk.fire() == "nothing new"
    assert len(world.ran()) == 1


def test_schedule_keeps_an_alarm_whose_run_failed(desk: Desk, world: World) -> None:
    world.serve(1, KEY)
    world.directory.alarm.write_text(json.dumps({"id": "a1"}))
    world.plan({"status": 1})
    assert desk.fire(backoff=Backoff(0)) == "failed"
    desk.clock.time += timedelta(hours=1)
    assert desk.fire() == "pushed"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"reason": "no id"}', '{"id": 5}'])
def test_schedule_ignores_a_file_that_is_not_an_alarm(
    desk: Desk, world: World, content: str
) -> None:
    world.serve(1, KEY)
    world.directory.alarm.write_text(content)
    assert desk.fire() == "nothing new"
    assert any("is not an alarm" in line for line in desk.said)


def test_schedule_waits_for_a_half_written_file_and_reports_it_if_it_stays(
    desk: Desk, world: World
) -> None:
    whole = world.span.read_bytes()
    world.span.write_bytes(whole[: len(whole) // 2])
    assert desk.fire() == "waiting"
    assert "Not complete yet" in desk.said[-1]
    assert str(world.span) in desk.said[-1]
    world.span.write_bytes(whole[: len(whole) // 2 + 9])  # It grows.
    assert desk.fire() == "waiting"
    assert desk.told == []
    assert [desk.fire(), desk.fire()] == ["failed", "failed"]  # It does not any more.
    (told,) = desk.told
    assert "is not a whole Parquet file" in told["reasons"][0]
    assert world.ran() == []
    world.span.write_bytes(whole)
    assert desk.fire() == "pushed"


def test_schedule_waits_for_a_new_file_to_settle(desk: Desk, world: World) -> None:
    written = datetime.fromtimestamp(world.span.stat().st_mtime, UTC)
    desk.clock = TestClock(written + timedelta(seconds=10))
    assert desk.fire(settle_seconds=60) == "pushed"
    assert sum(desk.clock.waits) == pytest.approx(50, abs=1)


def test_schedule_leaves_a_changing_file_to_the_next_firing(desk: Desk, world: World) -> None:
    def write() -> Situation:
        os.utime(world.span, (desk.clock.time.timestamp(),) * 2)
        return look(world)

    assert desk.fire(look=write, settle_seconds=60) == "waiting"
    assert 600 <= sum(desk.clock.waits) < 700
    assert world.ran() == []


def test_unfinished_does_not_wait_for_a_file_from_the_future(world: World) -> None:
    now = datetime.fromtimestamp(world.span.stat().st_mtime, UTC) - timedelta(days=9)
    assert unfinished(look(world), now, 60) == ("", 0.0)


def test_unfinished_takes_text_by_its_age_and_parquet_by_its_end_too(world: World) -> None:
    text = world.span.with_suffix(".csv")
    text.write_text("a,b\n1,2\n")
    now = datetime.fromtimestamp(text.stat().st_mtime, UTC)
    situation = dataclasses.replace(look(world), files=(str(text),))
    assert unfinished(situation, now, 60) == (f"{text} was written just now", 60)
    assert unfinished(situation, now + timedelta(seconds=61), 60) == ("", 0.0)
    world.span.write_text("a,b\n1,2\n")
    assert "is not a whole Parquet file" in unfinished(look(world), now, 60)[0]


def test_schedule_looks_again_when_a_file_is_withdrawn(desk: Desk, world: World) -> None:
    looks: list[Situation] = []

    def withdraw() -> Situation:
        found: Situation = look(world)
        gone = dataclasses.replace(found, files=(*found.files, str(world.span) + ".gone"))
        looks.append(found)
        return gone if len(looks) == 1 else found

    assert desk.fire(look=withdraw, settle_seconds=5) == "pushed"


def test_schedule_waits_for_a_missing_month(desk: Desk, world: World) -> None:
    complete = False

    def gap() -> Situation:
        if not complete:
            raise DataError("the 6 months before span-201305 lack span-201304")
        return look(world)

    assert desk.fire(look=gap) == "waiting"
    assert desk.fire(look=gap) == "failed"
    complete = True
    assert desk.fire(look=gap) == "pushed"
    assert [t["outcome"] for t in desk.told] == ["failed", "pushed"]


@pytest.mark.parametrize("error", [UserError("unknown key"), ZeroDivisionError("a bug")])
def test_schedule_reports_an_error_once_and_fires_again(desk: Desk, error: Exception) -> None:
    def fail() -> Situation:
        raise error

    assert [desk.fire(look=fail), desk.fire(look=fail)] == ["failed", "failed"]
    assert [t["outcome"] for t in desk.told] == ["failed"]
    assert str(error) in desk.told[0]["reasons"][0]
    assert desk.fire() == "pushed"


NOT_STATES = (
    b'{"attempts": {"x": {"outcome": 5}}}',
    b'{"last_firing": "2026-03-02T12:00:00"}',  # Of no time zone.
    b'{"problem": {"text": "", "since": "2026-03-02T12:00:00"}}',
    b"[" * 100_000,
)


@settings(max_examples=20)
@given(content=st.binary(max_size=60) | st.sampled_from(NOT_STATES))
def test_schedule_survives_a_damaged_state_file(
    content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("damaged")
    desk = Desk(World(OutputDirectory(path / "output")), path)
    desk.world.serve(1, KEY)
    desk.world.directory.schedule.write_bytes(content)
    assert desk.fire() == "nothing new"
    json.loads(desk.world.directory.schedule.read_bytes())


def test_schedule_lets_one_process_decide_at_a_time(desk: Desk, world: World) -> None:
    with world.directory.scheduling():
        assert desk.fire() == "busy"
    with world.directory.locked():
        assert desk.fire() == "busy"
    assert "a run is using the output directory" in desk.said[-1]
    assert world.ran() == []
    assert desk.fire() == "pushed"


def test_schedule_state_does_not_grow_without_end(desk: Desk, world: World) -> None:
    world.directory.root.mkdir()
    attempt = {"outcome": "failed", "number": 1, "ended": "2026-03-02T12:00:00Z"}
    old = {
        "inputs": {f"k{n}": {"data": "d"} for n in range(500)},
        "attempts": {f"s{n}": attempt for n in range(500)},
    }
    world.directory.schedule.write_text(json.dumps(old))
    assert desk.fire() == "pushed"
    state = json.loads(world.directory.schedule.read_text())
    assert len(state["inputs"]) <= 50
    assert len(state["attempts"]) <= 50


# --- Whom it tells.


class Listener(BaseHTTPRequestHandler):
    """Takes what is posted; responds with the given statuses, then with 200."""

    statuses: ClassVar[list[int]] = []
    got: ClassVar[list[Any]] = []

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.got.append((self.headers["Content-Type"], json.loads(content)))
        self.send_response(self.statuses.pop(0) if self.statuses else 200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, type[Listener]]]:
    monkeypatch.setattr(hooks_module, "_WEBHOOK_PAUSE_SECONDS", 0.01)
    kind = type("Kind", (Listener,), {"statuses": [], "got": []})
    with HTTPServer(("127.0.0.1", 0), kind) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/secret", kind
        server.shutdown()


def test_webhook_gets_the_outcome_and_is_tried_three_times(
    listener: tuple[str, type[Listener]],
) -> None:
    url, kind = listener
    said: list[str] = []
    Hooks(webhook=url).tell({"outcome": "pushed"}, said.append)
    assert kind.got == [("application/json", {"outcome": "pushed"})]
    kind.statuses += [500, 302]
    Hooks(webhook=url).tell({"outcome": "failed"}, said.append)
    assert len(kind.got) == 4
    kind.statuses += [500] * 5
    Hooks(webhook=url).tell({"outcome": "failed"}, said.append)
    assert len(kind.got) == 7
    assert "status 500 (try 3 of 3)" in said[-1]
    assert not any("secret" in line for line in said)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/", "http://no.such.host.invalid/", "http://["])
def test_webhook_that_cannot_be_reached_fails_no_firing(
    desk: Desk, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hooks_module, "_WEBHOOK_PAUSE_SECONDS", 0.01)
    assert desk.fire(hooks=Hooks(webhook=url)) == "pushed"
    assert any("(try 3 of 3)" in line for line in desk.said)


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("false", "exit status 1"),
        ("no-such-command", "No such file"),
        ("'unclosed", "No closing quotation"),
        ("sh -c 'sleep 60 & sleep 60'", "did not end within 0.3 s"),
        (" ", "no command"),
    ],
)
def test_command_hook_that_fails_or_hangs_fails_no_firing(
    desk: Desk, command: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hooks_module, "_COMMAND_SECONDS", 0.3)
    assert desk.fire(hooks=Hooks(command)) == "pushed"
    assert any(problem in line for line in desk.said), desk.said


def test_command_hook_is_not_run_by_a_shell(tmp_path: Path) -> None:
    script = tmp_path / "note.py"
    script.write_text(
        "import sys; open(sys.argv[1], 'w').write(sys.stdin.read() + '|'.join(sys.argv[2:]))"
    )
    out = tmp_path / "out"
    command = f"{sys.executable} {script} {out} '; two words' $HOME"
    Hooks(command).tell({"outcome": "pushed", "reasons": ["größer"]}, print)
    text, _, arguments = out.read_text().partition("\n")
    assert json.loads(text)["reasons"] == ["größer"]
    assert arguments == "; two words|$HOME"


def test_schedule_reports_an_outcome_after_a_crash_before_the_report(
    desk: Desk, world: World
) -> None:
    class Crash(BaseException):
        pass

    class Crashing(Hooks):
        def tell(self, outcome: Any, say: Callable[[str], None]) -> None:
            raise Crash

    with pytest.raises(Crash):
        desk.fire(hooks=Crashing())
    assert desk.fire() == "nothing new"
    assert [t["outcome"] for t in desk.told] == ["pushed"]
    assert desk.fire() == "nothing new"
    assert len(desk.told) == 1


# --- Processes that are stopped and killed.


def start(world: World, *arguments: str) -> subprocess.Popen[str]:
    kind, *rest = arguments
    return subprocess.Popen(
        [sys.executable, fake_runs.__file__, kind, str(world.root), *rest],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(condition: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)


def outcomes(world: World) -> list[str]:
    path = world.root / "told"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line)["outcome"] for line in lines]


def test_schedule_stops_its_run_at_sigterm_and_makes_up_for_it(world: World) -> None:
    world.plan({"seconds": 60})
    (world.directory.schedule).write_text('{"last_firing": "2026-01-01T00:00:00Z"}')
    with start(world, "loop", "0 6 * * *") as schedule:
        wait_for(world.ran)
        wait_for(lambda: list_runs(world.directory))
        schedule.send_signal(signal.SIGTERM)
        said, _ = schedule.communicate(timeout=20)
    assert schedule.returncode == 0
    assert "was interrupted" in said
    assert said.endswith("Stopped.\n")
    assert not world.directory.in_use()
    assert [record.outcome for record in list_runs(world.directory)] == ["interrupted"]
    with start(world, "loop", "0 6 * * *") as schedule:
        wait_for(lambda: outcomes(world))
        schedule.send_signal(signal.SIGTERM)
        said, _ = schedule.communicate(timeout=20)
    assert outcomes(world) == ["pushed"]
    assert said.startswith("Making up for the firing")


def test_schedule_that_waits_ends_at_once_at_sigterm(world: World) -> None:
    with start(world, "loop", "0 6 * * *") as schedule:
        assert schedule.stdout is not None
        assert schedule.stdout.readline().startswith("Next firing")
        schedule.send_signal(signal.SIGTERM)
        assert schedule.communicate(timeout=5)[0] == "Stopped.\n"
    assert schedule.returncode == 0


def test_schedule_does_not_disturb_a_run_that_outlives_a_killed_one(
    world: World,
) -> None:
    world.plan({"until": "over"})
    with start(world, "fire") as schedule:
        wait_for(world.ran)
        schedule.kill()
    with start(world, "fire") as again:
        assert "still going" in again.communicate(timeout=20)[0]
    assert again.returncode == 75
    (world.root / "over").touch()
    wait_for(lambda: not world.directory.in_use())
    with start(world, "fire") as again:
        assert "Nothing new" in again.communicate(timeout=20)[0]
    assert outcomes(world) == ["pushed"]
    assert len(world.ran()) == 1


def test_schedule_runs_one_of_several_simultaneous_firings(world: World) -> None:
    world.plan({"seconds": 2})
    schedules = [start(world, "fire") for _ in range(3)]
    for schedule in schedules:
        schedule.communicate(timeout=30)
    assert sorted(schedule.returncode for schedule in schedules) == [0, 75, 75]
    assert len(world.ran()) == 1


@pytest.mark.parametrize("seed", range(4))
def test_schedule_pushes_after_anything_was_killed_at_any_time(world: World, seed: int) -> None:
    chance = random.Random(seed)
    world.plan(*[{"seconds": 0.4}] * 3)
    with start(world, "fire") as schedule:
        time.sleep(chance.uniform(0.1, 1.5))
        if chance.random() < 0.5 and world.ran():
            for child in psutil.Process(schedule.pid).children():
                child.kill()
            time.sleep(chance.uniform(0, 0.2))
        schedule.kill()
    for _ in range(20):
        with start(world, "fire") as again:
            again.communicate(timeout=30)
        if again.returncode == 0 and world.served():
            break
        time.sleep(0.2)
    assert world.served()["key"] == KEY
    with start(world, "fire") as again:
        assert "Nothing new" in again.communicate(timeout=30)[0]
    assert outcomes(world)[-1] == "pushed"
    assert "running" not in [record.outcome for record in list_runs(world.directory)]


# --- A challenger.


def test_schedule_settles_a_challenger_once_and_tells_the_hooks(desk: Desk) -> None:
    desk.world.serve(7, KEY)
    asked: list[str] = []

    def settle(settled: str) -> Settled | None:
        asked.append(settled)
        done = Settled("1 2 better", Outcome.PROMOTED, "toy", 2, ("0.1 lower",))
        return None if settled == done.id else done

    assert desk.fire(settle=settle) == Outcome.PROMOTED
    (told,) = desk.told
    assert (told["outcome"], told["model"], told["version"]) == ("promoted", "toy", 2)
    assert told["reasons"] == ["0.1 lower"]
    assert desk.said[0] == "Challenger 2: promoted.\n  0.1 lower"
    assert desk.fire(settle=settle) == Outcome.NOTHING_NEW
    assert asked == ["", "1 2 better"]
    assert len(desk.told) == 1


def test_schedule_retrains_after_it_settled_a_challenger(desk: Desk) -> None:
    done = Settled("1 2 worse", Outcome.ROLLED_BACK, "toy", 2, ())
    assert desk.fire(settle=lambda settled: None if settled else done) == Outcome.PUSHED
    assert [told["outcome"] for told in desk.told] == ["rolled back", "pushed"]


def test_schedule_tells_that_a_challenger_cannot_be_settled(desk: Desk) -> None:
    def settle(_: str) -> Settled | None:
        raise UserError("the label is gone")

    assert desk.fire(settle=settle) == Outcome.FAILED
    assert desk.fire(settle=settle) == Outcome.FAILED
    (told,) = desk.told
    assert told["reasons"] == ["the label is gone"]
