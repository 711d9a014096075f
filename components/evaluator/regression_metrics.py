"""Metrics of regressions that TFMA does not have, as classes that its configuration may name.

An evaluation by columns computes them from its own sums; these classes are for stock TFMA.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow_model_analysis as tfma

# Not public in TFMA, but what its own metrics read labels and predictions with.
from tensorflow_model_analysis.metrics import metric_util

from ml.task_metrics import mean_error, r2_score


class _Metric(tfma.metrics.Metric):
    """A metric of a few sums over rows."""

    result: Callable[..., np.ndarray]

    def __init__(self, name: str):
        super().__init__(self._computations, name=name)

    def _computations(
        self,
        name: str,
        eval_config: tfma.EvalConfig | None = None,
        model_names: Iterable[str] | None = None,
        output_names: Iterable[str] | None = None,
        example_weighted: bool = False,
    ) -> list[tfma.metrics.MetricComputation]:
        keys = [
            tfma.metrics.MetricKey(
                name=name, model_name=model, output_name=output, example_weighted=example_weighted
            )
            for model in model_names or [""]
            for output in output_names or [""]
        ]
        return [
            tfma.metrics.MetricComputation(
                keys=[key],
                preprocessors=None,
                combiner=_Sum(key, eval_config, type(self).result),
            )
            for key in keys
        ]


class MeanError(_Metric):
    """The weighted mean of prediction less label; see `ml.task_metrics.mean_error`."""

    result = staticmethod(mean_error)

    def __init__(self, name: str = "mean_error"):
        super().__init__(name)


class R2Score(_Metric):
    """The coefficient of determination; see `ml.task_metrics.r2_score`."""

    result = staticmethod(r2_score)

    def __init__(self, name: str = "r2_score"):
        super().__init__(name)


class _Sum(beam.CombineFn):
    """Sums over rows: of weights, labels, squared labels, errors and squared errors, [5]."""

    def __init__(self, key: Any, config: tfma.EvalConfig | None, result: Callable[..., np.ndarray]):
        self._key, self._config, self._result = key, config, result

    def create_accumulator(self) -> np.ndarray:
        """No rows."""
        return np.zeros(5)

    def add_input(self, sums: np.ndarray, element: Any) -> np.ndarray:
        """Adds a row."""
        rows = metric_util.to_label_prediction_example_weight(
            element,
            eval_config=self._config,
            model_name=self._key.model_name,
            output_name=self._key.output_name,
            example_weighted=self._key.example_weighted,
        )
        for values in rows:
            label, prediction, weight = (float(value.item()) for value in values)
            error = prediction - label
            sums = sums + weight * np.array([1, label, label**2, error, error**2])
        return sums

    def merge_accumulators(self, accumulators: Iterable[np.ndarray]) -> np.ndarray:
        """Adds up sums."""
        return np.sum(list(accumulators), axis=0)

    def extract_output(self, sums: np.ndarray) -> dict[Any, float]:
        """The metric."""
        return {self._key: float(self._result(*sums))}
