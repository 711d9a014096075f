"""One run at a time, of several schedules in a process."""

from __future__ import annotations

import threading

from orchestration.schedule.clock import Clock

_LOOK_SECONDS = 1.0


class Turn:
    """The right to run, which one schedule has at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holder = ""

    def take(self, model: str) -> str:
        """Takes the turn, if nobody has it.

        Args:
          model: The model whose schedule takes it.

        Returns:
          "" if it was taken; otherwise the model that has it.
        """
        with self._lock:
            if self._holder:
                return self._holder
            self._holder = model or "another model"
            return ""

    def give(self) -> None:
        """Gives the turn back."""
        with self._lock:
            self._holder = ""

    def wait(self, clock: Clock) -> None:
        """Waits until nobody has the turn, or the schedule is to end."""
        while self._holder and not clock.wait(_LOOK_SECONDS):
            continue
