"""Tests of the commands of `local_runner.py`: what they import, and what their help says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import local_runner
from orchestration.commands import ending
from orchestration.commands.ending import finish
from orchestration.local.history import read_run
from orchestration.local.output_directory import BusyError, OutputDirectory
from orchestration.outcome import USAGE_STATUS, Outcome
from storage.errors import UserError
from terminal.tables import open_console

PROJECT = Path(__file__).parents[2]
HEAVY = {
    *("tensorflow", "tfx", "tf_keras", "apache_beam", "ml_metadata", "kfp", "sklearn"),
    *("numpy", "pandas", "pyarrow", "pydantic", "matplotlib", "rich", "psutil", "filelock"),
    *("cronsim", "httpx", "cryptography", "pipeline"),
}


@pytest.mark.parametrize("command", [[], *([name] for name in local_runner.main.commands)], ids=str)
def test_help_imports_no_heavy_library(command: list[str]) -> None:
    script = f"""
import sys
sys.argv = ["local_runner.py", *{command!r}, "--help"]
import local_runner
try:
    local_runner.main()
finally:
    print("\\0", *sys.modules, sep="\\n")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    shown, _, loaded = done.stdout.partition("\0")
    assert "Usage:" in shown
    assert "orchestration.commands.run" in loaded.split()
    assert HEAVY & set(loaded.split()) == set()


def statuses(command: click.Command) -> dict[int, str]:
    """The exit statuses in the help of a command."""
    _, _, text = (command.epilog or "").partition("Exit status")
    return {int(number): meaning for number, meaning in re.findall(r"^  (\d+) +(.+)$", text, re.M)}


def test_run_help_names_the_exit_status_of_each_outcome() -> None:
    shown = statuses(local_runner.main.commands["run"])
    no_end = (Outcome.RUNNING, Outcome.KILLED, Outcome.UNKNOWN)
    of_others = (Outcome.WAITING, Outcome.ALARM, Outcome.NO_ALARM, Outcome.CLEAN, Outcome.DECIDED)
    of_reproduce = (Outcome.SAME, Outcome.DIFFERENT)
    of_schedule = (Outcome.PROMOTED, Outcome.ROLLED_BACK)
    others = {*of_others, *of_reproduce, *of_schedule, Outcome.PREDICTED}
    for outcome in set(Outcome) - {*no_end, *others}:
        assert outcome.meaning in shown[outcome.exit_status]
    assert "usage" in shown[USAGE_STATUS]
    assert set(statuses(local_runner.main.commands["schedule"])) == set(shown)


def test_reproduce_help_names_its_exit_statuses() -> None:
    shown = statuses(local_runner.main.commands["reproduce"])
    assert {0, 1, 2, 6, 130} == set(shown)
    assert shown[6] == Outcome.DIFFERENT.meaning


def test_docs_name_the_exit_status_of_each_outcome() -> None:
    text = (PROJECT / "docs" / "scheduling.md").read_text(encoding="utf-8")
    table = dict(re.findall(r"^\| `(.+?)` \|.*\| (\d+) \|$", text, re.M))
    told = ("pushed", "nothing new", "failed", "stopped by the gate", "not blessed", "busy")
    for name in (*told, "interrupted"):
        assert int(table[name]) == Outcome(name).exit_status
    success = re.search(r"^SuccessExitStatus=(.+)$", text, re.M)
    assert success
    no_failure = (Outcome.STOPPED_BY_GATE, Outcome.NOT_BLESSED, Outcome.BUSY, Outcome.INTERRUPTED)
    assert set(map(int, success[1].split())) == {outcome.exit_status for outcome in no_failure}


@pytest.mark.parametrize(
    ("outcome", "read"),
    [
        ("pushed", Outcome.PUSHED),
        ("nothing new", Outcome.NOTHING_NEW),
        ("not blessed", Outcome.NOT_BLESSED),
        ("stopped by the gate", Outcome.STOPPED_BY_GATE),
        ("failed", Outcome.FAILED),
        ("interrupted", Outcome.INTERRUPTED),
        ("running", Outcome.RUNNING),
        ("of another release", Outcome.UNKNOWN),
    ],
)
def test_run_record_of_an_older_release_is_read(
    tmp_path: Path, outcome: str, read: Outcome
) -> None:
    directory = OutputDirectory(tmp_path)
    directory.runs.mkdir()
    content = {"run_id": "r", "started": "2026-03-02T12:00:00+00:00", "outcome": outcome}
    (directory.runs / "r.json").write_text(json.dumps(content))
    record = read_run(directory, "r")
    assert record
    assert record.outcome is read
    record.write(directory)
    assert json.loads((directory.runs / "r.json").read_text())["outcome"] == read.value


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        *((0, "nothing new"), (1, "failed"), (2, "failed"), (3, "stopped by the gate")),
        *((4, "not blessed"), (75, "busy"), (130, "interrupted"), (-2, "interrupted")),
        *((-15, "interrupted"), (-9, "failed"), (77, "failed")),
    ],
)
def test_outcome_of_an_exit_status_is_that_of_a_run(status: int, outcome: str) -> None:
    assert Outcome.of_exit_status(status) == outcome


def refuse() -> Outcome:
    raise UserError("it is refused")


def be_busy() -> Outcome:
    raise BusyError("it is busy")


def be_stopped() -> Outcome:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("work", "status", "shown"),
    [
        (lambda: Outcome.NOT_BLESSED, 4, ""),
        (refuse, 1, "it is refused"),
        (be_busy, 75, "it is busy"),
        (be_stopped, 130, "Stopped."),
    ],
)
def test_finish_exits_with_the_status_of_the_outcome(
    work: ending.Work, status: int, shown: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        finish(open_console(), work, "Stopped.")
    assert ended.value.code == status
    captured = capfd.readouterr()
    assert (captured.out.strip(), captured.err) == (shown, "")


def test_backtest_refuses_months_in_the_wrong_order() -> None:
    arguments = ["backtest", "--from", "201307", "--to", "201306"]
    result = CliRunner().invoke(local_runner.main, arguments)
    assert result.exit_code == USAGE_STATUS
    assert "--from 201307 comes after --to 201306" in result.output
