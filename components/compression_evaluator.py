"""CompressionEvaluator: is the compressed model, in both formats, as good as the float one?"""

import json
import os

import apache_beam as beam
import tensorflow_model_analysis as tfma
from google.protobuf import json_format
from tfx import v1 as tfx

from components.evaluator.blessing import write_blessing
from components.evaluator.evaluation import evaluate, with_defaults
from components.evaluator.labels import count_labels
from components.evaluator.summary import write_summary
from components.evaluator.verdict import judge
from ml.artifacts import (
    CompressionReport,
    load_schema,
    serving_model_uri,
    split_files,
)
from ml.effort import Stopwatch
from ml.in_process_beam import run_in_process
from ml.parameters import require
from ml.tasks import Task

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
    task: tfx.dsl.components.Parameter[str],
    split: tfx.dsl.components.Parameter[str],
    max_bytes: tfx.dsl.components.Parameter[int],
    max_p99_ms: tfx.dsl.components.Parameter[float],
    min_sparsity: tfx.dsl.components.Parameter[float],
    confidence: tfx.dsl.components.Parameter[float],
    beam_pipeline: tfx.dsl.components.BeamComponentParameter[beam.Pipeline] = None,
) -> None:
    """Compares a compressed model with the float model it came from, and checks its budgets.

    Example:
      compression_evaluator = CompressionEvaluator(
          examples=example_gen.outputs["examples"],
          schema=schema_gen.outputs["schema"],
          model=quantizer.outputs["quantized_model"],
          float_model=trainer.outputs["model"],
          report=quantizer.outputs["report"],
          eval_config=json_format.MessageToJson(eval_config),
          task=task.to_json(),
          split="test",
          max_bytes=200_000,
          max_p99_ms=1.0,
          min_sparsity=0.5,
          confidence=0.95,
      )

    Args:
      examples: Raw examples.
      schema: Their schema.
      model: The compressed model: a SavedModel with a `model.tflite` in its folder.
      float_model: The model before compression.
      report: What the Quantizer measured.
      evaluation: Component `outputs` contains: metrics and validation result, as TFMA writes them,
        the verdict with its reasons as `verdict.json`, and the unmet budgets as `budgets.json`.
      blessing: Component `outputs` contains: whether every threshold and budget was met.
      eval_config: A `tfma.EvalConfig` as JSON, with the models `tflite` and `saved_model` and the
        baseline `float`.
      task: The task, see `ml.tasks.Task.to_json`; it encodes the labels.
      split: Split of the examples to evaluate on.
      max_bytes: Largest size of `model.tflite`, in bytes; 0 for no limit.
      max_p99_ms: Highest 99th percentile of its time per row, in milliseconds; 0 for no limit.
      min_sparsity: Smallest share of the float model's weights that are zero or removed.
      confidence: Confidence at which a loss against the float model counts, such as 0.95; 0 counts
        any loss.
      beam_pipeline: Supplied by TFX.

    Raises:
      UserError: If a budget is not allowed.
      DataError: If a row has no label, or one that the task does not have.
    """
    require(max_bytes >= 0, "max_bytes", max_bytes, "0 or more")
    require(max_p99_ms >= 0, "max_p99_ms", max_p99_ms, "0 or more")
    require(0 <= min_sparsity <= 1, "min_sparsity", min_sparsity, "0 to 1")
    stopwatch = Stopwatch("CompressionEvaluator")
    learned = Task.from_json(task)
    files, raw_schema = split_files(examples, split), load_schema(schema)
    sample = count_labels(files, raw_schema, learned)
    config = with_defaults(json_format.Parse(eval_config, tfma.EvalConfig()), has_baseline=True)
    models = {
        TFLITE: (serving_model_uri(model), True),
        SAVED_MODEL: (serving_model_uri(model), False),
        FLOAT: (serving_model_uri(float_model), False),
    }

    def build(pipeline: beam.Pipeline) -> None:
        evaluate(pipeline, files, raw_schema, learned, config, models, evaluation.uri)

    run_in_process(build, beam_pipeline)
    verdict = judge(evaluation.uri, learned, sample, confidence)
    verdict.write(evaluation.uri)
    write_summary(evaluation.uri, verdict)
    unmet = unmet_budgets(report.read(), max_bytes, max_p99_ms, min_sparsity)
    with tfx.dsl.io.fileio.open(os.path.join(evaluation.uri, BUDGETS_FILE), "w") as file:
        file.write(json.dumps(unmet) + "\n")
    write_blessing(blessing, not unmet and not verdict.failures)
    stopwatch.stop(blessing)


def unmet_budgets(
    report: dict, max_bytes: int, max_p99_ms: float, min_sparsity: float
) -> list[str]:
    """A line for each budget that a model exceeds, with the excess.

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
    """Reads the budgets that a model did not meet; see `unmet_budgets`."""
    with tfx.dsl.io.fileio.open(os.path.join(evaluation_uri, BUDGETS_FILE), "r") as file:
        lines: list[str] = json.loads(file.read())
    return lines
