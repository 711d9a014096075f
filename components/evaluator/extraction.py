"""TFMA's row-by-row extractors, for metrics that are not computed by columns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow_model_analysis as tfma
from tfx_bsl.public import tfxio

from components.evaluator.labels import encode_values
from components.evaluator.slices import slice_columns
from ml.predictors import Predictor, load_predictor
from ml.tasks import Task

# TFMA's keys of a batch of serialized examples, the parsed batch, and predictions.
_INPUT = "input"
_RECORD_BATCH = "arrow_record_batch"


def make_extractors(
    models: dict[str, tuple[str, bool]],
    eval_shared_model: Any,
    task: Task,
    eval_config: tfma.EvalConfig,
    tensor_adapter_config: tfxio.TensorAdapterConfig | None,
) -> list[tfma.extractors.Extractor]:
    """TFMA's extractors, with predictions from `ml.predictors`, a batch at a time.

    Args:
      models: By name: the folder of a SavedModel, and whether the TFLite model in it is preferred.
      eval_shared_model: Descriptions of the models for TFMA.
      task: The task, which encodes the labels.
      eval_config: The configuration.
      tensor_adapter_config: Representation of the features.

    Returns:
      The extractors.
    """
    predict = tfma.extractors.Extractor(
        stage_name="ExtractPredictions",
        ptransform=beam.ParDo(_Predict(models, frozenset(slice_columns(eval_config)), task)),
    )
    return tfma.default_extractors(
        eval_shared_model=eval_shared_model,
        eval_config=eval_config,
        tensor_adapter_config=tensor_adapter_config,
        custom_predict_extractor=predict,
    )


class _Predict(beam.DoFn):
    """Adds predictions to a batch of extracts, and encodes its labels.

    Features that no later step reads are left out: TFMA takes batches apart, and each feature of
    each row then costs time.
    """

    def __init__(self, models: dict[str, tuple[str, bool]], columns: frozenset[str], task: Task):
        self._models, self._columns, self._task = models, columns, task
        self._predictors: dict[str, Predictor] = {}

    def setup(self) -> None:
        """Loads the models."""
        self._predictors = {
            name: load_predictor(uri, prefer_tflite=tflite)
            for name, (uri, tflite) in self._models.items()
        }

    def process(self, extracts: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Predicts with each model."""
        examples = np.asarray(extracts[_INPUT], object)
        predictions = {
            name: predictor.predict(examples) for name, predictor in self._predictors.items()
        }
        kept = {key: value for key, value in extracts.items() if key != _RECORD_BATCH}
        features = extracts[tfma.FEATURES_KEY]
        kept[tfma.FEATURES_KEY] = {name: features[name] for name in self._columns}
        raw = extracts[tfma.LABELS_KEY]
        by_model = isinstance(raw, dict)  # If there are several.
        labels = next(iter(raw.values())) if by_model else raw
        # A sparse tensor, where the schema gives the label no shape.
        labels = np.ravel(getattr(labels, "values", labels))
        encoded = encode_values(self._task, labels)[:, None]
        kept[tfma.LABELS_KEY] = dict.fromkeys(predictions, encoded) if by_model else encoded
        (only, *more) = predictions.values()
        kept[tfma.PREDICTIONS_KEY] = predictions if more else only
        yield kept
