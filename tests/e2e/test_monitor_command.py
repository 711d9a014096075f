"""The command `monitor`, on real months of requests to what one real run pushed."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from orchestration.local.output_directory import OutputDirectory
from storage.directory import ModelDirectory
from storage.traffic import set_traffic
from tests import forked
from tests.conftest import PROJECT, Cli, PushedRun, read_month, thin
from tests.played_requests import MODEL, play

MARCH = ("--since", "2013-03-01", "--until", "2013-04-01")
APRIL = ("--since", "2013-04-01", "--until", "2013-05-01")


def corrupt(requests: pd.DataFrame) -> None:
    """Another unit, and a column that is lost."""
    requests["temp"] = (requests["temp"] - 32) / 1.8
    requests["wind_gust"] = float("nan")


@pytest.fixture(scope="module")
def real(pushed: PushedRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of real requests of February and March."""
    folder = tmp_path_factory.mktemp("requests") / "log"
    for month in (201302, 201303):
        play(folder, pushed.version, thin(read_month(month), 2500))
    return folder


@pytest.fixture
def served(pushed: PushedRun, tmp_path: Path) -> Cli:
    """What the run left, as far as monitoring and a look of the schedule read it."""
    for name in ("serving_model", "keys"):
        shutil.copytree(pushed.cli.output / name, tmp_path / "output" / name)
    return Cli(pushed.cli.data, tmp_path / "output")


def monitor(cli: Cli, requests: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return forked.run(
        [
            *("local_runner.py", "monitor"),
            *("--requests", str(requests), "--output", str(cli.output)),
            f"--set=data.uri={cli.data}",
            *arguments,
        ]
    )


def report_of(screen: str) -> Path:
    """The page that the screen names."""
    (line,) = (line for line in screen.splitlines() if line.startswith("Report: "))
    return Path(line.removeprefix("Report: "))


def challenge(cli: Cli, live: int) -> None:
    """A copy of the live version is its challenger, in a shadow."""
    models = ModelDirectory(str(cli.output / "serving_model"), MODEL)
    shutil.copytree(models.version_uri(live), models.version_uri(live + 1))
    models.pin(live, "champion")
    models.pin(live + 1, "challenger")
    set_traffic(models, "shadow", by="ann")


def files(root: Path) -> set[Path]:
    return {path for path in root.rglob("*") if path.is_file()}


def test_monitor_reports_a_real_month_without_alarm(
    served: Cli, real: Path, pushed: PushedRun
) -> None:
    live = int(pushed.version.name)
    challenge(served, live)
    before = files(served.output)
    done = monitor(served, real, *MARCH)
    assert done.returncode == 0, done.stdout
    page = report_of(done.stdout)
    assert page.parent.parent == served.directory / "monitoring"
    assert "No alarm" in page.read_text()
    report = json.loads(page.with_name("report.json").read_text())
    assert report["version"] == int(pushed.version.name)
    assert report["alarms"] == []
    assert report["live"][0]["metrics"]["auc"] > 0.58
    rows = report["requests"]
    assert rows["rows"]["current"] > 2400
    assert rows["rows"]["previous"] > 2400
    # The spans hold the same trips; those of the last evening are another month's in UTC.
    assert rows["labelled"] == rows["rows"]
    assert {check["against"] for check in report["checks"]} == {
        *("training", "previous period", "labels")
    }
    # Neither runs, nor the schedule, nor ML Metadata of the training pipeline are touched.
    added = files(served.output) - before
    assert {path.relative_to(served.directory).parts[0] for path in added} == {
        *("monitoring", "challenger.json")
    }
    # The log is from before the challenger; the schedule gets a verdict all the same.
    assert f"Challenger {live + 1}, champion {live}: not yet" in done.stdout
    verdict = json.loads((served.directory / "challenger.json").read_text())
    assert verdict["verdict"] == "not yet"
    assert verdict["reasons"] == ["nothing was logged of the two yet"]


def test_monitor_raises_an_alarm_for_a_corrupted_month_and_the_schedule_retrains(
    served: Cli, real: Path, pushed: PushedRun, tmp_path: Path
) -> None:
    log = Path(shutil.copytree(real, tmp_path / "log"))
    play(log, pushed.version, thin(read_month(201304), 2500), corrupt)
    # A run that goes on meanwhile does not hold it up.
    with OutputDirectory(served.directory).locked():
        done = monitor(served, log, *APRIL)
    assert done.returncode == 5, done.stdout
    report = json.loads(report_of(done.stdout).with_name("report.json").read_text())
    alarms = {(c["kind"], c["subject"]) for c in report["checks"] if c["alarms"]}
    assert ("relation", "temp") in alarms
    assert "wind_gust" in {subject for _, subject in alarms}
    alarm = json.loads((served.directory / "alarm.json").read_text())
    assert f"Alarm {alarm['id']} is raised" in done.stdout
    assert alarm["id"] == report["alarm"]

    # The next firing finds the data unchanged, and retrains because of the alarm alone;
    # it is stopped there, since what a run does is tested elsewhere.
    command = ["schedule" if word == "run" else word for word in served.command("--once")]
    with subprocess.Popen(
        [*command, "--as-of", "201303"], cwd=PROJECT, text=True, stdout=subprocess.PIPE
    ) as schedule:
        assert schedule.stdout
        said = schedule.stdout.readline()
        schedule.terminate()
        schedule.communicate(timeout=180)  # Nodes that have begun are waited for.
    assert said.startswith(f"Retraining: alarm {alarm['id']}: requests of 2013-04-01")


def test_monitor_fails_in_one_line_where_it_cannot_work(
    served: Cli, real: Path, pushed: PushedRun, tmp_path: Path
) -> None:
    done = monitor(Cli(served.data, tmp_path / "empty"), real)
    assert done.returncode == 1
    assert done.stdout.startswith("nothing is served yet: ")
    assert not (tmp_path / "empty").exists()
    done = monitor(served, real, "--version", "5", *MARCH)
    assert done.returncode == 1
    assert f"version 5 is not in {served.output / 'serving_model'}" in done.stdout
    assert pushed.version.name in done.stdout
    with OutputDirectory(served.directory / "monitoring").locked():
        assert monitor(served, real).returncode == 75


def test_monitor_refuses_wrong_usage(served: Cli, real: Path) -> None:
    for arguments, said in (
        (("--since", "yesterday"), "'yesterday' is not a date or time"),
        (("--since", "2013-04-01", "--until", "2013-04-01"), "--since must be before --until"),
        (("--set", "monitor.min_rows=0"), "monitor.min_rows"),
    ):
        done = monitor(served, real, *arguments)
        assert done.returncode == 2
        assert said in done.stdout
