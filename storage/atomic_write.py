"""Writes files atomically: no reader sees half a file, even after a crash or a power cut."""

from __future__ import annotations

import contextlib
import os
import stat
import uuid
from collections.abc import Iterator
from typing import BinaryIO

from storage.uris import local_path, open_uri

# Ending of a file that is being written; a killed process leaves it behind.
PART = ".part"


@contextlib.contextmanager
def whole_file(
    path: str, *, mode: int | None = None, part: str = "", replace: bool = True
) -> Iterator[BinaryIO]:
    """Opens a local file that replaces another when the block ends, unless the block fails.

    Args:
      path: The file; its folder exists.
      mode: Its mode, independent of the umask. None keeps mode and owner of the replaced file; for
        a new file, the umask decides.
      part: Path to write to at first, on the same disk; "" for a new name in the same folder. A
        file left there by a killed process is overwritten; a link there is not followed.
      replace: Whether to replace a file that another process made meanwhile.

    Yields:
      The file, open for writing.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     with whole_file(f"{folder}/report.txt") as file:
      ...         _ = file.write(b"whole")
      ...     os.listdir(folder)
      ['report.txt']
    """
    folder, name = os.path.split(os.path.abspath(path))
    part = part or os.path.join(folder, f".{name}.{uuid.uuid4().hex}{PART}")
    with contextlib.suppress(FileNotFoundError):
        os.remove(part)
    owner = None
    if mode is None:
        with contextlib.suppress(FileNotFoundError):
            old = os.stat(path)
            mode, owner = stat.S_IMODE(old.st_mode), (old.st_uid, old.st_gid)
    try:
        descriptor = os.open(
            part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if mode is None else 0o600
        )
        with open(descriptor, "wb") as file:
            yield file
            file.flush()
            if owner is not None:
                with contextlib.suppress(PermissionError):
                    os.fchown(descriptor, *owner)
            if mode is not None:
                os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        if replace:
            os.replace(part, path)
        else:
            with contextlib.suppress(FileExistsError):
                os.link(part, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(part)


def write_whole(uri: str, content: bytes) -> None:
    """Writes a file, and the folders above it, on a disk or in an object store.

    In an object store an object appears only when it is complete, so it needs no temporary name.
    """
    path = local_path(uri)
    if path is None:
        files, name = open_uri(uri)
        # By default the file name would decide about compression.
        with files.open_output_stream(name, compression=None) as stream:
            stream.write(content)
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with whole_file(path) as file:
        file.write(content)
