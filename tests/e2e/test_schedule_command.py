"""The commands `schedule`, `runs` and `lineage`, on what one real run left behind."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestration.local.output_directory import OutputDirectory
from tests import forked
from tests.conftest import PROJECT, Cli, PushedRun, read_month, thin, write_span

MODEL = Path("serving_model") / "trip_delay"


@pytest.fixture
def after_push(pushed: PushedRun, tmp_path: Path) -> Cli:
    """The command line on a copy of what the run left, and of its data."""
    shutil.copytree(pushed.cli.output, tmp_path / "output")
    # The fingerprints of the files hold times of change, and `copytree` keeps those.
    shutil.copytree(pushed.cli.data, tmp_path / "spans")
    return Cli(pushed.cli.data, tmp_path / "output")


@pytest.fixture
def new_data(after_push: Cli, tmp_path: Path) -> Cli:
    """The same with data of its own, which may be changed."""
    return Cli(tmp_path / "spans", after_push.output)


def command(cli: Cli, *arguments: str) -> list[str]:
    """`schedule` with the options that the run had."""
    return ["schedule" if word == "run" else word for word in cli.command(*arguments)[1:]]


def runner(*arguments: str) -> subprocess.CompletedProcess[str]:
    return forked.run(["local_runner.py", *arguments])


def versions(cli: Cli) -> list[str]:
    return [path.name for path in cli.versions()]


def test_schedule_with_nothing_new_says_so_and_runs_nothing(after_push: Cli) -> None:
    before = sorted(after_push.output.rglob("*"))
    done = forked.run(command(after_push, "--once", "--as-of", "201303"))
    assert done.returncode == 0, done.stdout
    assert re.fullmatch(r"Nothing new: version \d+ of \w+ was made from this .*\n", done.stdout)
    added = {path.name for path in after_push.output.rglob("*")} - {path.name for path in before}
    assert added <= {"schedule.json", ".schedule.lock"}


def test_schedule_with_nothing_new_imports_neither_tensorflow_nor_tfx(after_push: Cli) -> None:
    arguments = command(after_push, "--once", "--as-of", "201303")
    script = f"""
import sys
sys.argv = {arguments!r}
import local_runner
try:
    local_runner.main()
finally:
    print(*sys.modules, sep="\\n")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=PROJECT, stdout=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.startswith("Nothing new")
    loaded = set(done.stdout.split())
    assert "orchestration.schedule.schedule" in loaded
    heavy = {"tensorflow", "tfx", "tensorflow_transform", "apache_beam", "keras", "tf_keras"}
    assert not (heavy | {"ml_metadata", "pandas", "httpx"}) & loaded


def test_schedule_starts_no_run_for_a_half_written_span(new_data: Cli) -> None:
    path = new_data.data / "span-201304" / "trips.parquet"
    path.write_bytes(path.read_bytes()[:5000])
    before = versions(new_data)
    for status, said in ((0, "Not complete yet"), (1, "Failed")):
        done = forked.run(command(new_data, "--once"))
        assert done.returncode == status, done.stdout
        assert done.stdout.startswith(f"{said}: {path} (5,000 bytes) is not a whole Parquet file")
    assert versions(new_data) == before
    assert len(list((new_data.directory / "logs").iterdir())) == 1


def test_schedule_waits_for_a_missing_month(new_data: Cli) -> None:
    write_span(new_data.data, 201306, thin(read_month(201306), 100))
    done = forked.run(command(new_data, "--once"))
    assert done.returncode == 0
    assert "Not complete yet: the 6 spans before span-201306 lack span-201305" in done.stdout


def test_schedule_does_not_train_a_rolled_back_version_again(after_push: Cli) -> None:
    model = after_push.output / MODEL
    version = after_push.versions()[0]
    aside = model / ".flightdeck" / "rolled_back" / version.name
    shutil.copytree(version, aside)
    older = version.rename(model / "1000")
    assert older.exists()
    done = forked.run(command(after_push, "--once", "--as-of", "201303"))
    assert done.returncode == 0, done.stdout
    assert f"version {version.name} of trip_delay" in done.stdout
    assert "was rolled back" in done.stdout


def test_schedule_leaves_a_run_in_progress_alone(after_push: Cli) -> None:
    with OutputDirectory(after_push.directory).locked():
        done = forked.run(command(after_push, "--once"))
        assert done.returncode == 75
        assert "Missed, and to be made up for: a run is using the output directory" in done.stdout
        done = after_push.run()
        assert done.returncode == 75
        assert "another run is using the output directory" in done.stdout


def test_schedule_ends_with_its_run_at_sigterm_and_keeps_what_is_served(new_data: Cli) -> None:
    before = versions(new_data)
    write_span(new_data.data, 201305, thin(read_month(201305), 500))
    process = subprocess.Popen(
        [sys.executable, *command(new_data, "--once", "--settle-seconds", "0")],
        cwd=PROJECT,
        text=True,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "Retraining: span-201304 is new; span-201305 is new.\n"
    run_id = process.stdout.readline().split()[1].rstrip(",")
    record = new_data.directory / "runs" / f"{run_id}.json"
    for _ in range(600):
        if record.exists():
            break
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert f"Run {run_id} was interrupted." in said
    assert json.loads(record.read_text())["outcome"] == "interrupted"
    assert versions(new_data) == before
    with OutputDirectory(new_data.directory).locked():  # It is free, and its metadata sound.
        pass
    listed = runner("runs", "--output", str(new_data.output)).stdout
    assert re.search(rf"^{run_id} .* interrupted", listed, re.MULTILINE)


def test_runs_lists_a_pushed_run(pushed: PushedRun) -> None:
    done = runner("runs", "--output", str(pushed.cli.output))
    assert done.returncode == 0, done.stdout
    heading, run = done.stdout.rstrip().splitlines()
    assert heading.split() == ["run", "started", "time", "outcome", "result"]
    expected = rf"\d{{8}}-\d{{6}}-\d{{3}}  *\S+Z  *\d+ s  *pushed  *version {pushed.version.name} *"
    assert re.fullmatch(expected, run)


def test_runs_says_so_without_runs(tmp_path: Path) -> None:
    done = runner("runs", "--output", str(tmp_path))
    assert (done.returncode, done.stdout) == (0, f"There are no runs in {tmp_path}.\n")


def test_lineage_shows_spans_schema_parameters_and_code(pushed: PushedRun) -> None:
    version = pushed.version.name
    done = runner("lineage", version, "--output", str(pushed.cli.output))
    assert done.returncode == 0, done.stdout
    for fact in (
        rf"^version {version} of trip_delay$",
        r"── live$",
        r"── signature valid$",
        r"── schema: .*schema\.pbtxt, SHA-256 [0-9a-f]{16}$",
        r"── model digest [0-9a-f]{64}$",
        r"run key [0-9a-f]{16}$",
        r"── metrics: auc 0\.\d+",
        r"train: span-201301, span-201302 \([\d,]+ rows\)",
        r"Pusher #\d+, code [0-9a-f]{16}$",
        r"model ◄ Quantizer #\d+, code [0-9a-f]{16}$",
        r"Trainer #\d+, code [0-9a-f]{16}$",
        r"epochs=2\b",
        r"examples ◄ SpanExampleGen #\d+, code",
        r"test: span-201303$",
        r"ImportSchemaGen #\d+, code",
        r"schema_file=tests/trips/schema/schema\.pbtxt",
        r"ServingValidator #\d+",
    ):
        assert re.search(fact, done.stdout, re.MULTILINE), (fact, done.stdout)
    # The version that is served is the default.
    assert runner("lineage", "--output", str(pushed.cli.output)).stdout == done.stdout


def test_lineage_without_metadata_shows_the_provenance(after_push: Cli) -> None:
    (after_push.directory / "metadata.sqlite").unlink()
    done = runner("lineage", "--output", str(after_push.output))
    assert done.returncode == 0, done.stdout
    assert "there is no ML Metadata" in done.stdout
    assert "train: span-201301, span-201302" in done.stdout
    assert "SpanExampleGen/examples" in done.stdout


def test_lineage_reports_a_changed_version(after_push: Cli) -> None:
    with (after_push.versions()[0] / "model.tflite").open("ab") as file:
        file.write(b"more")
    assert "signature not valid: " in runner("lineage", "--output", str(after_push.output)).stdout


def test_lineage_of_an_unknown_version_lists_those_there_are(pushed: PushedRun) -> None:
    done = runner("lineage", "12", "--output", str(pushed.cli.output))
    assert done.returncode == 1
    assert "there is no version 12 of trip_delay" in done.stdout
    assert f"it has {pushed.version.name}" in done.stdout


def test_lineage_without_any_version_says_so(tmp_path: Path) -> None:
    done = runner("lineage", "--output", str(tmp_path))
    assert done.returncode == 1
    assert "holds no model" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--cron EXPRESSION or --once is needed"),
        (("--cron", "at six"), "'at six' has 2 fields"),
        (
            ("--cron", "0 6 * * *", "--timezone", "Mars/North"),
            "the time zone 'Mars/North' is not known",
        ),
        (("--once", "--webhook", "example.com"), "an address http://… or https://… is expected"),
        (("--once", "--notify", "'unclosed"), "No closing quotation"),
        (("--once", "--set", "training.epoch=3"), "did you mean training.epochs?"),
        (("--once", "--retries", "-1"), "--retries"),
        (("--once", "--backoff-seconds", "nan"), "--backoff-seconds"),
    ],
)
def test_schedule_refuses_wrong_arguments_at_once(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = runner("schedule", "--output", str(tmp_path / "output"), *arguments)
    assert done.returncode == 2
    assert message in " ".join(done.stdout.split())
    assert not (tmp_path / "output").exists()
