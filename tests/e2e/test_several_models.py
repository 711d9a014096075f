"""Two models in one output directory: what one real run left behind, and a second model."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import forked
from tests.conftest import PROJECT, TRIPS, Cli, PushedRun
from tests.test_architecture import OF_MODELS, tracked


@pytest.fixture
def after_push(pushed: PushedRun, tmp_path: Path) -> Cli:
    """The command line on a copy of what the run left."""
    shutil.copytree(pushed.cli.output, tmp_path / "output")
    return Cli(pushed.cli.data, tmp_path / "output")


def runner(cli: Cli, *arguments: str) -> str:
    done = forked.run(["local_runner.py", *arguments, "--output", str(cli.output)])
    assert done.returncode == 0, done.stdout
    return done.stdout


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_output_directory_of_an_earlier_release_goes_on_where_it_is(after_push: Cli) -> None:
    """Its files were at the top."""
    for path in after_push.directory.iterdir():
        path.rename(after_push.output / path.name)
    (after_push.output / "model.json").unlink()
    shutil.rmtree(after_push.output / "models")
    assert runner(after_push, "runs").count("pushed") == 1
    for command in ("schedule", "run"):
        options = ["--as-of=201303", *(["--once"] if command == "schedule" else [])]
        done = after_push.run(*options, command=command)
        assert done.returncode == 0, done.stdout
        assert re.fullmatch(r"Nothing new: version \d+ of trip_delay was made .*\n", done.stdout)
    assert json.loads((after_push.output / "model.json").read_text()) == {
        "model": "tests.trips",
        "names": ["trip_delay"],
    }
    assert not (after_push.output / "models").exists()
    (heading, run) = runner(after_push, "runs").rstrip().splitlines()
    assert heading.split()[0] == "run"
    assert "pushed" in run
    assert re.search(r"Pusher #\d+, code", runner(after_push, "lineage", "--model=tests.trips"))
    assert "nothing to delete" in runner(after_push, "clean", "--keep-runs=1").lower()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project with a second model, whose gate stops the run."""
    root = tmp_path / "project"
    for name in tracked():
        if not name.startswith(OF_MODELS) or name == "models/__init__.py":
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PROJECT / name, root / name)
    second = root / "models" / "second"
    shutil.copytree(
        TRIPS.parent, second, ignore=shutil.ignore_patterns("data", "schema", "__pycache__")
    )
    settings = (second / "config.toml").read_text()
    settings = settings.replace('"trip_delay"', '"second_delay"')
    settings = settings.replace("[gate]\n", "[gate]\nmax_error_growth = 1.0001\n")
    (second / "config.toml").write_text(settings)
    return root


def test_schedule_runs_a_second_model_and_leaves_the_first_as_it_is(
    after_push: Cli, project: Path, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    options = ["--once", "--as-of=201303", "--model=tests.trips", "--model=second"]
    words = after_push.command(*options, f"--notify=sh -c 'cat >> {told}'", command="schedule")
    before = files(after_push.directory), files(after_push.output / "serving_model")
    done = subprocess.run(
        [sys.executable, "local_runner.py", *words[2:]],
        cwd=project,
        env={**os.environ, "PYTHONPATH": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 3, done.stdout
    assert re.search(r"^tests.trips: Nothing new: version \d+ of trip_delay", done.stdout, re.M)
    assert "second: Retraining: nothing is served yet." in done.stdout
    (message,) = map(json.loads, told.read_text().splitlines())
    assert (message["model"], message["outcome"]) == ("second_delay", "stopped by the gate")
    after = files(after_push.directory), files(after_push.output / "serving_model")
    assert set(after[0]) - set(before[0]) <= {"schedule.json", ".schedule.lock"}
    assert {name: after[0][name] for name in before[0]} == before[0]
    assert after[1] == before[1]
    heading, *lines = runner(after_push, "runs").rstrip().splitlines()
    assert heading.split()[0] == "model"
    assert [line.split()[0] for line in lines if line[0] != " "] == ["second", "tests.trips"]
    shown = runner(after_push, "clean", "--keep-runs=1", "--dry-run")
    assert shown.count("There is nothing to delete.") == 2
