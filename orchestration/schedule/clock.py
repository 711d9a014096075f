"""The time, as a schedule sees it, and what ends the schedule."""

from __future__ import annotations

import signal
import threading
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """The time, and what ends the schedule."""

    @property
    def stopping(self) -> bool:
        """Whether the schedule is to end."""

    def now(self) -> datetime:
        """The time, UTC."""

    def wait(self, seconds: float) -> bool:
        """Waits; returns at once, and True, when the schedule is to end."""


class SystemClock:
    """The clock of this machine; SIGTERM and Ctrl-C end the schedule."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop.set())

    @property
    def stopping(self) -> bool:
        """Whether the schedule is to end."""
        return self._stop.is_set()

    def now(self) -> datetime:
        """The time, UTC."""
        return datetime.now(UTC)

    def wait(self, seconds: float) -> bool:
        """Waits; returns at once, and True, when the schedule is to end."""
        return self._stop.wait(seconds)


def show(time: datetime) -> str:
    """A time for a person."""
    return f"{time:%Y-%m-%d %H:%M:%S %Z}"


def iso(time: datetime) -> str:
    """A time as records have it."""
    return time.isoformat(timespec="seconds")
