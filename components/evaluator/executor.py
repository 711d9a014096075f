"""The stock Evaluator's executor, and what it lacks: absent baselines and slices too small."""

import os
from typing import Any

import tensorflow_model_analysis as tfma
from tfx import types
from tfx import v1 as tfx
from tfx.components.evaluator import executor as stock

from ml.artifacts import BLESSED_FILE, NOT_BLESSED_FILE, has_serving_model

_BASELINE = "baseline_model"
# What TFMA's validation says of a metric it did not compute, as in a slice below `min_slice_size`.
_NOT_COMPUTED = "Metric not found."


class Executor(stock.Executor):
    """Evaluates against the baseline if there is one, and judges slices that are large enough."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Runs the stock Evaluator, then blesses a model that failed by small slices alone."""
        inputs = dict(input_dict)
        if _BASELINE in inputs and not all(map(has_serving_model, inputs[_BASELINE])):
            del inputs[_BASELINE]
        super().Do(inputs, output_dict, exec_properties)
        (evaluation,) = output_dict["evaluation"]
        (blessing,) = output_dict["blessing"]
        if not blessing.get_int_custom_property("blessed"):
            write_blessing(blessing, not unmet_thresholds(evaluation.uri))


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


def unmet_thresholds(evaluation_uri: str) -> list[tuple[Any, Any]]:
    """The thresholds that a model did not meet, in slices that are large enough to judge.

    TFMA masks slices with fewer examples than `min_slice_size` of the evaluation's options and then
    finds that their metrics are missing; only there is a missing metric no failure.

    Args:
      evaluation_uri: URI of a `ModelEvaluation` artifact.

    Returns:
      Pairs of a slice key and a failure, as in TFMA's `ValidationResult`.
    """
    result = tfma.load_validation_result(evaluation_uri)
    return [
        (by_slice.slice_key, failure)
        for by_slice in result.metric_validations_per_slice
        for failure in by_slice.failures
        if not (by_slice.slice_key.single_slice_keys and failure.message == _NOT_COMPUTED)
    ]
