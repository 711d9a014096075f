"""Reads what an Evaluator found: metrics by slice, and each threshold that was not met."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import tensorflow_model_analysis as tfma

from components.evaluator.executor import unmet_thresholds

OVERALL = "Overall"


def read_metrics(evaluation_uri: str) -> dict[str, dict[str, float]]:
    """The candidate's metrics.

    Args:
      evaluation_uri: URI of a `ModelEvaluation` artifact.

    Returns:
      Value by metric name, by slice; the slices are called `Overall`, `<column>:<value>` and so on.
    """
    result = tfma.load_eval_result(evaluation_uri, model_name=_candidate(evaluation_uri))
    metrics: dict[str, dict[str, float]] = {}
    for key, by_output in result.slicing_metrics:
        values = by_output[""][""]
        metrics[_slice_name(key)] = {
            name: value["doubleValue"]
            for name, value in sorted(values.items())
            if "doubleValue" in value
        }
    return metrics


def read_failures(evaluation_uri: str) -> list[str]:
    """Why a model was not blessed.

    Args:
      evaluation_uri: URI of a `ModelEvaluation` artifact.

    Returns:
      A line for each threshold that was not met, naming slice, metric, value and bound; empty if
      the model was blessed.
    """
    return [
        f"{_proto_slice_name(key)}: {_describe(failure)}"
        for key, failure in unmet_thresholds(evaluation_uri)
    ]


def _candidate(evaluation_uri: str) -> str | None:
    """TFMA keeps a model's results under its name where there is a baseline, else under none."""
    config = tfma.load_eval_result(evaluation_uri, model_name=None).config
    names = [spec.name for spec in config.model_specs if not spec.is_baseline]
    return names[0] if len(config.model_specs) > 1 else None


def _slice_name(key: tuple[tuple[str, Any], ...]) -> str:
    return ",".join(f"{column}:{value}" for column, value in key) or OVERALL


def _proto_slice_name(key: Any) -> str:
    parts = []
    for single in key.single_slice_keys:
        kind = single.WhichOneof("kind")
        value = getattr(single, kind) if kind else ""
        parts.append((single.column, value.decode() if isinstance(value, bytes) else value))
    return _slice_name(tuple(parts))


def _describe(failure: Any) -> str:
    name = failure.metric_key.name
    if failure.metric_key.is_diff:
        name += " change against the model being served"
    value = failure.metric_value.double_value.value
    return f"{name} {value:.4f}, {_bounds(failure.metric_threshold)}"


def _bounds(threshold: Any) -> str:
    if threshold.HasField("value_threshold"):
        return " and ".join(_value_bounds(threshold.value_threshold))
    change = threshold.change_threshold
    allowed = [
        f"{size.value:+g} {unit}"
        for field, unit, size in (
            ("absolute", "absolute", change.absolute),
            ("relative", "relative", change.relative),
        )
        if change.HasField(field)
    ]
    return f"allowed {' and '.join(allowed)}"


def _value_bounds(threshold: Any) -> Iterator[str]:
    if threshold.HasField("lower_bound"):
        yield f"at least {threshold.lower_bound.value:g} is required"
    if threshold.HasField("upper_bound"):
        yield f"at most {threshold.upper_bound.value:g} is allowed"
