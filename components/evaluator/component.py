"""Evaluator: the stock component, whose baseline may be empty and whose models may be TFLite."""

from typing import Any

from tfx import v1 as tfx
from tfx.dsl.components.base import executor_spec

from components.evaluator import executor, extraction


class Evaluator(tfx.components.Evaluator):
    """Measures a model with TFMA and blesses it, or not.

    Takes the arguments of `tfx.v1.components.Evaluator`. A model that has a `model.tflite` beside
    its SavedModel is evaluated in that form. A `baseline_model` artifact without a SavedModel, as
    `ServedModel` emits while nothing is served, counts as no baseline: the change thresholds are
    then left out, the absolute ones hold.

    Component `outputs` contains:
      - `evaluation`: metrics, plots and validation result, as TFMA writes them.
      - `blessing`: whether every threshold was met.
    """

    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(executor.Executor)

    def __init__(self, **arguments: Any):
        super().__init__(**arguments, module_path=extraction.__name__)
