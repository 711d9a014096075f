"""What TFMA measures, by which slices, and what a model must reach to be blessed."""

from __future__ import annotations

import tensorflow_model_analysis as tfma

from pipeline.config import EvaluationConfig
from pipeline.features import LABEL

SLICES = ("carrier", "origin")


def make_eval_config(config: EvaluationConfig) -> tfma.EvalConfig:
    """Builds the TFMA configuration: AUC, AUC-PR, calibration and counts, overall and by slice.

    Args:
      config: The thresholds.

    Returns:
      An `EvalConfig` with a candidate and a baseline model. The AUC has a floor overall and per
      slice and a change threshold against the baseline; calibration has bounds overall.
    """
    overall = tfma.SlicingSpec()
    by_column = [tfma.SlicingSpec(feature_keys=[column]) for column in SLICES]
    return tfma.EvalConfig(
        model_specs=[
            tfma.ModelSpec(name="candidate", signature_name="serving_default", label_key=LABEL),
            tfma.ModelSpec(
                name="baseline",
                signature_name="serving_default",
                label_key=LABEL,
                is_baseline=True,
            ),
        ],
        slicing_specs=[overall, *by_column],
        metrics_specs=[
            tfma.MetricsSpec(
                metrics=[
                    _auc(config, overall, by_column),
                    tfma.MetricConfig(class_name="AUCPrecisionRecall", config='{"name": "auc_pr"}'),
                    _calibration(config, overall),
                    tfma.MetricConfig(
                        class_name="ExampleCount", config='{"name": "example_count"}'
                    ),
                ]
            )
        ],
        options=tfma.Options(
            include_default_metrics={"value": False},
            min_slice_size={"value": config.min_slice_examples},
        ),
    )


def _auc(
    config: EvaluationConfig, overall: tfma.SlicingSpec, by_column: list[tfma.SlicingSpec]
) -> tfma.MetricConfig:
    change = tfma.GenericChangeThreshold(
        absolute={"value": -config.max_auc_loss}, direction=tfma.MetricDirection.HIGHER_IS_BETTER
    )
    return tfma.MetricConfig(
        class_name="AUC",
        config='{"name": "auc"}',
        per_slice_thresholds=[
            _on([overall], tfma.MetricThreshold(value_threshold=_at_least(config.min_auc))),
            _on([overall], tfma.MetricThreshold(change_threshold=change)),
            _on(by_column, tfma.MetricThreshold(value_threshold=_at_least(config.min_slice_auc))),
        ],
    )


def _calibration(config: EvaluationConfig, overall: tfma.SlicingSpec) -> tfma.MetricConfig:
    bounds = tfma.GenericValueThreshold(
        lower_bound={"value": config.min_calibration},
        upper_bound={"value": config.max_calibration},
    )
    return tfma.MetricConfig(
        class_name="Calibration",
        config='{"name": "calibration"}',
        per_slice_thresholds=[_on([overall], tfma.MetricThreshold(value_threshold=bounds))],
    )


def _on(
    slices: list[tfma.SlicingSpec], threshold: tfma.MetricThreshold
) -> tfma.PerSliceMetricThreshold:
    return tfma.PerSliceMetricThreshold(slicing_specs=slices, threshold=threshold)


def _at_least(value: float) -> tfma.GenericValueThreshold:
    return tfma.GenericValueThreshold(lower_bound={"value": value})
