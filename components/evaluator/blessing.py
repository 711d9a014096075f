"""Which thresholds a model does not meet, and whether it is blessed."""

import json
import os
from typing import Any

import tensorflow_model_analysis as tfma
from scipy import stats
from tfx import types
from tfx import v1 as tfx

from ml.artifacts import BLESSED_FILE, NOT_BLESSED_FILE

_CONFIDENCE_FILE = "confidence.json"
# What TFMA's validation says of a metric it did not compute, as in a slice below `min_slice_size`.
_NOT_COMPUTED = "Metric not found."


def write_blessing(blessing: types.Artifact, blessed: bool) -> None:
    """Says in a `ModelBlessing` artifact whether a model is blessed, as stock TFX does."""
    fileio = tfx.dsl.io.fileio
    fileio.makedirs(blessing.uri)
    for name in (BLESSED_FILE, NOT_BLESSED_FILE):
        if fileio.exists(os.path.join(blessing.uri, name)):
            fileio.remove(os.path.join(blessing.uri, name))
    with fileio.open(
        os.path.join(blessing.uri, BLESSED_FILE if blessed else NOT_BLESSED_FILE), "w"
    ) as file:
        file.write("")  # Without a write no file is made.
    blessing.set_int_custom_property("blessed", int(blessed))


def write_confidence(evaluation_uri: str, confidence: float) -> None:
    """Keeps with an evaluation how sure a loss has to be to count, see `unmet_thresholds`."""
    with tfx.dsl.io.fileio.open(os.path.join(evaluation_uri, _CONFIDENCE_FILE), "w") as file:
        file.write(json.dumps({"confidence": confidence}) + "\n")


def unmet_thresholds(evaluation_uri: str) -> list[tuple[Any, Any]]:
    """The thresholds that a model did not meet, in slices that are large enough.

    TFMA masks slices with fewer examples than `min_slice_size` of the evaluation's options and then
    finds that their metrics are missing; only there is a missing metric no failure. Where the
    evaluation asks for a confidence, a change that could as well be within its threshold, by its
    bootstrap interval, is none either.

    Args:
      evaluation_uri: URI of a `ModelEvaluation` artifact.

    Returns:
      Pairs of a slice key and a failure, as in TFMA's `ValidationResult`.
    """
    result = tfma.load_validation_result(evaluation_uri)
    failures = [
        (by_slice.slice_key, failure)
        for by_slice in result.metric_validations_per_slice
        for failure in by_slice.failures
        if not (by_slice.slice_key.single_slice_keys and failure.message == _NOT_COMPUTED)
    ]
    confidence = _read_confidence(evaluation_uri)
    if not failures or not confidence:
        return failures
    intervals = {
        (record.slice_key.SerializeToString(), value.key.SerializeToString()): (
            value.confidence_interval
        )
        for record in tfma.load_metrics(evaluation_uri)
        for value in record.metric_keys_and_values
    }
    return [
        (key, failure)
        for key, failure in failures
        if _is_significant(
            failure,
            intervals.get((key.SerializeToString(), failure.metric_key.SerializeToString())),
            confidence,
        )
    ]


def _is_significant(failure: Any, interval: Any, confidence: float) -> bool:
    """Whether a change is outside its threshold also at the better end of its interval."""
    threshold = failure.metric_threshold.change_threshold
    if not failure.metric_threshold.HasField("change_threshold") or interval is None:
        return True
    if threshold.HasField("relative") or not interval.HasField("standard_error"):
        return True
    margin = interval.standard_error.double_value.value * stats.t.ppf(
        confidence, interval.degrees_of_freedom.value
    )
    loss = threshold.absolute.value - failure.metric_value.double_value.value
    if threshold.direction == tfma.MetricDirection.LOWER_IS_BETTER:
        loss = -loss
    return not loss <= margin


def _read_confidence(evaluation_uri: str) -> float:
    path = os.path.join(evaluation_uri, _CONFIDENCE_FILE)
    if not tfx.dsl.io.fileio.exists(path):
        return 0.0
    with tfx.dsl.io.fileio.open(path, "r") as file:
        return float(json.loads(file.read())["confidence"])
