"""TFMA's configuration: metrics, slices, and the thresholds for a model to be blessed."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow_model_analysis as tfma
from google.protobuf import json_format

from components.compression_evaluator import FLOAT, SAVED_MODEL, TFLITE
from components.evaluator import regression_metrics
from ml.metrics import CALIBRATION, MACRO_AUC, Bound, Metric
from ml.tasks import MULTICLASS, Task
from pipeline.config import CompressionConfig, EvaluationConfig
from pipeline.model import Model

_OVERALL: dict[str, Any] = {}
# TFMA's thresholds by name of the metric.
_Thresholds = dict[str, list[dict[str, Any]]]


def make_eval_config(config: EvaluationConfig, model: Model) -> tfma.EvalConfig:
    """Builds the TFMA configuration: the task's metrics and counts, overall and by slice.

    Args:
      config: The thresholds, over those of the task.
      model: Task and slices.

    Returns:
      An `EvalConfig` with a candidate and a baseline model: value thresholds overall and by slice,
      and a change threshold of the headline metric against the baseline.
    """
    task, by_column = model.task, _by_column(model)
    thresholds: _Thresholds = defaultdict(list)
    _add_bounds(thresholds, task, [_OVERALL], {**task.thresholds, **config.thresholds})
    _add_loss(thresholds, task, [_OVERALL], config.max_loss, task.max_loss)
    if by_column:
        bounds = {**task.slice_thresholds, **config.slice_thresholds}
        _add_bounds(thresholds, task, by_column, bounds)
    specs = list(_metrics_specs(task, task.metrics, thresholds))
    specs[0]["metrics"].append(_metric("ExampleCount", "example_count"))
    return _eval_config(["candidate"], "served", specs, config.min_slice_examples, model)


def make_compression_eval_config(
    config: CompressionConfig, min_slice_examples: int, model: Model
) -> tfma.EvalConfig:
    """Builds the TFMA configuration that compares both formats of a compressed model with float.

    Args:
      config: The allowed losses of the headline metric.
      min_slice_examples: Slices with fewer rows are not evaluated.
      model: Task and slices.

    Returns:
      An `EvalConfig` with the models `tflite` and `saved_model`, the baseline `float`, and change
      thresholds overall and per slice.
    """
    task, by_column = model.task, _by_column(model)
    thresholds: _Thresholds = defaultdict(list)
    _add_loss(thresholds, task, [_OVERALL], config.max_loss, task.max_loss)
    if by_column:
        _add_loss(thresholds, task, by_column, config.max_slice_loss, task.max_slice_loss)
    specs = list(_metrics_specs(task, (task.headline,), thresholds))
    return _eval_config([TFLITE, SAVED_MODEL], FLOAT, specs, min_slice_examples, model)


def _eval_config(
    candidates: list[str],
    baseline: str,
    metrics_specs: list[dict[str, Any]],
    min_slice_examples: int,
    model: Model,
) -> tfma.EvalConfig:
    # "tf_generic": called by its signature, independent of its framework.
    spec = {
        "model_type": "tf_generic",
        "label_key": model.task.label,
        "example_weight_key": model.task.example_weight,
    }
    settings = {
        "model_specs": [
            *({"name": name, **spec} for name in candidates),
            {"name": baseline, "is_baseline": True, **spec},
        ],
        "slicing_specs": [_OVERALL, *_by_column(model)],
        "metrics_specs": metrics_specs,
        "options": {
            # Otherwise the model's Keras metrics are computed too, which takes a third of the time.
            "include_default_metrics": False,
            "min_slice_size": min_slice_examples,
            "compute_confidence_intervals": True,
            "confidence_intervals": {"method": "POISSON_BOOTSTRAP"},
        },
    }
    return json_format.ParseDict(settings, tfma.EvalConfig())


def _by_column(model: Model) -> list[dict[str, Any]]:
    return [{"feature_keys": [column]} for column in model.slices]


def _metrics_specs(
    task: Task, metrics: tuple[Metric, ...], thresholds: _Thresholds
) -> Iterator[dict[str, Any]]:
    """The metrics, those of all classes first, then those of one class against the rest."""
    several = task.kind == MULTICLASS
    ids = range(len(task.classes))
    by_class: dict[Metric, dict[str, Any]] = {
        # The mean of the classes.
        MACRO_AUC: {
            "aggregate": {"macro_average": True, "class_weights": {str(k): 1.0 for k in ids}}
        },
        # Of each class.
        CALIBRATION: {"binarize": {"class_ids": {"values": list(ids)}}},
    }
    whole = [metric for metric in metrics if not (several and metric in by_class)]
    yield {"metrics": [_task_metric(metric, thresholds) for metric in whole]}
    for metric in metrics:
        if metric not in whole:
            yield {"metrics": [_task_metric(metric, thresholds)], **by_class[metric]}


def _task_metric(metric: Metric, thresholds: _Thresholds) -> dict[str, Any]:
    settings = _metric(metric.tfma_class, metric.name, *thresholds[metric.name])
    if hasattr(regression_metrics, metric.tfma_class):
        settings["module"] = regression_metrics.__name__
    return settings


def _metric(class_name: str, name: str, *thresholds: dict[str, Any]) -> dict[str, Any]:
    return {
        "class_name": class_name,
        "config": json.dumps({"name": name}),
        "per_slice_thresholds": list(thresholds),
    }


def _add_bounds(
    thresholds: _Thresholds,
    task: Task,
    slices: list[dict[str, Any]],
    bounds: Mapping[str, Bound],
) -> None:
    for name, bound in bounds.items():
        if isinstance(bound, tuple):
            ends = {"lower_bound": bound[0], "upper_bound": bound[1]}
        elif task.metric(name).direction > 0:
            ends = {"lower_bound": bound}
        else:
            ends = {"upper_bound": bound}
        thresholds[name].append(_threshold(slices, value_threshold=ends))


def _add_loss(
    thresholds: _Thresholds,
    task: Task,
    slices: list[dict[str, Any]],
    loss: float | None,
    default: float,
) -> None:
    """Adds the largest loss of the headline metric against the baseline."""
    metric = task.headline
    change = -metric.direction * (default if loss is None else loss)
    better = "HIGHER_IS_BETTER" if metric.direction > 0 else "LOWER_IS_BETTER"
    size = {"relative" if metric.relative else "absolute": change, "direction": better}
    thresholds[metric.name].append(_threshold(slices, change_threshold=size))


def _threshold(slices: list[dict[str, Any]], **threshold: Any) -> dict[str, Any]:
    return {"slicing_specs": slices, "threshold": threshold}
