"""Decides whether a model is blessed: which thresholds it does not meet, and what is too few rows.

TFMA's validation compares values with thresholds. A verdict also asks how closely a value is known.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import tensorflow_model_analysis as tfma

# Not public in TFMA, but its own validation uses them: the thresholds by metric, and the slices
# that they are for.
from tensorflow_model_analysis.metrics import metric_specs
from tensorflow_model_analysis.slicer import slicer_lib
from tfx import v1 as tfx

from components.evaluator.measurements import (
    OVERALL,
    Measurement,
    baseline,
    candidates,
    load_config,
    load_measurements,
)
from ml.file_names import VERDICT_FILE
from ml.metrics import Metric
from ml.sample import Sample
from ml.tasks import Task

# Of the end of a two-sided interval of 95%, which is what people see.
_CONFIDENCE = 0.975


@dataclass(frozen=True)
class Verdict:
    """What is said of a model.

    Attributes:
      task: The task.
      rows: Number of rows.
      failures: A line for each threshold that was not met.
      not_judged: A line for each slice whose metric is undefined.
      margins: Half the width of the 95% interval by metric, overall.
    """

    task: Task
    rows: int
    failures: tuple[str, ...] = ()
    not_judged: tuple[str, ...] = ()
    margins: dict[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, evaluation_uri: str) -> Verdict | None:
        """Reads the verdict of an evaluation; None if it has none, as those of old versions."""
        path = os.path.join(evaluation_uri, VERDICT_FILE)
        if not tfx.dsl.io.fileio.exists(path):
            return None
        with tfx.dsl.io.fileio.open(path, "r") as file:
            content = json.loads(file.read())
        return cls(
            Task.from_config(content["task"]),
            content["rows"],
            tuple(content["failures"]),
            tuple(content["not_judged"]),
            content["margins"],
        )

    def write(self, evaluation_uri: str) -> None:
        """Stores it with its evaluation."""
        with tfx.dsl.io.fileio.open(os.path.join(evaluation_uri, VERDICT_FILE), "w") as file:
            file.write(json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n")


def judge(evaluation_uri: str, task: Task, sample: Sample, confidence: float) -> Verdict:
    """Judges the models of an evaluation that are no baseline.

    - Overall, a worst value must be met at the worse end of the metric's 95% interval.
    - In slices, by the value. What is undefined there, such as the AUC of one class, is not judged.
    - A change counts if it is larger than allowed at the better end of an interval of `confidence`.
    - On fewer rows than `Sample.shortage` asks for, no model is blessed.

    Args:
      evaluation_uri: URI of a `ModelEvaluation` artifact.
      task: The task.
      sample: The rows.
      confidence: Such as 0.95; 0 counts any loss.

    Returns:
      The verdict.
    """
    config = load_config(evaluation_uri)
    found = list(load_measurements(evaluation_uri))
    judging = _Judging(task, sample, confidence, config, found)
    failures = []
    if shortage := sample.shortage(task):
        failures.append(f"{OVERALL}: {shortage}")
    failures += judging.missing()
    not_judged = []
    for measurement, thresholds in judging.thresholds():
        if measurement.value is not None:
            failures += filter(None, (judging.check(measurement, t) for t in thresholds))
        elif measurement.slice == OVERALL:
            failures.append(judging.line(measurement, "is undefined on these rows"))
        else:
            not_judged.append(judging.line(measurement, "is undefined on these rows"))
    first = candidates(config)[0]
    return Verdict(
        task,
        sample.rows,
        tuple(dict.fromkeys(failures)),
        tuple(dict.fromkeys(not_judged)),
        {
            m.name: judging.margin(m)
            for m in found
            if m.slice == OVERALL and m.model == first and m.class_id is None and not m.is_change
            if m.error and m.value is not None
        },
    )


class _Judging:
    def __init__(
        self,
        task: Task,
        sample: Sample,
        confidence: float,
        config: tfma.EvalConfig,
        found: list[Measurement],
    ):
        self._task, self._sample, self._confidence = task, sample, confidence
        self._found, self._candidates = found, candidates(config)
        self._baseline = baseline(config)
        by_key = metric_specs.metric_thresholds_from_metrics_specs(
            config.metrics_specs, eval_config=config
        )
        self._thresholds = {
            key.to_proto().SerializeToString(deterministic=True): (key, limits)
            for key, limits in by_key.items()
            if key.model_name in self._candidates
        }
        self._values = {(m.slice, m.model, m.name, m.class_id, m.is_change): m for m in found}

    def thresholds(self) -> Iterator[tuple[Measurement, list[Any]]]:
        """Each measurement with the thresholds for it."""
        order = [*self._thresholds]
        judged = [m for m in self._found if m.key in self._thresholds]
        # Overall first, then by slice; in the order of the configuration.
        judged.sort(key=lambda m: (m.slice != OVERALL, m.slice, order.index(m.key)))
        for measurement in judged:
            limits = [
                threshold
                for spec, threshold in self._thresholds[measurement.key][1]
                if spec is None
                or slicer_lib.SingleSliceSpec(spec=spec).is_slice_applicable(measurement.slice_key)
            ]
            if limits:
                yield measurement, limits

    def missing(self) -> Iterator[str]:
        """A line for each metric with a threshold that was not computed overall."""
        known = {m.key for m in self._found if m.slice == OVERALL}
        for serialized, (key, _) in self._thresholds.items():
            if serialized not in known:
                yield f"{OVERALL}: {self._metric(key.name).title} was not computed"

    def check(self, measurement: Measurement, threshold: Any) -> str:
        """Why a measurement does not meet a threshold; "" if it does."""
        if measurement.is_change:
            return self._check_change(measurement, threshold)
        lower = threshold.lower_bound.value if threshold.HasField("lower_bound") else None
        upper = threshold.upper_bound.value if threshold.HasField("upper_bound") else None
        value = measurement.value
        assert value is not None  # The caller reports what is undefined.
        if (lower is not None and value < lower) or (upper is not None and value > upper):
            bounds = [f"at least {lower:g} is required"] if lower is not None else []
            bounds += [f"at most {upper:g} is allowed"] if upper is not None else []
            return self.line(measurement, f"{self._show(measurement)}, {' and '.join(bounds)}")
        if measurement.slice != OVERALL:
            return ""
        if lower is not None and upper is None:
            distance, bound = value - lower, f"below {lower:g}"
        elif upper is not None and lower is None:
            distance, bound = upper - value, f"above {upper:g}"
        else:
            return ""  # A range is met by the value: it excludes what makes no sense.
        margin = self.margin(measurement)
        if distance >= margin:
            return ""
        needed = ""
        if distance > 0:
            # The width of an interval falls with the root of the rows.
            rows = math.ceil(self._sample.rows * (margin / distance) ** 2)
            needed = f": at least {_round_up(rows):,} are needed to tell"
        return self.line(
            measurement,
            f"{self._show(measurement)} on {self._sample.rows:,} rows may be {bound}{needed}",
        )

    def _check_change(self, measurement: Measurement, threshold: Any) -> str:
        place = (measurement.slice, measurement.name, measurement.class_id)
        own = self._values[(place[0], measurement.model, *place[1:], False)].value
        base = self._values[(place[0], self._baseline or "", *place[1:], False)].value
        if own is None or base is None or measurement.value is None:
            return ""
        sign = 1 if threshold.direction == tfma.MetricDirection.LOWER_IS_BETTER else -1
        margin = measurement.margin(self._confidence) if self._confidence else 0.0
        for kind, unit in (("absolute", 1.0), ("relative", abs(base))):
            if not threshold.HasField(kind):
                continue
            allowed = sign * getattr(threshold, kind).value + 0.0  # Not -0.
            worse = sign * measurement.value
            if worse - margin <= allowed * unit:
                continue
            # A share of 0 is none.
            loss = worse / unit if unit else math.inf
            shown = f"{loss:.4f}" if kind == "absolute" else f"{loss:.2%}"
            limit = f"{allowed:g}" if kind == "absolute" else f"{100 * allowed:g}%"
            return self.line(
                measurement,
                f"{self._show(measurement, own)}, {shown} worse than the {self._baseline} model's "
                f"{self._show(measurement, base)}: at most {limit} is allowed",
            )
        return ""

    def margin(self, measurement: Measurement) -> float:
        """Half the width of the 95% interval of an overall value."""
        assert measurement.value is not None
        least = self._sample.deviation(self._metric(measurement.name), measurement.value)
        return measurement.margin(_CONFIDENCE, least)

    def line(self, measurement: Measurement, text: str) -> str:
        """A line about a measurement."""
        model = f"{measurement.model} " if len(self._candidates) > 1 else ""
        title = self._metric(measurement.name).title
        if measurement.class_id is not None:
            title += f" of {self._task.class_names[measurement.class_id]!r}"
        return f"{measurement.slice}: {model}{title} {text}"

    def _show(self, measurement: Measurement, value: float | None = None) -> str:
        metric = self._metric(measurement.name)
        if value is not None:
            return metric.show(value)
        whole = measurement.slice == OVERALL and measurement.class_id is None
        return metric.show(measurement.value, self.margin(measurement) if whole else None)

    def _metric(self, name: str) -> Metric:
        """The task's metric; one of that name for others."""
        known = {metric.name: metric for metric in self._task.metrics}
        return known.get(name) or Metric(name, name, name, 1)


def _round_up(rows: int) -> int:
    """A number of rows with two digits that count."""
    unit = 10 ** max(len(str(rows)) - 2, 0)
    return -(-rows // unit) * unit
