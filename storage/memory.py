"""Files and folders in memory, for what must never be on a disk."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from storage.encryption_keys import EncryptionError

# Where Linux has a folder in memory.
MEMORY = "/dev/shm"


def check_is_memory(folder: str) -> None:
    """Refuses a folder to decrypt into that is on a disk, from which it could be read later.

    Raises:
      EncryptionError: If it is not there, or on a disk.
    """
    if not os.path.isdir(folder):
        raise EncryptionError(f"there is no folder {folder} to decrypt into")
    if (kind := _file_system(folder)) not in ("tmpfs", "ramfs"):
        raise EncryptionError(
            f"{folder} is on a file system of kind {kind}, not in memory: what is decrypted there "
            "could be read from the disk; name a folder on a tmpfs, or allow it with "
            "--decrypt-to-disk"
        )


def _file_system(folder: str) -> str:
    """Kind of the file system that a folder is on, as Linux calls it."""
    device = os.stat(folder).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
        for line in mounts:
            fields = line.split()
            if fields[2] == wanted:
                return fields[fields.index("-") + 1]
    return "unknown"


@contextlib.contextmanager
def in_memory(content: bytes) -> Iterator[str]:
    """Path of a file with this content, that is in memory and that other users cannot open."""
    descriptor = os.memfd_create("key", os.MFD_CLOEXEC)
    with open(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        yield f"/proc/self/fd/{descriptor}"
