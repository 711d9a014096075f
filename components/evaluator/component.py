"""Evaluator: the stock component, whose baseline may be empty on a first run."""

from tfx import v1 as tfx
from tfx.dsl.components.base import executor_spec

from components.evaluator import executor


class Evaluator(tfx.components.Evaluator):
    """Measures a model with TFMA and blesses it, or not.

    Takes the arguments of `tfx.v1.components.Evaluator`. A `baseline_model` artifact without a
    SavedModel, as `ServedModel` emits while nothing is served, counts as no baseline: the change
    thresholds are then left out, the absolute ones hold.

    Component `outputs` contains:
      - `evaluation`: metrics, plots and validation result, as TFMA writes them.
      - `blessing`: whether every threshold was met.
    """

    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(executor.Executor)
