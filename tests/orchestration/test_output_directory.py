"""Tests that a run has its output directory to itself, and that unusable ones are refused."""

import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from orchestration.local.output_directory import OutputDirectory
from storage.errors import UserError

ROOT = Path(__file__).parents[2]

# Prints what locking the directory says, and then waits.
LOCK = """
import sys
from pathlib import Path
from storage.errors import UserError
from orchestration.local.output_directory import OutputDirectory

try:
    with OutputDirectory(Path(sys.argv[1])).locked():
        print("locked", flush=True)
        sys.stdin.read()
except UserError as error:
    print(error, flush=True)
"""


def lock_elsewhere(
    directory: Path, *, within: tuple[str, ...] = (), before: Callable[[], None] | None = None
) -> subprocess.Popen[str]:
    """Locks a directory in another process, until that is killed or its input is closed."""
    return subprocess.Popen(
        [*within, sys.executable, "-c", LOCK, str(directory)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=before,
    )


def mounted(options: str, directory: Path) -> tuple[str, ...]:
    """Runs a command where a tmpfs is mounted over a directory."""
    mount = 'mount -t tmpfs -o "$0" none "$1" && shift && exec "$@"'
    apart = ("unshare", "--user", "--map-root-user", "--mount")
    return (*apart, "sh", "-c", mount, options, str(directory))


def can_mount() -> bool:
    """Whether this machine lets a process have mounts of its own."""
    if not shutil.which("unshare"):
        return False
    command = (*mounted("size=256k", Path("/mnt")), "true")
    return subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0


needs_mount = pytest.mark.skipif(not can_mount(), reason="needs a mount namespace")


def files(directory: Path) -> dict[str, bytes]:
    """All files below a directory but the lock."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != ".run.lock"
    }


@pytest.fixture
def output(tmp_path: Path) -> OutputDirectory:
    """A directory with metadata in it."""
    output = OutputDirectory(tmp_path / "output")
    output.root.mkdir()
    make_database(output.metadata)
    return output


def make_database(path: Path) -> None:
    """Makes a database of some hundred pages, with the kinds of things that ML Metadata's has."""
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE Artifact (id INTEGER PRIMARY KEY, uri TEXT)")
        database.execute("CREATE INDEX idx_uri ON Artifact (uri)")
        uris = ((f"artifacts/Trainer/model/{number}" * 3,) for number in range(5000))
        database.executemany("INSERT INTO Artifact (uri) VALUES (?)", uris)


def test_a_fresh_directory_is_made_with_its_parents(tmp_path: Path) -> None:
    output = OutputDirectory(tmp_path / "some" / "where" / "output")
    with output.locked():
        assert output.root.is_dir()
        assert files(output.root) == {}


def test_everything_lies_below_the_directory(tmp_path: Path) -> None:
    output = OutputDirectory(tmp_path)
    paths = [output.metadata, output.metadata_lock, output.artifacts, output.serving]
    paths.append(output.logs(output.new_run_id()))
    assert all(path.is_relative_to(tmp_path) for path in paths)
    assert len(set(paths)) == len(paths)


def test_run_ids_are_plain_file_names_of_the_time_in_utc(
    output: OutputDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")  # 14 hours ahead
    time.tzset()
    try:
        before = datetime.now(UTC)
        run_id = output.new_run_id()
    finally:
        monkeypatch.undo()
        time.tzset()
    assert run_id.replace("-", "").isdigit()
    made = datetime.strptime(run_id, "%Y%m%d-%H%M%S-%f").replace(tzinfo=UTC)
    assert abs(made - before) < timedelta(hours=1)


@pytest.mark.parametrize("place", ["runs/{}.json", "logs/{}"])
def test_run_ids_sort_as_runs_began_although_the_clock_was_put_back(
    output: OutputDirectory, place: str
) -> None:
    ids = [f"{datetime.now(UTC) + timedelta(hours=2):%Y%m%d-%H%M%S}-999"]  # Of local time, once.
    for _ in range(3):
        path = output.root / place.format(ids[-1])
        path.parent.mkdir(exist_ok=True)
        path.touch()
        ids.append(output.new_run_id())
    assert sorted(set(ids)) == ids


@pytest.mark.parametrize("name", ["99991231-235959-999", "backtest", "20261399-000000-000", ".x"])
def test_run_ids_are_made_whatever_else_lies_there(output: OutputDirectory, name: str) -> None:
    (output.root / "logs" / name).mkdir(parents=True)
    assert output.new_run_id() < "9999"


def test_a_sound_directory_can_be_used_again_and_again(output: OutputDirectory) -> None:
    before = files(output.root)
    for _ in range(2):
        with output.locked():
            pass
    assert files(output.root) == before


def test_a_second_run_is_refused_while_the_first_is_there(output: OutputDirectory) -> None:
    with output.locked():
        with lock_elsewhere(output.root) as second:
            said, _ = second.communicate()
        assert said == f"another run is using the output directory {output.root}\n"
    with output.locked():
        pass


def test_the_directory_is_free_once_its_user_was_killed(output: OutputDirectory) -> None:
    with lock_elsewhere(output.root) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "locked\n"
        with (
            pytest.raises(UserError, match=f"another run is using .*{output.root}"),
            output.locked(),
        ):
            pass
        first.kill()
    with output.locked():
        pass


def test_the_directory_is_free_after_an_error(output: OutputDirectory) -> None:
    with pytest.raises(ZeroDivisionError), output.locked():
        raise ZeroDivisionError
    with output.locked():
        pass


def test_an_error_of_the_run_itself_is_not_taken_for_a_second_run(output: OutputDirectory) -> None:
    with pytest.raises(BlockingIOError, match="terminal"), output.locked():
        raise BlockingIOError("the terminal cannot take more")


def random_bytes(database: bytes) -> bytes:
    return os.urandom(len(database))


def cut_in_half(database: bytes) -> bytes:
    return database[: len(database) // 2]


def cut_within_a_page(database: bytes) -> bytes:
    return database[: len(database) // 2 + 1000]


def cut_within_the_header(database: bytes) -> bytes:
    return database[:50]


def overwritten_page(database: bytes) -> bytes:
    page = 4096
    return database[: 3 * page] + b"\xff" * page + database[4 * page :]


@pytest.mark.parametrize(
    "damage",
    [random_bytes, cut_in_half, cut_within_a_page, cut_within_the_header, overwritten_page],
)
def test_corrupt_metadata_is_refused_and_left_as_it_is(
    output: OutputDirectory, damage: Callable[[bytes], bytes]
) -> None:
    output.metadata.write_bytes(damage(output.metadata.read_bytes()))
    before = files(output.root)
    with pytest.raises(UserError) as refusal, output.locked():
        pytest.fail("entered")
    assert str(refusal.value).startswith(f"{output.metadata} is corrupt (")
    assert files(output.root) == before


def test_an_empty_file_is_a_database_that_nothing_was_written_to(output: OutputDirectory) -> None:
    output.metadata.write_bytes(b"")
    with output.locked():
        pass


def test_metadata_whose_writer_was_killed_is_sound(output: OutputDirectory) -> None:
    write = (
        "import os, sqlite3, sys; database = sqlite3.connect(sys.argv[1]);"
        "database.execute('PRAGMA cache_size = 1');"
        "database.execute('UPDATE Artifact SET uri = uri || id');"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", write, str(output.metadata)], check=False)
    assert Path(f"{output.metadata}-journal").exists()
    with output.locked(), closing(sqlite3.connect(output.metadata)) as database:
        (first,) = database.execute("SELECT uri FROM Artifact WHERE id = 1").fetchone()
    assert first == "artifacts/Trainer/model/0" * 3


def test_metadata_that_another_program_has_locked_is_not_called_corrupt(
    output: OutputDirectory,
) -> None:
    with closing(sqlite3.connect(output.metadata, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(UserError) as refusal, output.locked():
            pytest.fail("entered")
    assert str(output.metadata) in str(refusal.value)
    assert "locked" in str(refusal.value)
    assert "corrupt" not in str(refusal.value)


def test_a_file_in_the_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "output").write_text("something else")
    for root in (tmp_path / "output", tmp_path / "output" / "below"):
        with pytest.raises(UserError) as refusal, OutputDirectory(root).locked():
            pytest.fail("entered")
        assert str(refusal.value).startswith(f"output directory {root} cannot be written: ")
    assert (tmp_path / "output").read_text() == "something else"


@pytest.mark.parametrize("name", ["run[12]", "what?", "a*", "back\\slash"])
def test_output_directory_refuses_a_path_that_reads_as_a_pattern(tmp_path: Path, name: str) -> None:
    """Beam and TFMA look for what they wrote by patterns, and Beam deletes what matches."""
    root = tmp_path / name / "output"
    for entered in (OutputDirectory(root).locked(), OutputDirectory(root).scheduling()):
        with pytest.raises(UserError, match="choose another --output") as refusal, entered:
            pytest.fail("entered")
        assert f"{root} has " in str(refusal.value)
    assert not root.parent.exists()


def test_a_directory_that_cannot_be_made_is_refused() -> None:
    root = Path("/proc/flightdeck/output")  # Not even root can make one there.
    with pytest.raises(UserError, match=f"output directory {root} cannot be written: "):
        OutputDirectory(root).locked().__enter__()


@needs_mount
def test_a_read_only_directory_is_refused(tmp_path: Path) -> None:
    with lock_elsewhere(tmp_path, within=mounted("ro", tmp_path)) as run:
        said, _ = run.communicate()
    assert said == f"output directory {tmp_path} cannot be written: Read-only file system\n"


@needs_mount
@pytest.mark.parametrize("size", ["4k", "256k", "1020k"])
def test_a_full_disk_is_refused(tmp_path: Path, size: str) -> None:
    with lock_elsewhere(tmp_path, within=mounted(f"size={size}", tmp_path)) as run:
        said, _ = run.communicate()
    assert said == f"output directory {tmp_path} cannot be written: No space left on device\n"


def limit_file_size() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (256 << 10, 256 << 10))


def test_a_directory_that_takes_small_files_only_is_refused(tmp_path: Path) -> None:
    with lock_elsewhere(tmp_path, before=limit_file_size) as run:
        said, _ = run.communicate()
    assert said == f"output directory {tmp_path} cannot be written: File too large\n"
    assert (tmp_path / ".run.lock").stat().st_size == 0
