"""The results of a backtest by month, and their file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from orchestration.local.output_directory import write_whole
from orchestration.outcome import Outcome
from storage.errors import UserError

# Outcomes of completed runs.
DECIDED = (Outcome.PUSHED, Outcome.NOTHING_NEW, Outcome.NOT_BLESSED, Outcome.STOPPED_BY_GATE)
# Fields of a month with a score, the value of the task's headline metric; and their names.
SCORES = {
    "new_score": "new model",
    "served_score": "served model",
    "first_score": "without retraining",
    "baseline_score": "gradient boosting",
}


@dataclass(frozen=True)
class Month:
    """The result of one month.

    Attributes:
      month: The month of the evaluation, YYYYMM.
      run_id: The run; "" if it left no record.
      outcome: Its outcome.
      version: The version that it pushed, or None.
      reasons: Reasons for the outcome, in lines for a person.
      seconds: Duration of the run.
      new_score: score of its model on the month; None without one.
      served_version: The version that was served on the month; None if there was none.
      served_score: score of that version.
      first_score: score of the first pushed version, which would be served without retraining.
      baseline_score: score of gradient boosting; None if the run did not get so far.
      drift: Feature, drift and limit of the feature nearest to its limit.
    """

    month: int
    run_id: str
    outcome: Outcome
    version: int | None = None
    reasons: tuple[str, ...] = ()
    seconds: float = 0.0
    new_score: float | None = None
    served_version: int | None = None
    served_score: float | None = None
    first_score: float | None = None
    baseline_score: float | None = None
    drift: tuple[str, float, float] | None = None

    @property
    def is_decided(self) -> bool:
        """Whether the run completed."""
        return self.outcome in DECIDED

    @property
    def decision(self) -> str:
        """The outcome, with its reasons."""
        if self.outcome == Outcome.PUSHED:
            return f"pushed version {self.version}"
        return "\n".join([self.outcome, *self.reasons])


@dataclass(frozen=True)
class Served:
    """What both strategies served in a month.

    Attributes:
      month: The month, YYYYMM.
      newest: The version that retrain-and-replace served; None if nothing was pushed yet.
      champion: The version that champion-challenger served when the month began.
      challenger: The version that the champion was compared with; None without one.
      verdict: The last verdict of the test; "" without a challenger.
      blocks: Blocks of time of the pair when it was given.
      difference: The challenger's metric less the champion's, of the metric that the test is on.
      interval: The confidence sequence of the difference.
      promoted: Whether the challenger served from then on.
      scores: By strategy and metric of the task, on the rows of the month.
    """

    month: int
    newest: int | None
    champion: int | None = None
    challenger: int | None = None
    verdict: str = ""
    blocks: int = 0
    difference: float | None = None
    interval: tuple[float, float] | None = None
    promoted: bool = False
    scores: dict[str, dict[str, float | None]] = field(default_factory=dict)


def mean_scores(months: Iterable[Month]) -> dict[str, float]:
    """The mean of each score over the months that have all of them; empty if none has."""
    whole = [m for m in months if all(getattr(m, key) is not None for key in SCORES)]
    return {key: sum(getattr(m, key) for m in whole) / len(whole) for key in SCORES if whole}


@dataclass(frozen=True)
class State:
    """The saved state of a backtest.

    Attributes:
      run_keys: Identifies data, configuration and code of each month.
      months: The results so far.
    """

    run_keys: dict[int, str] = field(default_factory=dict)
    months: list[Month] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> State:
        """Loads the file; an empty state if it does not exist.

        Raises:
          UserError: If it is not the state of a backtest.
        """
        try:
            return TypeAdapter(State).validate_json(path.read_bytes())
        except FileNotFoundError:
            return State()
        except (ValidationError, OSError) as error:
            raise UserError(f"{path} cannot be read") from error

    def write(self, path: Path) -> None:
        """Writes the file atomically."""
        text = json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False)
        write_whole(path, text + "\n")
