"""Evaluates models on a split: reading, predictions and metrics, a batch of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow as tf
import tensorflow_model_analysis as tfma
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx_bsl.public import tfxio

from components.evaluator import columns
from components.evaluator.curves import PLACE, make_curve_writer
from components.evaluator.extraction import make_extractors
from components.evaluator.fairness import CompareSlices, Fairness
from components.evaluator.labels import encode_labels
from components.evaluator.slices import slice_columns
from ml.predictors import Predictor, check_model, load_predictor
from ml.record_batches import RecordBatchDecoder
from ml.tasks import Task

# Rows of a batch. The fixed cost of a batch is that of some hundred rows.
_BATCH = 16_384
_PREDICT_STAGE = "ExtractPredictions"
_FILE = "file"

Models = dict[str, tuple[str, bool]]


def with_defaults(config: tfma.EvalConfig, has_baseline: bool) -> tfma.EvalConfig:
    """Fills in TFMA's defaults; without a baseline, removes it and its change thresholds."""
    filled = tfma.utils.update_eval_config_with_defaults(
        config, has_baseline=has_baseline, rubber_stamp=True
    )
    tfma.utils.verify_eval_config(filled)
    return filled


def evaluate(
    pipeline: beam.Pipeline,
    files: list[str],
    schema: schema_pb2.Schema,
    task: Task,
    config: tfma.EvalConfig,
    models: Models,
    output: str,
    *,
    with_curves: bool = False,
    fairness: Fairness | None = None,
) -> None:
    """Adds the evaluation of models to a Beam pipeline: by columns, if all its metrics allow it.

    Args:
      pipeline: The pipeline.
      files: Files of examples, gzipped TFRecords.
      schema: Their schema.
      task: The task, which encodes the labels.
      config: The configuration, with TFMA's defaults filled in.
      models: By name in the configuration: the folder of a SavedModel, and whether the TFLite model
        in it is preferred.
      output: URI of the folder for the evaluation, in TFMA's format.
      with_curves: Whether to write curves too (see `make_curve_writer`), if it is by columns.
      fairness: What is compared for fairness; None for nothing.

    Raises:
      UserError: If a TFLite model has an input that is no feature of the schema.
    """
    features = [feature.name for feature in schema.feature]
    for uri, prefer_tflite in models.values():
        if prefer_tflite:
            check_model(uri, features)
    if columns.supports(config):
        evaluate_by_columns(
            *(pipeline, files, schema, task, config, models, output),
            with_curves=with_curves,
            fairness=fairness,
        )
        return
    evaluate_by_rows(pipeline, files, schema, task, config, models, output)
    if fairness:
        own = {fairness.model: models[fairness.model]}
        _ = (
            _files(pipeline, files)
            | "Predict groups" >> beam.ParDo(_Predict(own, config, schema, task, fairness))
            | "Fairness" >> CompareSlices(fairness, output)
        )


def _files(pipeline: beam.Pipeline, files: list[str]) -> beam.PCollection:
    return pipeline | "Files" >> beam.Create([{_FILE: file} for file in files])


def evaluate_by_columns(
    pipeline: beam.Pipeline,
    files: list[str],
    schema: schema_pb2.Schema,
    task: Task,
    config: tfma.EvalConfig,
    models: Models,
    output: str,
    *,
    with_curves: bool = False,
    fairness: Fairness | None = None,
) -> None:
    """Evaluates by columns; see `evaluate`."""
    predict = beam.ParDo(_Predict(models, config, schema, task, fairness))
    evaluators = [columns.make_evaluator(config, run_after=_PREDICT_STAGE)]
    if with_curves:
        evaluators.append(make_curve_writer(config, task, output, run_after=_PREDICT_STAGE))
    if fairness:
        compare = CompareSlices(fairness, output)
        evaluators.append(tfma.evaluators.Evaluator("CompareSlices", _PREDICT_STAGE, compare))
    _ = _files(pipeline, files) | "Evaluate" >> tfma.ExtractEvaluateAndWriteResults(
        eval_shared_model=_shared(models, config),
        eval_config=config,
        extractors=[tfma.extractors.Extractor(_PREDICT_STAGE, predict)],
        evaluators=evaluators,
        output_path=output,
    )


def evaluate_by_rows(
    pipeline: beam.Pipeline,
    files: list[str],
    schema: schema_pb2.Schema,
    task: Task,
    config: tfma.EvalConfig,
    models: Models,
    output: str,
) -> None:
    """Evaluates with TFMA's own evaluators, which know all metrics; see `evaluate`."""
    source = tfxio.TFExampleRecord(
        files,
        schema=schema,
        raw_record_column_name=tfma.ARROW_INPUT_COLUMN,
        telemetry_descriptors=["Evaluator"],
    )
    adapter = tfxio.TensorAdapterConfig(source.ArrowSchema(), source.TensorRepresentations())
    shared = _shared(models, config)
    _ = (
        pipeline
        | "Read" >> source.BeamSource()
        | "Evaluate"
        >> tfma.ExtractEvaluateAndWriteResults(
            eval_shared_model=shared,
            eval_config=config,
            extractors=make_extractors(models, shared, task, config, adapter),
            output_path=output,
            tensor_adapter_config=adapter,
        )
    )


def _shared(models: Models, config: tfma.EvalConfig) -> Any:
    """Descriptions of the models for TFMA, which does not load them."""
    shared = [
        tfma.default_eval_shared_model(uri, model_name=name, eval_config=config)
        for name, (uri, _) in models.items()
    ]
    return shared if len(shared) > 1 else shared[0]


class _Predict(beam.DoFn):
    """Reads a file and adds the predictions of each model, a batch at a time."""

    def __init__(
        self,
        models: Models,
        config: tfma.EvalConfig,
        schema: schema_pb2.Schema,
        task: Task,
        fairness: Fairness | None,
    ):
        self._models, self._task = models, task
        needed = slice_columns(config) | set(fairness.settings.columns if fairness else ())
        for spec in config.model_specs:
            needed |= {spec.label_key, spec.example_weight_key}
        self._schema = schema_pb2.Schema(feature=[f for f in schema.feature if f.name in needed])

    def setup(self) -> None:
        """Loads the models."""
        self._decoder = RecordBatchDecoder(self._schema)
        self._predictors: dict[str, Predictor] = {
            name: load_predictor(uri, prefer_tflite=tflite)
            for name, (uri, tflite) in self._models.items()
        }

    def process(self, extracts: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Predicts the rows of a file."""
        records = tf.data.TFRecordDataset(extracts[_FILE], "GZIP").batch(_BATCH)
        for number, examples in enumerate(records.as_numpy_iterator()):
            batch = self._decoder.decode(examples)
            yield {
                PLACE: (extracts[_FILE], number * _BATCH),
                tfma.INPUT_KEY: examples,
                columns.COLUMNS: batch,
                tfma.LABELS_KEY: encode_labels(self._task, batch),
                tfma.PREDICTIONS_KEY: {
                    name: np.asarray(predictor.predict(examples))
                    for name, predictor in self._predictors.items()
                },
            }
