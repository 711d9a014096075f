"""Reads what an evaluation measured, from TFMA's files."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import tensorflow_model_analysis as tfma
from scipy import stats

# Not public in TFMA, but what reads its keys of slices.
from tensorflow_model_analysis.slicer import slicer_lib
from tfx import v1 as tfx

from storage.errors import DataError

OVERALL = "Overall"
_CONFIG_FILE = "eval_config.json"


@dataclass(frozen=True)
class Measurement:
    """A value of a metric.

    Attributes:
      slice: Name of the slice, `Overall` or `<column>:<value>`.
      slice_key: Its pairs of column and value, as in TFMA.
      key: TFMA's key of the metric, serialized.
      model: Name of the model; "" if it is the only one.
      name: Name of the metric.
      class_id: The class that it is of; None for all.
      is_change: Whether it is the model's value less the baseline's.
      value: The value; None if it is undefined.
      error: Its standard error; 0 if it has no interval.
      degrees: Degrees of freedom of the error.
    """

    slice: str
    slice_key: tuple[tuple[str, Any], ...]
    key: bytes
    model: str
    name: str
    class_id: int | None
    is_change: bool
    value: float | None
    error: float
    degrees: int

    def margin(self, confidence: float, least_error: float = 0.0) -> float:
        """Distance of the value to the end of a one-sided interval.

        Args:
          confidence: Of the interval, such as 0.95.
          least_error: The standard error is at least this.
        """
        if self.error < least_error:
            return float(least_error * stats.norm.ppf(confidence))
        return self.error * float(stats.t.ppf(confidence, self.degrees)) if self.error else 0.0


def load_config(evaluation_uri: str) -> tfma.EvalConfig:
    """The configuration of an evaluation.

    Raises:
      DataError: If the folder is not an evaluation.
    """
    # TFMA unpickles a file without this ending, as its first versions wrote it.
    if not tfx.dsl.io.fileio.exists(os.path.join(evaluation_uri, _CONFIG_FILE)):
        raise DataError(f"{evaluation_uri} is not an evaluation: it has no {_CONFIG_FILE}")
    return tfma.load_eval_result(evaluation_uri).config


def candidates(config: tfma.EvalConfig) -> list[str]:
    """The names under which TFMA keeps the results of the models that are no baseline."""
    if len(config.model_specs) < 2:
        return [""]
    return [spec.name for spec in config.model_specs if not spec.is_baseline]


def baseline(config: tfma.EvalConfig) -> str | None:
    """The name of the baseline, if there is one."""
    return next((spec.name for spec in config.model_specs if spec.is_baseline), None)


def load_measurements(evaluation_uri: str) -> Iterator[Measurement]:
    """All values of an evaluation; see `Measurement`."""
    for record in tfma.load_metrics(evaluation_uri):
        key = slicer_lib.deserialize_slice_key(record.slice_key)
        name = ",".join(f"{column}:{value}" for column, value in key) or OVERALL
        for item in record.metric_keys_and_values:
            if item.value.WhichOneof("type") not in ("double_value", "bounded_value"):
                continue
            value = item.value.double_value.value
            interval = item.confidence_interval
            known = interval.HasField("standard_error") and math.isfinite(value)
            sub_key = item.key.sub_key
            yield Measurement(
                slice=name,
                slice_key=key,
                key=item.key.SerializeToString(deterministic=True),
                model=item.key.model_name,
                name=item.key.name,
                class_id=sub_key.class_id.value if sub_key.HasField("class_id") else None,
                is_change=item.key.is_diff,
                value=None if math.isnan(value) else value,
                error=interval.standard_error.double_value.value if known else 0.0,
                degrees=interval.degrees_of_freedom.value if known else 0,
            )
