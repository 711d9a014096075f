"""The settings of fairness."""

from __future__ import annotations

import json
from dataclasses import asdict, field
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from ml.fairness.metrics import fairness_metrics
from ml.tasks import Task
from pipeline.setting_types import CHECKED, Column, Limit, Positive, Share


def _check_different(values: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(values)) < len(values):
        raise ValueError("each column once is expected")
    return values


_Threshold = Annotated[float, Field(gt=0, lt=1)]


@dataclass(frozen=True, config=CHECKED)
class FairnessConfig:
    """How much slices may differ; see [evaluation.md](evaluation.md#fairness).

    The metrics are `false_positive_rate`, `false_negative_rate` and `selection_rate`, of each class
    against the rest if there are several, and `mean_error` and `rmse` of a regression.

    Attributes:
      columns: Columns of the schema by whose values rows are compared, alone and two by two; they
        need not be features. None: nothing is compared.
      thresholds: Decision thresholds: a row whose probability is above is selected. Of no meaning
        for a regression.
      max_difference: Largest difference of a metric between two slices of a column, by metric, for
        a model to be blessed; without a limit, a difference is only reported.
      min_ratio: Smallest ratio of the lower to the higher value of a metric in two slices of a
        column, by metric, such as `{selection_rate = 0.8}`; not of `mean_error`, which has signs.
      min_slice_examples: Slices with fewer rows are left out.
    """

    columns: Annotated[tuple[Column, ...], AfterValidator(_check_different)] = ()
    thresholds: Annotated[tuple[_Threshold, ...], Field(min_length=1, max_length=20)] = (0.5,)
    max_difference: dict[str, Limit] = field(default_factory=dict)
    min_ratio: dict[str, Share] = field(default_factory=dict)
    min_slice_examples: Positive = 100

    def check(self, task: Task) -> None:
        """Checks the settings against the task.

        Raises:
          ValueError: If a metric is none of the task's, or a column is its label.
        """
        known = [metric.name for metric in fairness_metrics(task)]
        if task.label in self.columns:
            raise ValueError(f"fairness.columns: {task.label!r} is the label")
        for key, allowed in (
            ("max_difference", known),
            ("min_ratio", [name for name in known if name != "mean_error"]),
        ):
            limits = getattr(self, key)
            if unknown := sorted(limits.keys() - set(allowed)):
                raise ValueError(
                    f"fairness.{key}.{unknown[0]}: a {task.kind} task has {', '.join(allowed)}"
                )
            if limits and not self.columns:
                raise ValueError(f"fairness.{key}: a limit needs fairness.columns")

    def to_json(self) -> str:
        """The settings for a component's parameter; "" if nothing is compared."""
        return json.dumps(asdict(self), ensure_ascii=False) if self.columns else ""
