"""The state of a schedule, in one file that is written atomically before and after each step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from pathlib import Path
from typing import Any

from pydantic import AwareDatetime, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from orchestration.local.output_directory import write_whole
from orchestration.outcome import Outcome

_REMEMBERED = 50


@dataclass(frozen=True)
class Alarm:
    """A request for a new model although nothing is new.

    Attributes:
      id: Each is obeyed once.
      reason: Why, for a person.
      created: When.
    """

    id: str
    reason: str = ""
    created: str = ""


@dataclass(frozen=True)
class Attempt:
    """How the last run of one subject ended.

    Attributes:
      outcome: How it ended.
      number: How many runs of it there were.
      ended: When the last one ended.
      run_id: The last one.
      reasons: Why it ended as it did.
      lasting: Whether it would fail again if nothing changes.
    """

    outcome: Outcome
    number: int
    ended: AwareDatetime
    run_id: str = ""
    reasons: tuple[str, ...] = ()
    lasting: bool = False

    def is_over(self, retries: int) -> bool:
        """Whether it is not tried again within a firing: it did not fail, or once too often."""
        return self.outcome != Outcome.FAILED or self.lasting or self.number > retries


@dataclass(frozen=True)
class Launched:
    """A run that was started and is not accounted for yet.

    Attributes:
      subjects: What its outcome is that of.
      run_id: Identifies it.
      number: Which attempt it is.
      started: When it was started.
      why: Why it was.
      alarm: The alarm that it obeys, or "".
      months: Months of the data, by split.
      model_name: Name of the model.
    """

    subjects: tuple[str, ...]
    run_id: str
    number: int
    started: AwareDatetime
    why: tuple[str, ...]
    alarm: str
    months: dict[str, tuple[int, ...]]
    model_name: str


@dataclass(frozen=True)
class Problem:
    """What kept a firing from a run.

    Attributes:
      text: What it was.
      since: When it was seen first.
      reported: Whether the hooks were told.
    """

    text: str
    since: AwareDatetime
    reported: bool = False


@dataclass
class State:
    """The state of a schedule.

    Attributes:
      last_firing: When the last complete firing began.
      obeyed_alarm: Id of the alarm that was obeyed last.
      settled_challenger: Id of the verdict on a challenger that was settled last.
      attempts: How runs ended, by subject.
      inputs: What a run key was made of: "data" and "configuration", by run key.
      launched: A run that is not accounted for yet.
      problem: What kept the last firing from a run.
      untold: Outcome that the hooks were not told yet.
    """

    last_firing: AwareDatetime | None = None
    obeyed_alarm: str = ""
    settled_challenger: str = ""
    attempts: dict[str, Attempt] = field(default_factory=dict)
    inputs: dict[str, dict[str, str]] = field(default_factory=dict)
    launched: Launched | None = None
    problem: Problem | None = None
    untold: dict[str, Any] | None = None

    @classmethod
    def read(cls, path: Path, say: Callable[[str], None]) -> State:
        """What is in the file; an empty state if there is none, or it is not one."""
        try:
            return TypeAdapter(State).validate_json(path.read_bytes())
        except FileNotFoundError:
            return State()
        except ValidationError:
            say(f"{path} is not what a schedule wrote: the schedule begins without it.")
            return State()

    def write(self, path: Path) -> None:
        """Writes the file whole."""
        write_whole(path, TypeAdapter(State).dump_json(self, indent=2).decode() + "\n")


def remember(known: dict[str, Any], name: str, value: Any) -> None:
    """Adds what is the newest now, and forgets what is old."""
    known.pop(name, None)
    known[name] = value
    for old in list(known)[:-_REMEMBERED]:
        del known[old]
