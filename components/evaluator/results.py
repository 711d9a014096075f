"""Reads an evaluation: metrics by slice, and each threshold that was not met."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import tensorflow_model_analysis as tfma
from tfx import v1 as tfx

from components.evaluator.baselines import Comparison
from components.evaluator.blessing import unmet_thresholds
from storage.errors import DataError

OVERALL = "Overall"
_CONFIG_FILE = "eval_config.json"


def read_metrics(evaluation_uri: str) -> dict[str, dict[str, float]]:
    """Reads the candidate's metrics.

    Args:
      evaluation_uri: URI of a `ModelEvaluation` artifact.

    Returns:
      Value by metric name, by slice; the slices are called `Overall`, `<column>:<value>` and so on.
    """
    return _read(evaluation_uri, _candidate(evaluation_uri))


def read_baseline_metrics(evaluation_uri: str) -> dict[str, dict[str, float]]:
    """Reads the metrics of the baseline.

    Args:
      evaluation_uri: URI of a `ModelEvaluation` artifact.

    Returns:
      The same as `read_metrics`; empty if there was no baseline.
    """
    names = [spec.name for spec in _eval_config(evaluation_uri).model_specs if spec.is_baseline]
    return _read(evaluation_uri, names[0]) if names else {}


def read_intervals(evaluation_uri: str) -> dict[str, dict[str, tuple[float, float]]]:
    """Reads the 95% bootstrap intervals of the candidate's metrics.

    Args:
      evaluation_uri: URI of a `ModelEvaluation` artifact.

    Returns:
      Lower and upper bound by metric name, by slice; metrics without an interval are left out.
    """
    return {
        name: {
            metric: (value["boundedValue"]["lowerBound"], value["boundedValue"]["upperBound"])
            for metric, value in values.items()
            if "boundedValue" in value
        }
        for name, values in _values(evaluation_uri, _candidate(evaluation_uri))
    }


def _read(evaluation_uri: str, model_name: str | None) -> dict[str, dict[str, float]]:
    metrics: dict[str, dict[str, float]] = {}
    for name, values in _values(evaluation_uri, model_name):
        metrics[name] = {}
        for metric, value in values.items():
            if "doubleValue" in value:
                metrics[name][metric] = value["doubleValue"]
            elif "boundedValue" in value:
                metrics[name][metric] = value["boundedValue"]["value"]
    return metrics


def _values(evaluation_uri: str, model_name: str | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """The values of each slice, as in TFMA's JSON, by name."""
    for key, by_output in _load(evaluation_uri, model_name).slicing_metrics:
        yield _slice_name(key), dict(sorted(by_output[""][""].items()))


def read_changes(evaluation_uri: str, metric: str) -> dict[str, float]:
    """Reads how much higher a metric of the first candidate is than the baseline's.

    Args:
      evaluation_uri: URI of a `ModelEvaluation` artifact of several models.
      metric: Name of the metric.

    Returns:
      The difference by slice; slices too small to be measured are left out.
    """
    (baseline,) = (spec for spec in _eval_config(evaluation_uri).model_specs if spec.is_baseline)
    candidate = _read(evaluation_uri, _candidate(evaluation_uri))
    baseline_values = _read(evaluation_uri, baseline.name)
    return {
        name: values[metric] - baseline_values[name][metric]
        for name, values in candidate.items()
        if metric in values and metric in baseline_values.get(name, {})
    }


def read_failures(evaluation_uri: str) -> list[str]:
    """Reads why a model was not blessed.

    Args:
      evaluation_uri: URI of a `ModelEvaluation` artifact.

    Returns:
      A line for each threshold that was not met, naming slice, metric, value and bound, and one for
      baselines that it does not beat; empty if the model was blessed.
    """
    comparison = Comparison.read(evaluation_uri)
    config = _eval_config(evaluation_uri)
    baselines = [spec.name for spec in config.model_specs if spec.is_baseline]
    several = len(config.model_specs) - len(baselines) > 1
    return [
        f"{_proto_slice_name(key)}: {failure.metric_key.model_name + ' ' if several else ''}"
        f"{_describe(failure, *baselines)}"
        for key, failure in unmet_thresholds(evaluation_uri)
    ] + list(comparison.failures if comparison else ())


def _eval_config(evaluation_uri: str) -> tfma.EvalConfig:
    return _load(evaluation_uri, None).config


def _load(evaluation_uri: str, model_name: str | None) -> tfma.EvalResult:
    # TFMA unpickles a file without this ending, as its first versions wrote it.
    if not tfx.dsl.io.fileio.exists(os.path.join(evaluation_uri, _CONFIG_FILE)):
        raise DataError(f"{evaluation_uri} is not an evaluation: it has no {_CONFIG_FILE}")
    return tfma.load_eval_result(evaluation_uri, model_name=model_name)


def _candidate(evaluation_uri: str) -> str | None:
    """The name under which TFMA keeps the candidate's results: "" without a baseline."""
    config = _eval_config(evaluation_uri)
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


def _describe(failure: Any, baseline: str = "") -> str:
    name = failure.metric_key.name
    if failure.metric_key.is_diff:
        name += f" change against the {baseline} model"
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
