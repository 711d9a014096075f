"""The clock of a schedule, which also knows when to end."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Protocol

from terminal.signals import StopSignal


class Clock(Protocol):
    """The time, and whether the schedule is to end."""

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
        self._stop = StopSignal()

    @property
    def stopping(self) -> bool:
        """Whether the schedule is to end."""
        return bool(self._stop)

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
