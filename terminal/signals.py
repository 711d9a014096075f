"""Waiting for a signal that ends a process."""

from __future__ import annotations

import os
import signal
from multiprocessing.connection import wait


class StopSignal:
    """Whether SIGTERM or Ctrl-C came; threads can wait for it.

    Python runs a signal's handler in the main thread, between any two of its steps. One that calls
    `threading.Event.set` blocks for ever if the main thread is inside `Event.wait` and holds the
    event's lock. This one writes to a pipe, which nobody reads: it wakes all that wait, now and
    later.
    """

    def __init__(self) -> None:
        self._came = False
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def __bool__(self) -> bool:
        return self._came

    def wait(self, seconds: float) -> bool:
        """Waits; returns at once, and True, when the signal comes or has come."""
        wait([self._read], seconds)
        return self._came

    def _handle(self, *_: object) -> None:
        if not self._came:
            self._came = True
            os.write(self._write, b"!")
