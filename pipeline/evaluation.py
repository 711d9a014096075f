"""What TFMA measures, by which slices, and what a model must reach to be blessed."""

from __future__ import annotations

from typing import Any

import tensorflow_model_analysis as tfma
from google.protobuf import json_format

from pipeline.config import EvaluationConfig
from pipeline.features import LABEL

SLICES = ("carrier", "origin")

_OVERALL: dict[str, Any] = {}


def make_eval_config(config: EvaluationConfig) -> tfma.EvalConfig:
    """Builds the TFMA configuration: AUC, AUC-PR, calibration and counts, overall and by slice.

    Args:
      config: The thresholds.

    Returns:
      An `EvalConfig` with a candidate and a baseline model. The AUC has a floor overall and per
      slice and a change threshold against the baseline; calibration has bounds overall.
    """
    by_column = [{"feature_keys": [column]} for column in SLICES]
    model = {"signature_name": "serving_default", "label_key": LABEL}
    change = {"absolute": -config.max_auc_loss, "direction": "HIGHER_IS_BETTER"}
    calibration = {"lower_bound": config.min_calibration, "upper_bound": config.max_calibration}
    metrics = [
        _metric(
            "AUC",
            "auc",
            _threshold([_OVERALL], value_threshold={"lower_bound": config.min_auc}),
            _threshold([_OVERALL], change_threshold=change),
            _threshold(by_column, value_threshold={"lower_bound": config.min_slice_auc}),
        ),
        _metric("AUCPrecisionRecall", "auc_pr"),
        _metric("Calibration", "calibration", _threshold([_OVERALL], value_threshold=calibration)),
        _metric("ExampleCount", "example_count"),
    ]
    settings = {
        "model_specs": [
            {"name": "candidate", **model},
            {"name": "baseline", "is_baseline": True, **model},
        ],
        "slicing_specs": [_OVERALL, *by_column],
        "metrics_specs": [{"metrics": metrics}],
        "options": {
            # The model's own Keras metrics would be computed too, in a third of the time of all.
            "include_default_metrics": False,
            "min_slice_size": config.min_slice_examples,
        },
    }
    return json_format.ParseDict(settings, tfma.EvalConfig())


def _metric(class_name: str, name: str, *thresholds: dict[str, Any]) -> dict[str, Any]:
    return {
        "class_name": class_name,
        "config": f'{{"name": "{name}"}}',
        "per_slice_thresholds": list(thresholds),
    }


def _threshold(slices: list[dict[str, Any]], **threshold: Any) -> dict[str, Any]:
    return {"slicing_specs": slices, "threshold": threshold}
