"""Tests of several models in one output directory, and in one schedule."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fake_runs
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from fake_runs import KEY, World, look

import local_runner
from orchestration.local.history import RunRecord, list_runs
from orchestration.local.leftovers import find_leftovers
from orchestration.local.lineage import trace
from orchestration.local.model_directories import (
    check_name,
    claim,
    find_directory,
    list_directories,
    owner_of,
    served_models,
)
from orchestration.local.output_directory import OutputDirectory
from orchestration.local.situation import Situation
from orchestration.outcome import USAGE_STATUS, Outcome
from orchestration.schedule import several
from orchestration.schedule.alarms import raise_alarm
from orchestration.schedule.cron import Cron
from orchestration.schedule.decision import Backoff
from orchestration.schedule.hooks import Hooks
from orchestration.schedule.schedule import Schedule
from orchestration.schedule.state import Alarm
from orchestration.schedule.turn import Turn
from pipeline import model_folders
from pipeline.model_folders import MODEL_VARIABLE
from storage.errors import UserError
from storage.names import SAVED_MODEL

PATIENCE = 60.0
SETTINGS = """
model_name = "{name}"
label = "tip"
features = ["company"]
prediction = "p"
[data]
uri = "{data}"
time_column = "pickup"
window = 1
[gate]
schema = "schema/tips.pbtxt"
"""


@pytest.fixture(autouse=True)
def _same_signal_handlers() -> Iterator[None]:
    """A command that a test calls in its own process sets some."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with the models `fares` and `tips`."""
    monkeypatch.setattr(model_folders, "_PROJECT", tmp_path / "project")
    monkeypatch.setenv(MODEL_VARIABLE, "tips")
    for name in ("fares", "tips"):
        add_model(tmp_path / "project", name)
    return tmp_path / "project"


def add_model(project: Path, name: str, model_name: str = "", text: str = SETTINGS) -> Path:
    path = project / "models" / name / "config.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.format(name=model_name or name, data=project / "data"))
    return path


def serve(output: Path, name: str, version: int = 7) -> Path:
    """Puts a version of a model into the Serving directory, without provenance."""
    folder = output / "serving_model" / name / str(version)
    folder.mkdir(parents=True)
    (folder / SAVED_MODEL).write_bytes(b"graph")
    return folder


def has_run(
    directory: OutputDirectory, run_id: str, version: int | None = None, *, claims: str = ""
) -> None:
    """Leaves what a run leaves, as far as these tests read it."""
    with directory.locked():
        if claims:
            claim(directory, claims)
        outcome = Outcome.PUSHED if version else Outcome.NOT_BLESSED
        started = "2026-03-02T12:00:00+00:00"
        RunRecord(run_id, started, outcome=outcome, version=version).write(directory)
        log = directory.logs(run_id) / "runner.log"
        log.parent.mkdir(parents=True)
        log.write_text("")


# --- Where each model has its files.


def test_find_directory_gives_each_model_its_own_and_one_serving_directory(
    project: Path, tmp_path: Path
) -> None:
    tips, fares = (find_directory(tmp_path / "output", name) for name in ("tips", "fares"))
    assert tips.root == tmp_path / "output" / "models" / "tips"
    assert fares.root == tmp_path / "output" / "models" / "fares"
    assert tips.serving == fares.serving == tmp_path / "output" / "serving_model"
    assert tips.signing_key == fares.signing_key == tmp_path / "output" / "keys" / "signing.key"
    own = ("metadata", "metadata_lock", "artifacts", "spans", "runs", "schedule", "alarm")
    for name in (*own, "monitoring", "backtest", "temporary", "owner"):
        assert getattr(tips, name) != getattr(fares, name)


def test_find_directory_uses_that_of_an_earlier_release_where_it_is(
    project: Path, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    has_run(OutputDirectory(output), "r1", 7)
    serve(output, "fares")
    (old,) = list_directories(output)
    assert (old.root, old.model) == (output, "")
    # Its versions tell whose it is; `tips`, though the default model, begins with its own.
    fares, tips = (find_directory(output, name) for name in ("fares", "tips"))
    assert (fares.root, tips.root) == (output, output / "models" / "tips")
    has_run(fares, "r2", claims="fares")
    has_run(tips, "r2", claims="tips")
    serve(output, "tips")
    assert [(d.model, d.root) for d in list_directories(output)] == [
        ("fares", output),
        ("tips", output / "models" / "tips"),
    ]
    for name, before in (("fares", fares), ("tips", tips)):
        assert find_directory(output, name) == before


def test_find_directory_of_an_earlier_release_without_a_version_is_the_default_models(
    project: Path, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    has_run(OutputDirectory(output), "r1")
    assert find_directory(output, "fares").root == output / "models" / "fares"
    assert find_directory(output, "tips").root == output


def test_find_directory_knows_an_earlier_release_by_a_name_that_was_set(
    project: Path, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    has_run(OutputDirectory(output), "r1", 7)
    serve(output, "tips_of_may")
    assert find_directory(output, "tips", "tips_of_may").root == output
    assert find_directory(output, "tips").root != output


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model": 5}', '{"model": "x", "names": 1}'])
def test_list_directories_survives_a_file_that_names_no_owner(
    project: Path, tmp_path: Path, content: str
) -> None:
    directory = find_directory(tmp_path, "tips")
    has_run(directory, "r1", claims="tips")
    directory.owner.write_text(content)
    (found,) = list_directories(tmp_path)
    assert (found.model, owner_of(found)) == ("tips", None)
    claim(found, "tips")
    assert owner_of(found)


# --- Names in the Serving directory.


def test_claim_refuses_a_name_that_another_model_of_the_output_directory_has(
    project: Path, tmp_path: Path
) -> None:
    tips, fares = (find_directory(tmp_path / "output", name) for name in ("tips", "fares"))
    has_run(tips, "r1", claims="tips")
    message = r"model_name = 'tips': in .*/serving_model this is the model tips \(.*model.json\)"
    for refuse in (check_name, claim):
        with pytest.raises(UserError, match=message):
            refuse(fares, "tips")
    assert owner_of(fares) is None


def test_claim_refuses_a_name_that_another_folder_of_models_has(
    project: Path, tmp_path: Path
) -> None:
    add_model(project, "copied", "tips")
    with pytest.raises(UserError, match="the models copied and tips have the same name"):
        claim(find_directory(tmp_path / "output", "copied"), "tips")
    # With a name of its own it may run.
    copied = find_directory(tmp_path / "output", "copied")
    has_run(copied, "r1", claims="copied")


def test_claim_keeps_the_name_of_a_model_whose_folder_is_copied(
    project: Path, tmp_path: Path
) -> None:
    tips = find_directory(tmp_path / "output", "tips")
    has_run(tips, "r1", claims="tips")
    add_model(project, "copied", "tips")
    check_name(tips, "tips")
    with pytest.raises(UserError, match="this is the model tips"):
        check_name(find_directory(tmp_path / "output", "copied"), "tips")


def test_claim_remembers_all_names_of_a_model(project: Path, tmp_path: Path) -> None:
    tips, fares = (find_directory(tmp_path, name) for name in ("tips", "fares"))
    has_run(tips, "r1", claims="tips")
    for name in ("tips_of_may", "tips"):
        claim(tips, name)
    owner = owner_of(tips)
    assert owner
    assert owner.names == ("tips_of_may", "tips")
    with pytest.raises(UserError, match="this is the model tips"):
        check_name(fares, "tips_of_may")


def test_claim_refuses_the_runs_of_another_model(project: Path, tmp_path: Path) -> None:
    """As where two models begin with a directory of an earlier release at once."""
    has_run(OutputDirectory(tmp_path, tmp_path, "tips"), "r1", claims="tips")
    with pytest.raises(UserError, match="are of the model tips, not of fares"):
        check_name(OutputDirectory(tmp_path, tmp_path, "fares"), "fares")


# --- Runs, lineage, cleaning.


@dataclass
class Two:
    """An output directory in which `fares` and `tips` have run three times each."""

    output: Path
    fares: OutputDirectory
    tips: OutputDirectory

    def command(self, *arguments: str) -> Result:
        return CliRunner().invoke(local_runner.main, [*arguments, f"--output={self.output}"])


@pytest.fixture
def two(project: Path, tmp_path: Path) -> Two:
    output = tmp_path / "output"
    both = [find_directory(output, name) for name in ("fares", "tips")]
    for number in (1, 2, 3):
        for each in both:
            # The same ids and versions, as two models may have by chance.
            has_run(each, f"20260302-12000{number}-000", 7 if number == 1 else None)
            claim(each, each.model)
    for each in both:
        serve(output, each.model)
    return Two(output, *both)


def test_runs_names_the_model_where_there_are_several(two: Two) -> None:
    heading, *lines = two.command("runs").output.rstrip().splitlines()
    assert heading.split() == ["model", "run", "started", "time", "outcome", "result"]
    ids = [line.split()[1] for line in lines]
    assert ids == sorted(ids, reverse=True)
    assert sorted(line.split()[0] for line in lines) == ["fares"] * 3 + ["tips"] * 3
    one = two.command("runs", "--model", "fares").output.rstrip().splitlines()
    assert [line.split()[0] for line in one[1:]] == ["fares"] * 3
    none = two.command("runs", "--model", "trips").output
    assert none == f"There are no runs of trips in {two.output}.\n"


def test_clean_deletes_what_each_model_has_left_and_keeps_by_its_own_setting(
    two: Two, project: Path
) -> None:
    add_model(project, "fares", text="keep_runs = 1\n" + SETTINGS)
    add_model(project, "tips", text="keep_runs = 0\n" + SETTINGS)
    done = two.command("clean")
    assert done.exit_code == 0, done.output
    assert "tips: keep_runs is 0: everything is kept." in done.output
    # The newest run, and the one that pushed what is still there.
    assert [run.run_id[-5] for run in list_runs(two.fares)] == ["3", "1"]
    assert len(list_runs(two.tips)) == 3
    two.command("clean", "--model", "tips", "--keep-runs", "1")
    assert [run.run_id[-5] for run in list_runs(two.tips)] == ["3", "1"]
    assert len(list_runs(two.fares)) == 2


def test_clean_goes_on_with_other_models_when_one_is_broken_or_busy(
    two: Two, project: Path
) -> None:
    add_model(project, "fares", text="keep_runs = none")
    done = two.command("clean", "--set", "keep_runs=1")
    assert done.exit_code == 1
    assert "Error: fares: configuration file" in done.output
    assert [len(list_runs(each)) for each in (two.fares, two.tips)] == [3, 2]
    with two.tips.locked():
        done = two.command("clean", "--keep-runs", "1")  # For which no configuration is needed.
    assert done.exit_code == 75
    assert "tips: a run is using the output directory" in done.output
    assert len(list_runs(two.fares)) == 2


def test_clean_of_a_model_is_not_kept_from_it_by_the_provenance_of_another(two: Two) -> None:
    provenance = two.output / "serving_model" / "tips" / ".flightdeck" / "7" / "provenance.json"
    provenance.parent.mkdir(parents=True)
    provenance.write_text('{"artifacts": 5}')
    serve(two.output, "of_an_earlier_release")  # It may be of either: no run has noted it.
    with pytest.raises(UserError, match="what version 7 of tips was made of"):
        find_leftovers(two.tips, 1)
    assert find_leftovers(two.fares, 1)
    served = [served_models(each) for each in (two.fares, two.tips)]
    assert served == [["fares", "of_an_earlier_release"], ["of_an_earlier_release", "tips"]]


def test_clean_notices_that_the_versions_of_one_of_two_models_are_gone(two: Two) -> None:
    (two.output / "serving_model" / "fares").rename(two.output / "away")
    with pytest.raises(UserError, match="pushed one there"):
        find_leftovers(two.fares, 1)
    assert find_leftovers(two.tips, 1)


def test_lineage_takes_a_model_by_its_folder_or_its_name_for_servers(
    two: Two, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="models fares, tips: choose one by --model"):
        trace(two.output, None, None)
    claim(two.tips, "tips_of_may")
    serve(two.output, "tips_of_may", 8)
    for model, named, version in (("tips_of_may", "tips_of_may", 8), ("tips", "tips", 7)):
        tree = trace(two.output, version, model)
        assert "not signed" in [str(branch.label) for branch in tree.children], named
    (two.output / "serving_model" / "tips").rename(tmp_path / "away")
    assert trace(two.output, 8, "tips")
    with pytest.raises(UserError, match="there is no version 8 of fares"):
        trace(two.output, 8, "fares")


# --- The model of a command.


@pytest.mark.parametrize("command", ["run", "monitor", "clean", "backtest", "schedule"])
def test_commands_refuse_a_model_option_that_contradicts_a_setting(
    project: Path, tmp_path: Path, command: str
) -> None:
    options = {
        "monitor": ["--requests=none"],
        "backtest": ["--from=201301", "--to=201302"],
        "schedule": ["--once"],
    }
    given = [command, *options.get(command, []), f"--output={tmp_path / 'output'}"]
    arguments = [*given, "--model=fares", "--set=model=tips"]
    done = CliRunner().invoke(local_runner.main, arguments)
    assert done.exit_code == USAGE_STATUS
    assert "--model fares and --set model=tips contradict each other" in done.output
    assert not (tmp_path / "output").exists()
    missing = CliRunner().invoke(local_runner.main, [*given, "--model=gone"])
    assert missing.exit_code == USAGE_STATUS
    assert "model = 'gone': there is no such folder" in missing.output


def test_run_uses_the_directory_of_the_model_that_is_named(project: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    both = ["--model=tips", "--set=model=tips"]
    for arguments in (["--model=fares"], both, both[1:]):
        done = CliRunner().invoke(local_runner.main, ["run", f"--output={output}", *arguments])
        assert done.exit_code == 1, done.output  # There is no data.
    assert [(d.model, len(list_runs(d))) for d in list_directories(output)] == [
        ("fares", 1),
        ("tips", 2),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model=tips", "--model=gone"], "model = 'gone': there is no such folder"),
        (["--model=tips", "--all-models"], "--model and --all-models exclude each other"),
        (["--all-models", "--set=model=tips"], "--model copied and --set model=tips contradict"),
        (["--all-models", "--set=training.epoch=3"], "did you mean training.epochs?"),
        (
            ["--model=tips", "--model=copied"],
            "the models tips and copied have the same model_name, 'tips'",
        ),
        (["--all-models", "--set=model_name=one"], "--set model_name is for one model"),
    ],
)
def test_schedule_refuses_models_that_cannot_be_scheduled_together(
    project: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    add_model(project, "copied", "tips")
    given = ["schedule", "--once", f"--output={tmp_path / 'output'}", *arguments]
    done = CliRunner().invoke(local_runner.main, given)
    assert done.exit_code == USAGE_STATUS
    assert message in " ".join(done.output.split())
    assert not (tmp_path / "output").exists()


def test_schedule_of_all_models_goes_on_without_one_whose_configuration_is_broken(
    project: Path, tmp_path: Path
) -> None:
    add_model(project, "fares", text="window = ")
    told = tmp_path / "told"
    notify = f"""sh -c 'cat >> "{told}"'"""
    given = ["schedule", "--once", f"--output={tmp_path / 'output'}", "--all-models"]
    done = CliRunner().invoke(local_runner.main, [*given, "--notify", notify])
    assert done.exit_code == 1
    (message,) = map(json.loads, told.read_text().splitlines())
    assert message["model"] == "fares"
    assert "models/fares/config.toml" in message["reasons"][0]
    states = [tmp_path / "output" / "models" / n / "schedule.json" for n in ("fares", "tips")]
    problems = [json.loads(state.read_text())["problem"]["text"] for state in states]
    assert "config.toml" in problems[0]
    assert "data" in problems[1]  # There is none, which a firing waits for.


def test_schedule_of_all_models_goes_on_beside_a_copied_folder(
    project: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "output"
    has_run(find_directory(output, "tips"), "r1", claims="tips")
    add_model(project, "copied", "tips")
    given = ["schedule", "--once", f"--output={output}", "--all-models"]
    assert CliRunner().invoke(local_runner.main, given).exit_code == 1
    (failed,) = (line for line in capfd.readouterr().out.splitlines() if ": Failed: " in line)
    assert failed.startswith("copied: ")
    assert "this is the model tips" in failed


# --- One schedule of several models.


class StoppableClock:
    """The time of this machine; the test ends it."""

    def __init__(self) -> None:
        self.stop = threading.Event()

    @property
    def stopping(self) -> bool:
        return self.stop.is_set()

    def now(self) -> datetime:
        return datetime.now(UTC)

    def wait(self, seconds: float) -> bool:
        return self.stop.wait(min(seconds, 0.1))


@dataclass
class Office:
    """Schedules of the models `a` and `b`, which share a turn."""

    output: World
    clock: StoppableClock = field(default_factory=StoppableClock)
    turn: Turn = field(default_factory=Turn)
    said: list[str] = field(default_factory=list)

    def world(self, model: str) -> World:
        return self.output.of(model)

    def schedule(self, model: str, **options: Any) -> Schedule:
        world = self.world(model)
        name = {"model_name": model}
        given: dict[str, Any] = {
            "look": lambda: replace(look(world), **name),
            "backoff": Backoff(0),
            "hooks": Hooks(f"""sh -c 'cat >> "{self.output.root}/told"'"""),
            **options,
        }
        return Schedule(
            directory=world.directory,
            command=world.command,
            say=lambda text: self.said.append(f"{model}: {text}"),
            clock=self.clock,
            settle_seconds=0,
            turn=self.turn,
            **given,
        )

    @property
    def told(self) -> list[tuple[str, str]]:
        path = self.output.root / "told"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(told["model"], told["outcome"]) for told in map(json.loads, lines)]

    def until(self, condition: Callable[[], object]) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, self.said
            time.sleep(0.02)


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    output = World(OutputDirectory(tmp_path / "output"))
    output.root.mkdir()
    output.span.parent.mkdir(parents=True)
    pq.write_table(pa.table({"x": [1, 2, 3]}), output.span)
    office = Office(output)
    yield office
    office.clock.stop.set()


def in_thread(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    return thread, found


def test_schedule_of_several_has_a_firing_wait_for_the_run_of_another_model(
    office: Office,
) -> None:
    office.world("a").plan({"until": "go"})
    a, b = office.schedule("a"), office.schedule("b")
    first, _ = in_thread(a.fire)
    office.until(office.world("a").ran)
    looks: list[Situation] = []

    def look_again() -> Situation:
        looks.append(look(office.world("b")))
        return looks[-1]

    b.look = look_again
    second, outcome = in_thread(b.fire)
    waits = "b: nothing is served yet: waits until the run of a is over."
    office.until(lambda: waits in office.said)
    assert office.world("b").ran() == []
    (office.world("a").root / "go").touch()
    for thread in (first, second):
        thread.join(PATIENCE)
    assert outcome == ["pushed"]
    assert len(looks) == 2  # What there was before the wait may be something else after it.
    assert len(office.world("b").ran()) == 1
    assert sorted(office.told) == [("a", "pushed"), ("toy", "pushed")]


def test_schedule_of_several_is_not_held_up_by_a_model_that_is_tried_again_later(
    office: Office,
) -> None:
    office.world("a").plan({"status": 1})
    a = office.schedule("a", backoff=Backoff(retries=2, seconds=3600))
    thread, outcome = in_thread(lambda: several.fire([a, office.schedule("b")]))
    # Either may come first.
    office.until(lambda: office.told and office.world("a").ran())
    assert office.told == [("b", "pushed")]
    assert thread.is_alive()
    office.clock.stop.set()
    thread.join(PATIENCE)
    assert outcome == ["interrupted"]
    state = json.loads(office.world("a").directory.schedule.read_text())
    assert state["last_firing"] is None  # It is made up for.


def test_schedule_of_several_goes_on_when_one_fails_in_any_way(office: Office) -> None:
    def fail() -> Situation:
        raise UserError("training.epochs = 0")

    a, b = office.schedule("a", look=fail), office.schedule("b")
    assert several.fire([a, b]) == "failed"
    assert sorted(office.told) == [("a", "failed"), ("b", "pushed")]
    # A directory that cannot be made, at each of its firings.
    office.world("c").root.parent.joinpath("c").write_text("in the way")
    for model in ("a", "b"):
        state = office.world(model).directory.schedule
        state.write_text(json.dumps({"last_firing": "2026-01-01T00:00:00Z"}))
    office.world("b").serve(5, "another key")
    schedules = [office.schedule("c"), office.schedule("b")]
    thread, _ = in_thread(lambda: several.keep_firing(schedules, Cron("* * * * *", "UTC")))
    office.until(lambda: len(office.world("b").ran()) == 2)
    office.until(lambda: any(text.startswith("c: Failed: UserError") for text in office.said))
    office.clock.stop.set()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert sum(text.startswith("c: Failed") for text in office.said) == 1


def test_schedule_of_several_obeys_the_alarm_of_a_model_with_that_model_alone(
    office: Office,
) -> None:
    for model in ("a", "b"):
        office.world(model).serve(1, KEY)
    raise_alarm(office.world("a").directory, Alarm("a1", "drift of x"))
    schedules = [office.schedule(model) for model in ("a", "b")]
    assert several.fire(schedules) == "pushed"
    assert [len(office.world(model).ran()) for model in ("a", "b")] == [1, 0]
    assert several.fire(schedules) == "nothing new"


@pytest.mark.parametrize(
    ("outcomes", "worst"),
    [
        (["nothing new", "pushed"], "pushed"),
        (["not blessed", "stopped by the gate"], "stopped by the gate"),
        (["failed", "not blessed"], "failed"),
        (["nothing new", "nothing new"], "nothing new"),
        (["busy", "waiting"], "busy"),
    ],
)
def test_schedule_of_several_ends_with_the_worst_outcome(
    outcomes: list[str], worst: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(several, "_together", lambda work, schedules: map(Outcome, outcomes))
    assert several.fire([]) == worst


def test_schedule_of_several_ends_with_its_run_at_sigterm_and_the_next_one_makes_up_for_it(
    office: Office,
) -> None:
    office.world("a").plan({"until": "never"})
    office.world("b").plan({"until": "never"})
    command = [
        sys.executable,
        fake_runs.__file__,
        "fire several",
        str(office.output.root),
        "a",
        "b",
    ]
    process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE)
    office.until(lambda: office.world("a").ran() or office.world("b").ran())
    time.sleep(0.5)  # The other one waits, or is about to.
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, said
    ran = [len(office.world(model).ran()) for model in ("a", "b")]
    assert sorted(ran) == [0, 1]
    assert not (office.output.root / "told").exists()
    for model in ("a", "b"):
        office.world(model).plan()
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, check=False, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout
    assert sum(len(office.world(model).ran()) for model in ("a", "b")) == 3
    assert len(office.told) == 2
