"""What lies in an artifact's folder, in one line that shows whether a file was lost or changed."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator

# Some file systems keep times of modification to 10 ms; finer ones would change by themselves.
_NANOSECONDS = 10_000_000


def manifest(path: str) -> str:
    """Describes all files below a path: how many, how large, and a digest of the listing.

    The listing holds name and kind of each entry, size and time of modification of each file, and
    the target of each link. Contents are not read, so it costs next to nothing; links are not
    followed, so a file that became a link to its copy is another one.

    Args:
      path: A local folder, or file.

    Returns:
      The line; "" if there is nothing at the path, or it cannot be read.
    """
    digest = hashlib.sha256()
    files = size = 0
    try:
        for name, info in _entries(path):
            facts = [name, stat.S_IFMT(info.st_mode)]
            if stat.S_ISREG(info.st_mode):
                files += 1
                size += info.st_size
                facts += [info.st_size, info.st_mtime_ns // _NANOSECONDS]
            elif stat.S_ISLNK(info.st_mode):
                facts.append(os.readlink(os.path.join(path, name) if name else path))
            digest.update(repr(facts).encode("utf-8", "surrogateescape"))
    except OSError:
        return ""
    return f"{files} files, {size} bytes, {digest.hexdigest()[:16]}"


def _entries(path: str, name: str = "") -> Iterator[tuple[str, os.stat_result]]:
    """Relative name and status of a path and of all below it, in the order of their names."""
    info = os.lstat(os.path.join(path, name) if name else path)
    yield name, info
    if stat.S_ISDIR(info.st_mode):
        for child in sorted(os.listdir(os.path.join(path, name) if name else path)):
            yield from _entries(path, os.path.join(name, child))
