"""The months of a backtest, and what a backtest keeps of them."""

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

# Of a run that came to a decision.
DECIDED = (Outcome.PUSHED, Outcome.NOTHING_NEW, Outcome.NOT_BLESSED, Outcome.STOPPED_BY_GATE)
# Fields of a month that are AUCs, with the name of each.
AUCS = {
    "new_auc": "new model",
    "served_auc": "served model",
    "first_auc": "without retraining",
    "baseline_auc": "gradient boosting",
}


@dataclass(frozen=True)
class Month:
    """What a backtest found for one month.

    Attributes:
      month: The month, YYYYMM, that the run was evaluated on.
      run_id: The run; "" if it left no record.
      outcome: How it ended.
      version: The version that it pushed, or None.
      reasons: Why it ended as it did, in lines for a person.
      seconds: What the run took.
      new_auc: AUC of its model on the month; None where there is none.
      served_version: The version that was served on the month; None if there was none.
      served_auc: AUC of that version.
      first_auc: AUC of the first version that was ever pushed: what would have been served without
        any retraining.
      baseline_auc: AUC of the baseline that is no part of the pipeline; None if it failed.
      drift: Feature, drift and limit of the feature that came nearest to its limit.
    """

    month: int
    run_id: str
    outcome: Outcome
    version: int | None = None
    reasons: tuple[str, ...] = ()
    seconds: float = 0.0
    new_auc: float | None = None
    served_version: int | None = None
    served_auc: float | None = None
    first_auc: float | None = None
    baseline_auc: float | None = None
    drift: tuple[str, float, float] | None = None

    @property
    def is_decided(self) -> bool:
        """Whether the run came to a decision."""
        return self.outcome in DECIDED

    @property
    def decision(self) -> str:
        """What the run decided, and why."""
        if self.outcome == Outcome.PUSHED:
            return f"pushed version {self.version}"
        return "\n".join([self.outcome, *self.reasons])


def mean_aucs(months: Iterable[Month]) -> dict[str, float]:
    """The mean of each AUC over the months that have all of them; empty if none has."""
    whole = [m for m in months if all(getattr(m, key) is not None for key in AUCS)]
    return {key: sum(getattr(m, key) for m in whole) / len(whole) for key in AUCS if whole}


@dataclass(frozen=True)
class State:
    """What is kept of a backtest.

    Attributes:
      run_keys: Identifies data, configuration and code of each month.
      months: What was found for the months so far.
    """

    run_keys: dict[int, str] = field(default_factory=dict)
    months: list[Month] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> State:
        """What is in the file; an empty state if there is none.

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
        """Writes the file whole."""
        text = json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False)
        write_whole(path, text + "\n")
