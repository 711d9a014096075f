"""Local folders that servers of other users read: published whole, of a mode that is no umask's."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Mapping

from pyarrow import fs

from storage.uris import copy_between


def make_folder(path: str, mode: int) -> None:
    """Makes a local folder of a mode that does not depend on the umask, if there is none."""
    try:
        os.mkdir(path)
    except FileExistsError:
        return
    # Where a folder's group is that of the one above, it stays so.
    os.chmod(path, mode | stat.S_IMODE(os.stat(path).st_mode) & stat.S_ISGID)


def folder_mode(file_mode: int) -> int:
    """The mode of a file, and who may read it may enter the folder."""
    return file_mode | (file_mode & 0o444) >> 2


def publish_folders(targets: Mapping[str, str], staging: str, file_mode: int) -> None:
    """Copies local folders, and moves the copies to their places when all are whole.

    Args:
      targets: The place of each folder, in the order in which they are moved there; all on one disk
        with `staging`.
      staging: Folder to copy to, which only this user can enter; what is there is deleted.
      file_mode: Mode of the files.
    """
    local = fs.LocalFileSystem()
    shutil.rmtree(staging, ignore_errors=True)
    os.mkdir(staging, 0o700)
    copies = {os.path.join(staging, str(n)): source for n, source in enumerate(targets)}
    for copy, source in copies.items():
        copy_between((local, source), (local, copy))
        _set_modes(copy, file_mode)
        _flush(copy)
    for copy, source in copies.items():
        os.rename(copy, targets[source])
    os.rmdir(staging)


def _set_modes(folder: str, file_mode: int) -> None:
    """Gives the files below a local folder a mode, and the folders the one that goes with it."""
    for root, _, names in os.walk(folder):
        os.chmod(root, folder_mode(file_mode))
        for name in names:
            os.chmod(os.path.join(root, name), file_mode)


def _flush(path: str) -> None:
    """Has the files below a local folder outlast a power cut."""
    files = [os.path.join(root, name) for root, _, names in os.walk(path) for name in names]
    for name in files:
        descriptor = os.open(name, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
