"""Evaluator: is the model good enough, and as good as the one that is being served?"""

import apache_beam as beam
import tensorflow_model_analysis as tfma
from google.protobuf import json_format
from tfx import v1 as tfx

from components.evaluator.blessing import unmet_thresholds, write_blessing, write_confidence
from components.evaluator.evaluation import evaluate, with_defaults
from ml.artifacts import has_serving_model, load_schema, serving_model_uri, split_files


@tfx.dsl.components.component(use_beam=True)
def Evaluator(
    examples: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Examples],
    schema: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Schema],
    model: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Model],
    baseline_model: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Model],
    evaluation: tfx.dsl.components.OutputArtifact[tfx.types.standard_artifacts.ModelEvaluation],
    blessing: tfx.dsl.components.OutputArtifact[tfx.types.standard_artifacts.ModelBlessing],
    eval_config: tfx.dsl.components.Parameter[str],
    split: tfx.dsl.components.Parameter[str],
    confidence: tfx.dsl.components.Parameter[float],
    beam_pipeline: tfx.dsl.components.BeamComponentParameter[beam.Pipeline] = None,
) -> None:
    """Evaluates a model with TFMA and blesses it, or not.

    It takes the place of the stock Evaluator, which cannot be given TFMA evaluators and fails
    without a baseline. A model that has a `model.tflite` in its folder is evaluated in that format.

    Args:
      examples: Raw examples.
      schema: Their schema.
      model: The candidate.
      baseline_model: The model it is compared with. Where the artifact holds no SavedModel, as
        `ServedModel` emits it while nothing is served, the change thresholds are left out.
      evaluation: Component `outputs` contains: metrics and validation result, as TFMA writes them.
      blessing: Component `outputs` contains: whether every threshold was met.
      eval_config: A `tfma.EvalConfig` as JSON, with a candidate and a baseline.
      split: Split of the examples to evaluate on.
      confidence: How sure a loss against the baseline has to be to count; 0 to count any.
      beam_pipeline: Supplied by TFX.
    """
    has_baseline = has_serving_model(baseline_model)
    config = with_defaults(json_format.Parse(eval_config, tfma.EvalConfig()), has_baseline)
    models = {
        spec.name: (serving_model_uri(baseline_model if spec.is_baseline else model), True)
        for spec in config.model_specs
    }
    with beam_pipeline as pipeline:
        files = split_files(examples, split)
        evaluate(pipeline, files, load_schema(schema), config, models, evaluation.uri)
    write_confidence(evaluation.uri, confidence)
    write_blessing(blessing, not unmet_thresholds(evaluation.uri))
