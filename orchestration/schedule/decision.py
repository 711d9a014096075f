"""Decides whether to retrain: what is new, what alarms, and what was tried already."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from orchestration.local.situation import Situation
from orchestration.outcome import Outcome
from orchestration.schedule.clock import show
from orchestration.schedule.state import Alarm, State

_LONGEST_BACKOFF = timedelta(hours=6)


@dataclass(frozen=True)
class Backoff:
    """How failed runs are tried again.

    Attributes:
      retries: How often within a firing.
      seconds: Pause after the first failure; each further one doubles it, up to six hours.
    """

    retries: int = 2
    seconds: float = 300.0

    def pause(self, failures: int) -> timedelta:
        """The pause after so many failures."""
        longest = _LONGEST_BACKOFF.total_seconds()
        doublings = min(failures - 1, 64)
        return timedelta(seconds=min(self.seconds * 2**doublings, longest))


@dataclass(frozen=True)
class Idle:
    """There is nothing to do."""

    reason: str


@dataclass(frozen=True)
class Later:
    """What there is to do failed a moment ago."""

    until: datetime
    reason: str


@dataclass(frozen=True)
class Retrain:
    """There is something to do.

    Attributes:
      why: Why, in lines for a person.
      afresh: Whether everything is computed again, because nothing but an alarm asks for it.
    """

    why: tuple[str, ...]
    afresh: bool = False


def subject(situation: Situation, alarm: Alarm | None) -> str:
    """Identifies what a run would be about: when it is the same, so would be the outcome."""
    parts = [situation.run_key, str(situation.served or 0), alarm.id if alarm else ""]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def decide(
    situation: Situation, alarm: Alarm | None, state: State, now: datetime, backoff: Backoff
) -> Idle | Later | Retrain:
    """Decides what a firing does.

    Args:
      situation: What there is.
      alarm: The alarm that is on and was not obeyed yet, or None.
      state: What the schedule remembers.
      now: The time.
      backoff: How failed runs are tried again.

    Returns:
      The decision.
    """
    new = not situation.is_served
    if not new and not alarm:
        return Idle(situation.nothing_new)
    if new and not alarm and situation.rolled_back is not None:
        return Idle(
            f"Nothing new: version {situation.rolled_back} of {situation.model_name} was made from "
            "this data, configuration and code, and was rolled back."
        )
    last = state.attempts.get(subject(situation, alarm))
    if last and (last.outcome != Outcome.FAILED or last.lasting):
        reasons = "".join(f"\n  {line}" for line in last.reasons)
        return Idle(
            f"Nothing new: run {last.run_id} of this data, configuration and code ended "
            f"{last.outcome}; it is not tried again until one of them, or what is served, "
            f"changes, or somebody starts `run`.{reasons}"
        )
    if last:
        due = last.ended + backoff.pause(last.number)
        if last.ended <= now < due:  # Else the clock has been put back.
            again = show(due.astimezone())
            return Later(due, f"{_times(last.number)} failed; tried again no sooner than {again}.")
    why = _differences(situation, state) if new else []
    if alarm:
        why.append(f"alarm {alarm.id}: {alarm.reason}")
    return Retrain(tuple(why), afresh=not new)


def _differences(situation: Situation, state: State) -> list[str]:
    """What is new, as far as is known of what the served version was made from."""
    if situation.served is None:
        return ["nothing is served yet"]
    there, before = _months(situation.months), _months(situation.served_months)
    lines = []
    if before and situation.months != situation.served_months:
        lines = [f"span-{month} is new" for month in sorted(there) if month > max(before)]
        lines = lines or [f"the window was {_range(before)} and is {_range(there)} now"]
    known = state.inputs.get(situation.served_key)
    if known is None:
        return lines or ["the data, the configuration or the code changed"]
    if known.get("data") != situation.data and not lines:
        lines.append("files of the window changed")
    if known.get("configuration") != situation.configuration:
        lines.append("the configuration changed")
    return lines or ["the code changed"]


def _months(by_split: Mapping[str, Sequence[int]]) -> set[int]:
    return {month for months in by_split.values() for month in months}


def _range(months: set[int]) -> str:
    return f"{min(months)} to {max(months)}"


def _times(number: int) -> str:
    return "1 run" if number == 1 else f"{number} runs"
