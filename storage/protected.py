"""Reads files that others must not change, and secrets that others must not read."""

from __future__ import annotations

import os
import re
import stat

_TOKEN = re.compile(rb"[!-~]+")


def read_protected(path: str, *, secret: bool) -> bytes:
    """The content of a file that others than its owner must not change.

    Args:
      path: The file.
      secret: Whether only the owner and the group may read it. The group may, since that is how
        Kubernetes gives a Secret to a process that is not root's.

    Raises:
      OSError: If it cannot be read, or others can do with it what they must not.
    """
    with open(path, "rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & (0o027 if secret else 0o022):
            does = "read or change" if secret else "change"
            raise OSError(
                f"{path} has mode {mode:04o}, so that others can {does} it: "
                f"chmod {0o640 if secret else 0o644:o} it"
            )
        return file.read()


def read_token(path: str) -> bytes:
    """The token in a file.

    Raises:
      OSError: If the file cannot be read, or more than its owner and group can read it.
      ValueError: If it holds no token.
    """
    token = read_protected(path, secret=True).strip()
    if not token:
        raise ValueError(f"There is no token in {path}: it is empty.")
    if not _TOKEN.fullmatch(token):
        raise ValueError(f"There is no token in {path}: it is not one word of printable ASCII.")
    return token
