"""Writes metrics, intervals and thresholds of an evaluation as `summary.json`.

Whoever reads it needs neither TFMA nor TFX.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import tensorflow_model_analysis as tfma
from tfx import v1 as tfx

from components.evaluator.measurements import baseline, load_config, load_measurements
from components.evaluator.results import (
    Values,
    read_baseline_metrics,
    read_intervals,
    read_metrics,
)
from components.evaluator.verdict import Verdict
from ml.file_names import SUMMARY_FILE

_COUNT = "example_count"


def write_summary(evaluation_uri: str, verdict: Verdict) -> None:
    """Writes the summary of an evaluation that has a verdict.

    The file holds `task`; the name of the `baseline`, or null; `thresholds`; and for each of the
    `slices` its `slice` (value by column), `name`, `rows`, and by metric its `value`, `low` and
    `high` (95% interval), `baseline`, and `change` against it with `change_low` and `change_high`.
    What is undefined is null or absent.

    Args:
      evaluation_uri: URI of a `ModelEvaluation` artifact.
      verdict: Its verdict, which is stored.
    """
    config = load_config(evaluation_uri)
    own, base = read_metrics(evaluation_uri), read_baseline_metrics(evaluation_uri)
    intervals = read_intervals(evaluation_uri)
    keys = {found.slice: dict(found.slice_key) for found in load_measurements(evaluation_uri)}
    content = {
        "task": asdict(verdict.task),
        "baseline": baseline(config),
        "thresholds": list(_thresholds(config)),
        "slices": [
            {
                "slice": {column: str(value) for column, value in keys.get(name, {}).items()},
                "name": name,
                "rows": values.get(_COUNT),
                "metrics": _metrics(values, base.get(name, {}), intervals.get(name, {})),
            }
            for name, values in own.items()
        ],
    }
    with tfx.dsl.io.fileio.open(os.path.join(evaluation_uri, SUMMARY_FILE), "w") as file:
        file.write(json.dumps(content, ensure_ascii=False) + "\n")


def _metrics(
    own: Values, base: Values, intervals: dict[str, tuple[float, float]]
) -> dict[str, dict[str, float | None]]:
    metrics: dict[str, dict[str, float | None]] = {}
    for name, value in own.items():
        if name == _COUNT:
            continue
        found = metrics[name] = {"value": value}
        if name in intervals:
            found["low"], found["high"] = intervals[name]
        before = base.get(name)
        if before is None:
            continue
        found["baseline"] = before
        if value is not None:
            found["change"] = value - before
        if change := intervals.get(f"{name}_diff"):
            found["change_low"], found["change_high"] = change
    return metrics


def _thresholds(config: tfma.EvalConfig) -> Iterator[dict[str, Any]]:
    """Each threshold: of which metric, whether overall or in slices, and its bounds."""
    for spec in config.metrics_specs:
        for metric in spec.metrics:
            name = json.loads(metric.config or "{}").get("name", metric.class_name)
            for limit in metric.per_slice_thresholds:
                overall = any(not (s.feature_keys or s.feature_values) for s in limit.slicing_specs)
                yield from _bounds(name, overall, limit.threshold)


def _bounds(name: str, overall: bool, threshold: Any) -> Iterator[dict[str, Any]]:
    value, change = threshold.value_threshold, threshold.change_threshold
    bounds = {
        "lowest": value.lower_bound.value if value.HasField("lower_bound") else None,
        "highest": value.upper_bound.value if value.HasField("upper_bound") else None,
        "change": change.absolute.value if change.HasField("absolute") else None,
        "relative_change": change.relative.value if change.HasField("relative") else None,
    }
    known = {kind: bound for kind, bound in bounds.items() if bound is not None}
    if known:
        yield {"metric": name, "overall": overall, **known}
