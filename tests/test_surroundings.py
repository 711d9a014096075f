"""Tests of the commands as a shell starts them: in odd places, on odd terminals, with odd files."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Mapping
from pathlib import Path

import pytest

from orchestration.local.history import RunRecord
from orchestration.local.output_directory import OutputDirectory
from orchestration.outcome import Outcome
from terminal.imports import silent_imports
from tests.conftest import PROJECT

PYTHON = sys.executable
LOCAL = [PYTHON, str(PROJECT / "local_runner.py")]
KUBEFLOW = [PYTHON, str(PROJECT / "kubeflow_runner.py")]
SERVING = [PYTHON, "-m", "serving"]
REASON = (
    "Evaluator: the AUC 0.6012 is below 0.62 … see /a/long/path/that/does/not/break/report.json"
)
RUN_ID = "20261126-172157-{}"
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """An output directory with records of some runs."""
    directory = OutputDirectory(tmp_path / "output")
    for number in range(100, 160):
        RunRecord(
            RUN_ID.format(number),
            started="2026-11-26T17:21:57+00:00",
            ended="2026-11-26T17:20:57+00:00",  # The clock was put back.
            seconds=1234.5,
            outcome=Outcome.STOPPED_BY_GATE,
            reasons=(REASON,),
        ).write(directory)
    return directory.root


def shell(
    command: str,
    *arguments: object,
    cwd: Path = PROJECT,
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Runs a shell command in which "$@" are the arguments."""
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command, "bash", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(PROJECT), **(environment or {})},
        capture_output=True,
        timeout=120,
        check=False,
        encoding="utf-8",
    )


def on_terminal(command: list[str], columns: int, **environment: str) -> str:
    """What a command shows on a terminal of some width; its standard input is not that terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    inherited = {name: text for name, text in os.environ.items() if name != "COLUMNS"}
    with subprocess.Popen(
        command,
        cwd=PROJECT,
        env={**inherited, "TERM": "xterm", **environment},
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                shown += (part := os.read(ours, 65536))
            except OSError:  # The terminal's other end is closed.
                break
            if not part:
                break
        os.close(ours)
        assert process.wait(60) == 0, shown
    return shown.decode()


def test_silent_imports_keeps_noise_off_the_screen_and_loses_no_error(
    capfd: pytest.CaptureFixture[str],
) -> None:
    def fail() -> None:
        os.write(2, b"noise")
        raise ImportError("lost")

    with pytest.raises(ImportError, match="lost"), silent_imports():
        fail()
    os.write(2, b"news")
    assert capfd.readouterr().err == "news"


@pytest.mark.parametrize("columns", [200, 80, 40, 10])
def test_runs_cuts_nothing_off_on_a_narrow_terminal(output: Path, columns: int) -> None:
    shown = on_terminal([*LOCAL, "runs", "--output", str(output)], columns)
    text = re.sub(r"\s", "", _ESCAPES.sub("", shown))
    for number in range(100, 160):
        assert RUN_ID.format(number) in text
    assert text.count("…") == 60
    for part in (REASON, "stopped by the gate", "2026-11-26T17:21:57Z", "1,234 s"):
        assert text.count(part.replace(" ", "")) == 60


@pytest.mark.parametrize(
    "environment", [{"TERM": "dumb"}, {"NO_COLOR": "1"}, {"TERM": ""}], ids=str
)
def test_runs_prints_no_colour_to_a_terminal_without(
    output: Path, environment: dict[str, str]
) -> None:
    shown = on_terminal([*LOCAL, "runs", "--output", str(output)], 40, **environment)
    assert "\x1b[3" not in shown
    assert RUN_ID.format(159) in shown


@pytest.mark.parametrize(
    "environment",
    [
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
    ],
    ids=str,
)
def test_runs_escapes_what_the_character_set_lacks(
    output: Path, environment: dict[str, str]
) -> None:
    done = shell('"$@"', *LOCAL, "runs", "--output", output, environment=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert r"0.62 \u2026 see" in done.stdout


@pytest.mark.parametrize(
    "command",
    [[*LOCAL, "runs", "--output"], [*LOCAL, "--help"], [*KUBEFLOW, "submit", "--help"]],
    ids=["runs", "help", "kubeflow"],
)
def test_commands_end_well_when_their_output_is_not_read_to_the_end(
    output: Path, command: list[str]
) -> None:
    arguments = [*command, str(output)] if command[-1] == "--output" else command
    done = shell('"$@" | head -n 1', *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
@pytest.mark.parametrize("command", ["runs", "schedule"])
def test_commands_end_well_when_standard_streams_are_closed(
    output: Path, closed: str, command: str
) -> None:
    arguments = ["--output", output]
    if command == "schedule":  # There is no data, which a firing waits for.
        arguments += ["--once", "--set", f"data.uri={output}"]
    done = shell(f'"$@" {closed}', *LOCAL, command, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(path.suffix == ".json" for path in (output / "runs").iterdir())


def test_run_reports_a_failure_when_standard_output_is_closed(output: Path) -> None:
    arguments = ["run", "--output", output, "--set", f"data.uri={output}"]
    done = shell('"$@" >&- 2>&-', *LOCAL, *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")
    (lock,) = output.glob(".run.lock")
    assert lock.read_bytes() == b""  # What was meant for the screen went into no other file.
    done = shell('"$@" | true', *LOCAL, *arguments)
    assert (done.returncode, done.stderr) == (1, "")


def test_runs_fails_in_one_line_when_its_disk_is_full(output: Path) -> None:
    done = shell('"$@" > /dev/full', *LOCAL, "runs", "--output", output)
    assert done.returncode == 1
    assert done.stderr == "the output cannot be written: No space left on device\n"


def test_schedule_goes_on_when_the_disk_of_its_output_is_full(output: Path) -> None:
    options = ["--once", "--set", f"data.uri={output}", "--output", output]
    done = shell('"$@" > /dev/full', *LOCAL, "schedule", *options)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "command", [LOCAL, KUBEFLOW, SERVING], ids=["local", "kubeflow", "serving"]
)
def test_commands_report_that_the_current_directory_is_gone(
    tmp_path: Path, command: list[str]
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    done = shell('rmdir "$PWD"; "$@"', *command, "--help", cwd=gone)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("the current directory no longer exists")
    assert "Traceback" not in done.stderr


def test_runs_works_without_a_home_and_from_another_directory(output: Path, tmp_path: Path) -> None:
    done = shell('unset HOME; "$@"', *LOCAL, "runs", "--output", "output", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert RUN_ID.format(159) in done.stdout


@pytest.mark.parametrize(
    ("name", "environment"),
    [
        ("ö", {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}),
        (r"$(printf '\xff')", {}),
    ],
    ids=["not in this character set", "not in any"],
)
def test_commands_refuse_names_that_are_not_text(
    output: Path, name: str, environment: dict[str, str]
) -> None:
    done = shell(f'"$@" --output "{name}"', *LOCAL, "run", cwd=output, environment=environment)
    assert (done.returncode, done.stdout) == (1, "")
    assert "cannot be encoded in" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", ["mit Leerzeichen und ö", "-dash", "new\nline"])
def test_runs_reads_an_output_directory_of_any_name(output: Path, name: str) -> None:
    moved = output.rename(output.with_name(name))
    link = output.with_name("link")
    link.symlink_to(moved)
    for path in (moved, link):
        done = shell('"$@"', *LOCAL, "runs", f"--output={path}")
        assert (done.returncode, done.stderr) == (0, "")
        assert RUN_ID.format(159) in done.stdout


@pytest.mark.parametrize("command", ["run", "schedule", "runs", "backtest"])
def test_commands_refuse_an_output_directory_that_is_a_file(tmp_path: Path, command: str) -> None:
    file = tmp_path / "file"
    file.write_text("kept")
    more = {"schedule": ["--once"], "backtest": ["--from", "201306", "--to", "201306"]}
    for path in (file, file / "below"):
        done = shell('"$@"', *LOCAL, command, "--output", path, *more.get(command, []))
        assert "Traceback" not in done.stderr + done.stdout
        if command != "runs" or path == file:
            assert done.returncode in (1, 2)
            assert str(file) in done.stdout + done.stderr
    assert file.read_text() == "kept"


@pytest.mark.skipif(os.getuid() != 0, reason="becomes another user")
@pytest.mark.parametrize("command", ["run", "schedule", "runs"])
def test_commands_report_missing_permissions_to_a_user_without_a_name(
    output: Path, command: str
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        shutil.copytree(output, f"{folder}/output")
        more = ["--set", f"data.uri={folder}"] if command != "runs" else []
        more += ["--once"] if command == "schedule" else []
        arguments = [*LOCAL, command, "--output", f"{folder}/output", *more]
        become = 'setpriv --reuid 54321 --regid 54321 --clear-groups "$@"'
        if shell(become, PYTHON, "-c", "import click").returncode:
            pytest.skip("another user may not read the environment")
        done = shell(become, *arguments)
    assert done.stderr == ""
    if command == "runs":
        assert done.returncode == 0
        assert RUN_ID.format(159) in done.stdout
    else:
        assert done.returncode == 1
        assert f"output directory {folder}/output cannot be written: Permission" in done.stdout
