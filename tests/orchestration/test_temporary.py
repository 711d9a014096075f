"""Tests that temporary files of a run go with it, and nothing else does."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from multiprocessing import util
from pathlib import Path

import pytest

from orchestration.local.output_directory import OutputDirectory, write_whole
from orchestration.local.temporary import leftovers, remove_leftovers, temporary_folder
from storage.errors import UserError

ROOT = Path(__file__).parents[2]

# Makes the folder of a run, with a file in it and the socket's folder, and is killed.
KILLED = """
import os, signal, sys
from pathlib import Path
from orchestration.local.output_directory import OutputDirectory
from orchestration.local.temporary import temporary_folder

with temporary_folder(OutputDirectory(Path(sys.argv[1]))) as folder:
    (folder / "file").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def output(tmp_path: Path) -> OutputDirectory:
    output = OutputDirectory(tmp_path / "output")
    output.root.mkdir()
    return output


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary files go; its path is short."""
    util.get_temp_dir()  # That of this process is made once, elsewhere.
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="t-") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


def test_temporary_folder_is_private_and_deleted_however_the_run_ends(
    output: OutputDirectory, temporary: Path
) -> None:
    made = []

    def be_stopped() -> None:
        with temporary_folder(output) as folder:
            made.append(folder)
            assert folder.parent == temporary
            assert folder.stat().st_mode & 0o777 == 0o700
            (folder / "node").mkdir()
            (folder / "node" / "link").symlink_to(ROOT)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        be_stopped()
    assert not made[0].exists()
    assert (ROOT / "orchestration").exists()
    assert os.listdir(output.root) == []


def test_temporary_folder_of_a_killed_run_is_deleted_by_the_next(
    output: OutputDirectory, temporary: Path
) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(output.root)], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(leftovers(output)) == len(list(temporary.iterdir())) == 2
    with temporary_folder(output) as folder:
        left = {path.name for path in temporary.iterdir()}
        assert {name for name in left if not name.startswith("pymp-")} == {folder.name}
    assert remove_leftovers(output) == []


def test_remove_leftovers_keeps_files_of_others(
    output: OutputDirectory, temporary: Path, tmp_path: Path
) -> None:
    other = OutputDirectory(tmp_path / "other")
    other.root.mkdir()
    with temporary_folder(output) as running:
        # A copy of an output directory holds the note of the one that it was copied from.
        for text in (
            output.temporary.read_text(),
            f'["{ROOT}", "{tmp_path}", "/"]',
            "not JSON",
            '{"a": 1}',
            "[1, null]",
            "[" * 100_000,
            r'["/tmp/\u0000", "/tmp/\ud800"]',
        ):
            write_whole(other.temporary, text)
            assert leftovers(other) == []
            with temporary_folder(other):
                pass
        assert running.exists()
    link = temporary / running.name
    link.symlink_to(tmp_path)
    write_whole(output.temporary, f'["{link}"]')
    assert remove_leftovers(output) == []
    assert link.is_symlink()
    assert tmp_path.exists()


def test_temporary_folder_has_room_for_the_path_of_a_socket(
    output: OutputDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("long" * 20)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with temporary_folder(output) as folder:
        assert folder.parent == Path("/tmp")


def test_temporary_folder_that_cannot_be_made_is_one_clear_line(
    output: OutputDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/proc/nowhere")
    message = "no temporary files can be kept in /proc/nowhere: "
    with pytest.raises(UserError, match=message), temporary_folder(output):
        pass
