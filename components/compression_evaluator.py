"""CompressionEvaluator: is the compressed model, in both of its forms, as good as the float one?"""

import json
import os

import apache_beam as beam
import tensorflow_model_analysis as tfma
from google.protobuf import json_format
from tfx import v1 as tfx

from components.evaluator.blessing import unmet_thresholds, write_blessing, write_confidence
from components.evaluator.evaluation import evaluate, with_defaults
from ml.artifacts import (
    CompressionReport,
    load_schema,
    serving_model_uri,
    split_files,
)
from ml.parameters import require

# Names of the models in the evaluation.
TFLITE, SAVED_MODEL, FLOAT = "tflite", "saved_model", "float"
BUDGETS_FILE = "budgets.json"


@tfx.dsl.components.component(use_beam=True)
def CompressionEvaluator(
    examples: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Examples],
    schema: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Schema],
    model: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Model],
    float_model: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Model],
    report: tfx.dsl.components.InputArtifact[CompressionReport],
    evaluation: tfx.dsl.components.OutputArtifact[tfx.types.standard_artifacts.ModelEvaluation],
    blessing: tfx.dsl.components.OutputArtifact[tfx.types.standard_artifacts.ModelBlessing],
    eval_config: tfx.dsl.components.Parameter[str],
    split: tfx.dsl.components.Parameter[str],
    max_bytes: tfx.dsl.components.Parameter[int],
    max_p99_ms: tfx.dsl.components.Parameter[float],
    min_sparsity: tfx.dsl.components.Parameter[float],
    confidence: tfx.dsl.components.Parameter[float],
    beam_pipeline: tfx.dsl.components.BeamComponentParameter[beam.Pipeline] = None,
) -> None:
    """Compares a compressed model with the float model it came from, and checks its budgets.

    Args:
      examples: Raw examples.
      schema: Their schema.
      model: The compressed model: a SavedModel with a `model.tflite` in its folder.
      float_model: The model before compression.
      report: What the Quantizer measured.
      evaluation: Component `outputs` contains: metrics and validation result, as TFMA writes them,
        and the budgets that are not met as `budgets.json`.
      blessing: Component `outputs` contains: whether every threshold and budget was met.
      eval_config: A `tfma.EvalConfig` as JSON, with the models `tflite` and `saved_model` and the
        baseline `float`.
      split: Split of the examples to evaluate on.
      max_bytes: Largest size of `model.tflite`, in bytes; 0 for no limit.
      max_p99_ms: Highest 99th percentile of the time it takes for a row, in milliseconds; 0 for no
        limit.
      min_sparsity: Smallest share of zeros among its weights.
      confidence: How sure a loss against the float model has to be to count; 0 to count any.
      beam_pipeline: Supplied by TFX.

    Raises:
      UserError: Naming a budget that is not allowed.
    """
    require(max_bytes >= 0, "max_bytes", max_bytes, "0 or more")
    require(max_p99_ms >= 0, "max_p99_ms", max_p99_ms, "0 or more")
    require(0 <= min_sparsity <= 1, "min_sparsity", min_sparsity, "0 to 1")
    config = with_defaults(json_format.Parse(eval_config, tfma.EvalConfig()), has_baseline=True)
    models = {
        TFLITE: (serving_model_uri(model), True),
        SAVED_MODEL: (serving_model_uri(model), False),
        FLOAT: (serving_model_uri(float_model), False),
    }
    with beam_pipeline as pipeline:
        files = split_files(examples, split)
        evaluate(pipeline, files, load_schema(schema), config, models, evaluation.uri)
    write_confidence(evaluation.uri, confidence)
    unmet = unmet_budgets(report.read(), max_bytes, max_p99_ms, min_sparsity)
    with tfx.dsl.io.fileio.open(os.path.join(evaluation.uri, BUDGETS_FILE), "w") as file:
        file.write(json.dumps(unmet) + "\n")
    write_blessing(blessing, not unmet and not unmet_thresholds(evaluation.uri))


def unmet_budgets(
    report: dict, max_bytes: int, max_p99_ms: float, min_sparsity: float
) -> list[str]:
    """A line for each budget that a model does not meet, with by how much.

    Args:
      report: What the Quantizer measured.
      max_bytes: See `CompressionEvaluator`.
      max_p99_ms: See `CompressionEvaluator`.
      min_sparsity: See `CompressionEvaluator`.

    Returns:
      The lines.
    """
    shipped = report["modes"][report["mode"]]
    lines = []
    if 0 < max_bytes < shipped["bytes"]:
        over = shipped["bytes"] - max_bytes
        lines.append(
            f"max_bytes: model.tflite has {shipped['bytes']:,} bytes, {over:,} more than the "
            f"{max_bytes:,} allowed"
        )
    if 0 < max_p99_ms < shipped["p99_ms"]:
        over = shipped["p99_ms"] - max_p99_ms
        lines.append(
            f"max_p99_ms: a row takes {shipped['p99_ms']:.4f} ms (99th percentile), {over:.4f} ms "
            f"more than the {max_p99_ms:g} allowed"
        )
    if shipped["sparsity"] < min_sparsity:
        short = min_sparsity - shipped["sparsity"]
        lines.append(
            f"min_sparsity: {shipped['sparsity']:.4f} of the weights are zero, {short:.4f} less "
            f"than the {min_sparsity:g} required"
        )
    return lines


def read_budgets(evaluation_uri: str) -> list[str]:
    """The budgets that a model did not meet; see `unmet_budgets`."""
    with tfx.dsl.io.fileio.open(os.path.join(evaluation_uri, BUDGETS_FILE), "r") as file:
        lines: list[str] = json.loads(file.read())
    return lines
