"""TFMA's configuration: metrics, slices, and the thresholds for a model to be blessed."""

from __future__ import annotations

from typing import Any

import tensorflow_model_analysis as tfma
from google.protobuf import json_format

from components.compression_evaluator import FLOAT, SAVED_MODEL, TFLITE
from pipeline.config import CompressionConfig, EvaluationConfig
from pipeline.model import Model

_OVERALL: dict[str, Any] = {}


def make_eval_config(config: EvaluationConfig, model: Model) -> tfma.EvalConfig:
    """Builds the TFMA configuration: AUC, AUC-PR, calibration and counts, overall and by slice.

    Args:
      config: The thresholds.
      model: Label and slices.

    Returns:
      An `EvalConfig` with a candidate and a baseline model. The AUC has a floor overall and per
      slice and a change threshold against the baseline; calibration has bounds overall.
    """
    calibration = {"lower_bound": config.min_calibration, "upper_bound": config.max_calibration}
    metrics = [
        _metric(
            "AUC",
            "auc",
            _threshold([_OVERALL], value_threshold={"lower_bound": config.min_auc}),
            _threshold([_OVERALL], change_threshold=_at_most(config.max_auc_loss)),
            _threshold(_by_column(model), value_threshold={"lower_bound": config.min_slice_auc}),
        ),
        _metric("AUCPrecisionRecall", "auc_pr"),
        _metric("Calibration", "calibration", _threshold([_OVERALL], value_threshold=calibration)),
        _metric("ExampleCount", "example_count"),
    ]
    return _eval_config(["candidate"], "served", metrics, config.min_slice_examples, model)


def make_compression_eval_config(
    config: CompressionConfig, min_slice_examples: int, model: Model
) -> tfma.EvalConfig:
    """Builds the TFMA configuration that compares both formats of a compressed model with float.

    Args:
      config: How much AUC may be lost.
      min_slice_examples: Slices with fewer rows are not evaluated.
      model: Label and slices.

    Returns:
      An `EvalConfig` with the models `tflite` and `saved_model`, the baseline `float`, and change
      thresholds overall and per slice.
    """
    metrics = [
        _metric(
            "AUC",
            "auc",
            _threshold([_OVERALL], change_threshold=_at_most(config.max_auc_loss)),
            _threshold(_by_column(model), change_threshold=_at_most(config.max_slice_auc_loss)),
        ),
    ]
    return _eval_config([TFLITE, SAVED_MODEL], FLOAT, metrics, min_slice_examples, model)


def _eval_config(
    candidates: list[str],
    baseline: str,
    metrics: list[dict[str, Any]],
    min_slice_examples: int,
    model: Model,
) -> tfma.EvalConfig:
    # "tf_generic": called by its signature, whatever framework made it.
    spec = {"model_type": "tf_generic", "label_key": model.label}
    settings = {
        "model_specs": [
            *({"name": name, **spec} for name in candidates),
            {"name": baseline, "is_baseline": True, **spec},
        ],
        "slicing_specs": [_OVERALL, *_by_column(model)],
        "metrics_specs": [{"metrics": metrics}],
        "options": {
            # Else the model's own Keras metrics are computed too, in a third of the whole time.
            "include_default_metrics": False,
            "min_slice_size": min_slice_examples,
            "compute_confidence_intervals": True,
            "confidence_intervals": {"method": "POISSON_BOOTSTRAP"},
        },
    }
    return json_format.ParseDict(settings, tfma.EvalConfig())


def _by_column(model: Model) -> list[dict[str, Any]]:
    return [{"feature_keys": [column]} for column in model.slices]


def _at_most(loss: float) -> dict[str, Any]:
    return {"absolute": -loss, "direction": "HIGHER_IS_BETTER"}


def _metric(class_name: str, name: str, *thresholds: dict[str, Any]) -> dict[str, Any]:
    return {
        "class_name": class_name,
        "config": f'{{"name": "{name}"}}',
        "per_slice_thresholds": list(thresholds),
    }


def _threshold(slices: list[dict[str, Any]], **threshold: Any) -> dict[str, Any]:
    return {"slicing_specs": slices, "threshold": threshold}
