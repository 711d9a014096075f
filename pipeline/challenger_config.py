"""The settings of champion and challenger: the test between the two, and what follows from it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from ml.influence import testable
from ml.tasks import Task
from pipeline.setting_types import CHECKED, Count, Limit, Positive, Share


@dataclass(frozen=True, config=CHECKED)
class ChallengerConfig:
    """How a challenger is compared with the champion; see
    [champion-challenger.md](champion-challenger.md).

    Attributes:
      metric: The metric of the task that the test is on; "" for the log loss, or for a regression
        the RMSE, which are means of the rows' losses.
      alpha: Probability that the test ever decides between two versions that are equally good.
      block_hours: Hours whose rows are one value of the test. Rows of a block may depend on each
        other, blocks must not; a day is common, since it has its own weather, users and faults.
      min_blocks: Blocks with both versions before the test may decide.
      min_rows: Labelled rows of each version before it may.
      max_blocks: Blocks after which a test that has not decided ends undecided; 0 for never.
      min_labelled: Share of a block's rows whose label has arrived, before the block counts.
      max_failed: Largest share of the challenger's rows without a usable prediction, beyond chance;
        above it the challenger is worse.
      max_p99_ratio: Largest ratio of the challenger's 99th percentile of latency and the champion's,
        beyond chance; above it the challenger is worse. 0 for no limit.
      when_better: What `schedule` does when the challenger is better: "promote" or "wait".
      when_worse: What it does when the challenger is worse: "roll back" or "wait".
      when_undecided: What it does after `max_blocks`: "wait", "promote" or "roll back".
    """

    metric: str = ""
    alpha: Annotated[float, Field(gt=0, le=0.5)] = 0.05
    block_hours: Annotated[float, Field(gt=0, le=24 * 366)] = 24.0
    min_blocks: Annotated[int, Field(ge=2)] = 7
    min_rows: Positive = 1000
    max_blocks: Count = 0
    min_labelled: Share = 0.5
    max_failed: Share = 0.001
    max_p99_ratio: Limit = 0.0
    when_better: Literal["promote", "wait"] = "promote"
    when_worse: Literal["roll back", "wait"] = "roll back"
    when_undecided: Literal["wait", "promote", "roll back"] = "wait"

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
