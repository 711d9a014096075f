"""Temporary files of a run: one folder, which goes with the run however that ends."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import parent_process, util
from pathlib import Path

from orchestration.local.output_directory import OutputDirectory, write_whole
from storage.errors import UserError

_OWNER = "flightdeck"
# The kernel takes 107 bytes for the path of a socket. What the folders here and the names of
# multiprocessing's sockets in them need leaves this.
_LONGEST_BASE = 48


@contextmanager
def temporary_folder(directory: OutputDirectory) -> Iterator[Path]:
    """Makes a folder for the temporary files of a run, and deletes it in the end.

    It lies where temporary files do, not in the output directory, whose path may be too long for
    sockets, or on a slow disk. The output directory only notes where: a run that was killed could
    not delete its folder, so the next one, or `clean`, does. Hold the directory's lock meanwhile.

    Raises:
      UserError: If it cannot be made.
    """
    base = tempfile.gettempdir()
    if len(os.fsencode(base)) > _LONGEST_BASE:
        base = "/tmp"
    try:
        folder = Path(base) / f"{_prefix(directory)}{os.urandom(3).hex()}"
        # Noted before it is made: a kill in between leaves nothing that nobody knows of.
        _note(directory, [*remove_leftovers(directory), folder, *_sockets()])
        folder.mkdir(mode=0o700)
        for sockets in _sockets():
            (sockets / _OWNER).write_text(_prefix(directory), encoding="utf-8")
    except OSError as error:
        raise UserError(f"no temporary files can be kept in {base}: {error.strerror}") from error
    try:
        yield folder
    finally:
        remove_leftovers(directory)


def _sockets() -> list[Path]:
    """The folder of the fork server's socket, which Python deletes unless it is killed."""
    if parent_process():  # It was made by a fork server, and has the folder of that one's maker.
        return []
    folder = Path(util.get_temp_dir())
    return [folder] if folder.is_dir() else []


def leftovers(directory: OutputDirectory) -> list[Path]:
    """Folders of temporary files that runs in this directory made and that are still there."""
    return [folder for folder in _noted(directory) if _is_ours(folder, directory)]


def remove_leftovers(directory: OutputDirectory) -> list[Path]:
    """Deletes them, and returns those that cannot be deleted."""
    for folder in leftovers(directory):
        shutil.rmtree(folder, ignore_errors=True)
    left = leftovers(directory)
    _note(directory, left)
    return left


def _is_ours(folder: Path, directory: OutputDirectory) -> bool:
    """Whether a folder was made for runs in a directory that have ended, whatever the note says.

    A copy of an output directory has the note of the other one.
    """
    try:
        info = os.lstat(folder)
        if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid() or folder in _sockets():
            return False
        if folder.name.startswith("pymp-"):
            return (folder / _OWNER).read_text(encoding="utf-8") == _prefix(directory)
        return folder.name.startswith(_prefix(directory))
    except (OSError, ValueError):  # The latter if the note has what is no path.
        return False


def _prefix(directory: OutputDirectory) -> str:
    """What the names of all folders begin with that are made for an output directory."""
    return f"fd-{hashlib.sha256(str(directory.root).encode()).hexdigest()[:6]}"


def _noted(directory: OutputDirectory) -> list[Path]:
    try:
        paths = json.loads(directory.temporary.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return []
    known = isinstance(paths, list) and all(isinstance(path, str) for path in paths)
    return [Path(path) for path in paths] if known else []


def _note(directory: OutputDirectory, folders: list[Path]) -> None:
    if folders:
        write_whole(directory.temporary, json.dumps([str(folder) for folder in folders]))
    else:
        directory.temporary.unlink(missing_ok=True)
