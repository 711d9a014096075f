"""Evaluator: is the model good enough, and as good as the served one?"""

from dataclasses import replace

import apache_beam as beam
import tensorflow_model_analysis as tfma
from google.protobuf import json_format
from tfx import v1 as tfx

from components.evaluator.baselines import compare_with_baselines
from components.evaluator.blessing import write_blessing
from components.evaluator.evaluation import evaluate, with_defaults
from components.evaluator.fairness import plan_fairness, read_fairness
from components.evaluator.labels import count_labels
from components.evaluator.summary import write_summary
from components.evaluator.verdict import judge
from ml.artifacts import (
    BaselineReport,
    has_serving_model,
    load_schema,
    serving_model_uri,
    split_files,
)
from ml.effort import Stopwatch
from ml.fairness.report import FairnessSettings
from ml.in_process_beam import run_in_process
from ml.predictors import can_load_tflite
from ml.tasks import Task


@tfx.dsl.components.component(use_beam=True)
def Evaluator(
    examples: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Examples],
    schema: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Schema],
    model: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Model],
    baseline_model: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Model],
    evaluation: tfx.dsl.components.OutputArtifact[tfx.types.standard_artifacts.ModelEvaluation],
    blessing: tfx.dsl.components.OutputArtifact[tfx.types.standard_artifacts.ModelBlessing],
    eval_config: tfx.dsl.components.Parameter[str],
    task: tfx.dsl.components.Parameter[str],
    split: tfx.dsl.components.Parameter[str],
    confidence: tfx.dsl.components.Parameter[float],
    max_baseline_loss: tfx.dsl.components.Parameter[float],
    fairness: tfx.dsl.components.Parameter[str],
    baselines: tfx.dsl.components.InputArtifact[BaselineReport] = None,
    beam_pipeline: tfx.dsl.components.BeamComponentParameter[beam.Pipeline] = None,
) -> None:
    """Evaluates a model with TFMA, and blesses it if it meets every threshold.

    It replaces the stock Evaluator, which takes no TFMA evaluators and fails without a baseline. A
    model that has a `model.tflite` in its folder is evaluated in that format.

    Example:
      evaluator = Evaluator(
          examples=example_gen.outputs["examples"],
          schema=schema_gen.outputs["schema"],
          model=quantizer.outputs["quantized_model"],
          baseline_model=served_model.outputs["model"],
          eval_config=json_format.MessageToJson(eval_config),
          task=task.to_json(),
          split="test",
          confidence=0.95,
          max_baseline_loss=0.02,
          fairness='{"columns": ["place"], "thresholds": [0.5]}',
          baselines=baseline_evaluator.outputs["baselines"],
      )

    Args:
      examples: Raw examples.
      schema: Their schema.
      model: The candidate.
      baseline_model: The model it is compared with. If the artifact is empty, as `ServedModel`
        emits it while nothing is served, the change thresholds are left out.
      evaluation: Component `outputs` contains: metrics and validation result, as TFMA writes them,
        the verdict with its reasons as `verdict.json`, see `components.evaluator.verdict`; what
        slices were compared as `fairness.json`; `summary.json` and `curves.json`, see
        `components.evaluator.summary` and `ml.curves`.
      blessing: Component `outputs` contains: whether every threshold was met, on rows enough.
      eval_config: A `tfma.EvalConfig` as JSON, with a candidate and a baseline.
      task: The task, see `ml.tasks.Task.to_json`; it encodes the labels.
      split: Split of the examples to evaluate on.
      confidence: Confidence at which a loss against the baseline counts, such as 0.95; 0 counts
        any loss.
      max_baseline_loss: Largest loss of the task's headline metric against gradient boosting; see
        `Metric.loss`.
      fairness: Which slices are compared, and how far they may differ, as a JSON object, see
        `ml.fairness.report.FairnessSettings`; "" for none.
      baselines: Baselines that the model has to beat, see `Comparison`; None for none.
      beam_pipeline: Supplied by TFX.

    Raises:
      DataError: If a row has no label, or one that the task does not have.
    """
    stopwatch = Stopwatch("Evaluator")
    learned = Task.from_json(task)
    files, raw_schema = split_files(examples, split), load_schema(schema)
    sample = count_labels(files, raw_schema, learned)
    has_baseline = has_serving_model(baseline_model)
    config = with_defaults(json_format.Parse(eval_config, tfma.EvalConfig()), has_baseline)
    models = {}
    for spec in config.model_specs:
        uri = serving_model_uri(baseline_model if spec.is_baseline else model)
        # The candidate's TFLite model is what is pushed; nothing may stand in for it.
        models[spec.name] = (uri, not spec.is_baseline or can_load_tflite(uri))
    compared = None
    if fairness:
        candidate = next(spec.name for spec in config.model_specs if not spec.is_baseline)
        settings = FairnessSettings.from_json(fairness, confidence)
        compared = plan_fairness(files, raw_schema, learned, settings, candidate)

    def build(pipeline: beam.Pipeline) -> None:
        evaluate(
            *(pipeline, files, raw_schema, learned, config, models, evaluation.uri),
            with_curves=True,
            fairness=compared,
        )

    run_in_process(build, beam_pipeline)
    verdict = judge(evaluation.uri, learned, sample, confidence)
    if found := read_fairness(evaluation.uri):
        verdict = replace(
            verdict,
            failures=verdict.failures + tuple(found["failures"]),
            not_judged=verdict.not_judged + tuple(found["unknown"]),
        )
    if baselines is not None:
        comparison = compare_with_baselines(
            files, raw_schema, serving_model_uri(model), baselines, max_baseline_loss
        )
        comparison.write(evaluation.uri)
        verdict = replace(verdict, failures=verdict.failures + comparison.failures)
    verdict.write(evaluation.uri)
    write_summary(evaluation.uri, verdict)
    write_blessing(blessing, not verdict.failures)
    stopwatch.stop(blessing)
