"""Standard streams that may be closed, ended early, or lack a character."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable, Collection
from typing import TextIO

# A pipe that no process reads any more, and a terminal that was closed.
_NOBODY_LISTENS = (errno.EPIPE, errno.EIO)


def run_command(command: Callable[[], object]) -> None:
    """Runs a command line to its end, whatever its terminal, its files and its directory are.

    Output that no process reads any more is dropped; it is no reason to fail. A character that the
    terminal does not have is written as its number.

    Args:
      command: What parses the arguments and exits, such as a click group.
    """
    # On nothing, or the next file that is opened, such as a lock, is the standard output.
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # Gets the lowest number that is free: this one.
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open_stream(1, _NOBODY_LISTENS, sys.stdout)
    sys.stderr = open_stream(2, (), sys.stderr)
    try:
        texts = [*sys.argv[1:], os.getcwd()]
    except OSError:
        sys.exit("the current directory does not exist any more: change to another one")
    for text in texts:
        if text != text.encode("utf-8", "replace").decode():
            sys.exit(
                f"{text!r} is no text in {sys.getfilesystemencoding()}: use another name, or set "
                "PYTHONUTF8=1 if it is one in UTF-8"
            )
    try:
        command()
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        sys.exit(f"{place}{error.strerror or error}")


class _Lenient(io.TextIOWrapper):
    """The stream that `open_stream` opens."""

    def __init__(self, descriptor: int, reasons: Collection[int], like: TextIO | None):
        super().__init__(
            open(descriptor, "wb", closefd=descriptor > 2),  # noqa: SIM115
            encoding=like.encoding if like else None,
            errors="backslashreplace",
            line_buffering=bool(like and like.line_buffering),
        )
        self._reasons = reasons

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self._end(error)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._end(error)

    def _end(self, error: OSError) -> None:
        """Sends what is left, and all that follows, to nothing."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
        super().flush()
        if self._reasons and error.errno not in self._reasons:
            raise OSError(error.errno, f"the output cannot be written: {error.strerror}") from error


def open_stream(
    descriptor: int, reasons: Collection[int] = (), like: TextIO | None = None
) -> io.TextIOWrapper:
    """Opens a stream that goes nowhere from the first error on.

    Args:
      descriptor: Where it goes.
      reasons: Numbers of the errors that are no failure; without any, no error is one.
      like: A stream that has its encoding and buffering; None for those of the surroundings.
    """
    return _Lenient(descriptor, reasons, like)
