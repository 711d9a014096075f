"""Schedules of several models in one process, each in a thread of its own.

They share a `Turn`, so one run goes on at a time; a model that is held up, or waits before it tries
a failed run again, holds up no other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from orchestration.outcome import Outcome
from orchestration.schedule.schedule import Schedule

if TYPE_CHECKING:
    from orchestration.schedule.cron import Cron

_AGAIN_SECONDS = 60.0
# Of several outcomes the first one here is that of all.
_WORST = (
    *(Outcome.INTERRUPTED, Outcome.FAILED, Outcome.STOPPED_BY_GATE, Outcome.NOT_BLESSED),
    *(Outcome.BUSY, Outcome.WAITING, Outcome.PUSHED, Outcome.PROMOTED, Outcome.ROLLED_BACK),
)
_T = TypeVar("_T")


def fire(schedules: Sequence[Schedule]) -> Outcome:
    """Has each schedule fire once.

    Returns:
      The worst of their outcomes.
    """
    outcomes = set(_together(Schedule.fire, schedules))
    return next((one for one in _WORST if one in outcomes), Outcome.NOTHING_NEW)


def keep_firing(schedules: Sequence[Schedule], cron: Cron) -> None:
    """Has each schedule fire whenever it is time to, until they are to end."""

    def keep(schedule: Schedule) -> None:
        said = ""
        while not schedule.clock.stopping:
            try:
                schedule.keep_firing(cron)
            except Exception as error:  # Whatever it is, the other models go on.
                if said != (said := f"Failed: {type(error).__name__}: {error}"):
                    schedule.say(said)
                schedule.clock.wait(_AGAIN_SECONDS)

    _together(keep, schedules)


def _together(work: Callable[[Schedule], _T], schedules: Sequence[Schedule]) -> list[_T]:
    with ThreadPoolExecutor(len(schedules)) as threads:
        return list(threads.map(work, schedules))
