"""The settings of champion and challenger: the test between the two, and what follows from it."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Final, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from ml.influence import testable
from ml.sequential_test import BETTER, NOT_YET, UNDECIDED, WORSE
from ml.tasks import Task
from pipeline.setting_types import CHECKED, Count, Limit, Positive, Share

BY_HAND: Final = "by hand"
# What follows from a verdict.
PROMOTE: Final = "promote"
ROLL_BACK: Final = "roll back"
WAIT: Final = "wait"


@dataclass(frozen=True, config=CHECKED)
class ChallengerConfig:
    """How a challenger is compared with the champion.

    See [champion-challenger.md](champion-challenger.md).

    Attributes:
      start: Whether `schedule` makes the newest version the challenger, with "shadow" or "split"
        traffic, and the first one the champion; "by hand": `python -m serving traffic` does.
      percent: The challenger's share of a split that `schedule` starts, in percent.
      metric: The metric of the task that the test is on; "" for the log loss, or for a regression
        the RMSE, which are means of the rows' losses.
      alpha: Probability that the test ever decides between two versions that are equally good.
      block_hours: Hours whose rows are one value of the test. Rows of a block may depend on each
        other, blocks must not; a day is common, since it has its own weather, users and faults.
      min_blocks: Blocks with both versions before the test may decide.
      min_rows: Labelled rows of each version before it may.
      max_blocks: Blocks after which a test that has not decided ends undecided; 0 for never.
      min_labelled: Share of a block's rows whose label has arrived, before the block counts.
      max_failed: Largest share of the challenger's rows without a usable prediction; beyond it, by
        more than chance, the challenger is worse.
      max_p99_ratio: Largest ratio of the challenger's 99th percentile of latency and the
        champion's; beyond it, by more than chance, the challenger is worse. 0 for no limit.
      when_better: What `schedule` does when the challenger is better: "promote" or "wait".
      when_worse: What it does when the challenger is worse: "roll back" or "wait".
      when_undecided: What it does after `max_blocks`: "wait", "promote" or "roll back".
    """

    start: Literal["by hand", "shadow", "split"] = BY_HAND
    percent: Annotated[float, Field(gt=0, lt=100)] = 10.0
    metric: str = ""
    alpha: Annotated[float, Field(gt=0, le=0.5)] = 0.05
    block_hours: Annotated[float, Field(gt=0, le=24 * 366)] = 24.0
    min_blocks: Annotated[int, Field(ge=2)] = 7
    min_rows: Positive = 1000
    max_blocks: Count = 0
    min_labelled: Share = 0.5
    max_failed: Share = 0.001
    max_p99_ratio: Limit = 0.0
    when_better: Literal["promote", "wait"] = PROMOTE
    when_worse: Literal["roll back", "wait"] = ROLL_BACK
    when_undecided: Literal["wait", "promote", "roll back"] = WAIT

    def check(self, task: Task) -> None:
        """Checks what depends on the task.

        Raises:
          ValueError: If the task has no such metric, or the test cannot be on it.
        """
        allowed = testable(task)
        if self.metric and self.metric not in allowed:
            raise ValueError(
                f"challenger.metric = {self.metric!r}: of a {task.kind} task it is one of "
                f"{', '.join(allowed)}"
            )
        if 0 < self.max_blocks < self.min_blocks:
            raise ValueError(
                f"challenger.max_blocks = {self.max_blocks}: it is below min_blocks, "
                f"{self.min_blocks}"
            )

    @property
    def actions(self) -> dict[str, str]:
        """What follows from each verdict of the comparison."""
        return {
            BETTER: self.when_better,
            WORSE: self.when_worse,
            UNDECIDED: self.when_undecided,
            NOT_YET: WAIT,
        }

    @property
    def comparison(self) -> dict[str, Any]:
        """The settings of the comparison alone, as ServingMonitor takes them."""
        settings = dataclasses.asdict(self)
        for name in ("start", "percent", "when_better", "when_worse", "when_undecided"):
            del settings[name]
        return {"block_seconds": settings.pop("block_hours") * 3600, **settings}
