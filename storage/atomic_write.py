"""Writes files that nobody ever sees half written, be the process killed or the power cut."""

from __future__ import annotations

import contextlib
import os
import stat
import uuid
from collections.abc import Iterator
from typing import BinaryIO

from storage.uris import local_path, open_uri

# A file that is being written has another name, which ends so; a process that is killed leaves it.
PART = ".part"


@contextlib.contextmanager
def whole_file(
    path: str, *, mode: int | None = None, part: str = "", replace: bool = True
) -> Iterator[BinaryIO]:
    """A local file that takes its place when the block ends, and not if the block fails.

    Args:
      path: The file; its folder exists.
      mode: Its mode, whatever the umask. None keeps mode and owner of the file that is replaced;
        where there is none, the umask decides.
      part: Path under which it is written, on the same disk; "" for a new name beside it. What is
        left there by a process that was killed is overwritten; a link there is not followed.
      replace: Whether it replaces a file that another process made meanwhile.

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

    In an object store an object appears when it is whole, so it needs no other name meanwhile.
    """
    path = local_path(uri)
    if path is None:
        files, name = open_uri(uri)
        # The name must not decide whether it is compressed, as it would by default.
        with files.open_output_stream(name, compression=None) as stream:
            stream.write(content)
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with whole_file(path) as file:
        file.write(content)
