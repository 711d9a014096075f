"""Reads an evaluation: metrics by slice, and each threshold that was not met."""

from __future__ import annotations

import math

from components.evaluator.measurements import (
    OVERALL,
    Measurement,
    baseline,
    candidates,
    load_config,
    load_measurements,
)
from components.evaluator.verdict import Verdict
from storage.errors import DataError

__all__ = ["OVERALL"]

# By name of the metric; None where it is undefined.
Values = dict[str, float | None]


def read_metrics(evaluation_uri: str) -> dict[str, Values]:
    """Reads the candidate's metrics.

    Args:
      evaluation_uri: URI of a `ModelEvaluation` artifact.

    Returns:
      Value by metric name, by slice; the slices are called `Overall`, `<column>:<value>` and so on.
      Metrics by class are called `<metric>:<class>`; the metric without a class is that of the
      class where it is furthest from 1, as a ratio.
    """
    return _read(evaluation_uri, candidates(load_config(evaluation_uri))[0])


def read_baseline_metrics(evaluation_uri: str) -> dict[str, Values]:
    """Reads the metrics of the baseline.

    Args:
      evaluation_uri: URI of a `ModelEvaluation` artifact.

    Returns:
      The same as `read_metrics`; empty if there was no baseline.
    """
    name = baseline(load_config(evaluation_uri))
    return _read(evaluation_uri, name) if name else {}


def read_intervals(evaluation_uri: str) -> dict[str, dict[str, tuple[float, float]]]:
    """Reads the 95% intervals of the candidate's metrics.

    Args:
      evaluation_uri: URI of a `ModelEvaluation` artifact.

    Returns:
      Lower and upper bound by metric name, by slice; metrics without an interval are left out.
      Changes are called `<metric>_diff`, as in TFMA.
    """
    first = candidates(load_config(evaluation_uri))[0]
    verdict = Verdict.read(evaluation_uri)
    intervals: dict[str, dict[str, tuple[float, float]]] = {}
    for found in load_measurements(evaluation_uri):
        values = intervals.setdefault(found.slice, {})
        if found.model != first or found.value is None or not found.error:
            continue
        margin = found.margin(0.975)
        name = _name(found, verdict) + ("_diff" if found.is_change else "")
        if verdict and found.slice == OVERALL:
            margin = verdict.margins.get(name, margin)
        values[name] = (found.value - margin, found.value + margin)
    return intervals


def read_changes(evaluation_uri: str, metric: str) -> dict[str, float]:
    """Reads how much higher a metric of the first candidate is than the baseline's.

    Args:
      evaluation_uri: URI of a `ModelEvaluation` artifact of several models.
      metric: Name of the metric.

    Returns:
      The difference by slice; slices where it is undefined, or too small to be measured, are left
      out.
    """
    first = candidates(load_config(evaluation_uri))[0]
    return {
        found.slice: found.value
        for found in load_measurements(evaluation_uri)
        if found.is_change and found.model == first and found.name == metric
        if found.value is not None
    }


def read_verdict(evaluation_uri: str) -> Verdict:
    """Reads why a model was, or was not, blessed.

    Raises:
      DataError: If the folder has no verdict.
    """
    verdict = Verdict.read(evaluation_uri)
    if verdict is None:
        raise DataError(f"{evaluation_uri} has no verdict of an Evaluator")
    return verdict


def read_failures(evaluation_uri: str) -> list[str]:
    """Reads why a model was not blessed.

    Args:
      evaluation_uri: URI of a `ModelEvaluation` artifact.

    Returns:
      A line for each threshold that was not met, naming slice, metric, value and bound; empty if
      all were.
    """
    return list(read_verdict(evaluation_uri).failures)


def _read(evaluation_uri: str, model: str) -> dict[str, Values]:
    verdict = Verdict.read(evaluation_uri)
    metrics: dict[str, Values] = {}
    for found in load_measurements(evaluation_uri):
        values = metrics.setdefault(found.slice, {})
        if found.model != model or found.is_change:
            continue
        values[_name(found, verdict)] = found.value
        if found.class_id is not None:
            values[found.name] = max(values.get(found.name), found.value, key=_distance_of_ratio)
    return {name: dict(sorted(values.items())) for name, values in metrics.items()}


def _distance_of_ratio(value: float | None) -> float:
    """How far a ratio is from 1, either way."""
    if value is None:
        return -1.0
    return abs(math.log(value)) if value > 0 else math.inf


def _name(found: Measurement, verdict: Verdict | None) -> str:
    if found.class_id is None:
        return found.name
    names = verdict.task.class_names if verdict else ()
    return f"{found.name}:{names[found.class_id] if names else found.class_id}"
