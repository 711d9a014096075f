"""Compares a model with the baselines of BaselineEvaluator on the same rows."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
from scipy import stats
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx import v1 as tfx

from components.baseline_evaluator import examples_of, load_predictions
from ml.artifacts import BaselineReport
from ml.baselines import BOOSTING, COLUMN, CONSTANT
from ml.bootstrap import poisson_counts
from ml.file_names import COMPARISON_FILE
from ml.metrics import Metric
from ml.predictors import load_predictor
from ml.tallies import Counter, Problem, Tally
from ml.task_metrics import METRICS
from ml.tasks import Task
from storage.errors import SurroundingsError

_MODEL = "model"
# Bootstrap replicates, and the confidence of the one-sided interval of a difference.
_REPLICATES = 40
_CONFIDENCE = 0.95
_ALL = "all"


@dataclass(frozen=True)
class Rival:
    """A baseline in comparison with the model.

    Attributes:
      name: See `ml.baselines.Baseline`, for this and the title.
      value: Its headline metric; None where the rows do not define it.
      loss: How much worse the model is, see `Metric.loss`; negative if it is better.
      margin: How much of it may be chance, by a paired bootstrap; None where that is unknown.
    """

    name: str
    title: str
    value: float | None
    loss: float | None
    margin: float | None


@dataclass(frozen=True)
class Comparison:
    """A model in comparison with its baselines.

    Attributes:
      metric: The headline metric of the task.
      value: That of the model; None where the rows do not define it.
      max_loss: Largest loss against gradient boosting.
      rivals: The baselines.
    """

    metric: Metric
    value: float | None
    max_loss: float
    rivals: tuple[Rival, ...]

    @property
    def line(self) -> str:
        """All figures, for the screen."""
        shown = [f"{rival.title} {show(rival.value)}" for rival in reversed(self.rivals)]
        return f"{self.metric.title} {show(self.value)}; baselines: {', '.join(shown)}"

    @property
    def failures(self) -> tuple[str, ...]:
        """One line that says why the model may not be blessed; empty if it may.

        It has to beat a constant by more than chance. It must not lose to the best single column,
        nor by more than `max_loss` to gradient boosting, by more than chance.
        """
        faults = [fault for rival in self.rivals if (fault := self._fault(rival))]
        return (f"{self.line}: the model {' and '.join(faults)}",) if faults else ()

    def _fault(self, rival: Rival) -> str:
        if rival.loss is None:
            # Of a baseline alone it is undefined where its predictions are not finite.
            return "" if self.value is not None else "cannot be compared on these rows"
        surely = rival.loss - (rival.margin or 0.0)
        if rival.name == CONSTANT:
            worst = rival.loss + (math.inf if rival.margin is None else rival.margin)
            if rival.loss >= 0:
                return f"does not beat {rival.title}"
            return f"beats {rival.title} by chance, as these rows tell" if worst >= 0 else ""
        if rival.name == COLUMN and surely > 0:
            return f"is worse than {rival.title}"
        if rival.name == BOOSTING and surely > self.max_loss:
            return (
                f"is {self._loss(rival.loss)} worse than {rival.title}, at most "
                f"{self._loss(self.max_loss)} is allowed (evaluation.max_baseline_loss)"
            )
        return ""

    def _loss(self, loss: float) -> str:
        return f"{100 * loss:.3g}%" if self.metric.relative else f"{loss:.4f}".rstrip("0")

    def write(self, evaluation_uri: str) -> None:
        """Stores it with its evaluation."""
        with tfx.dsl.io.fileio.open(os.path.join(evaluation_uri, COMPARISON_FILE), "w") as file:
            file.write(json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def read(cls, evaluation_uri: str) -> Comparison | None:
        """Reads the comparison of an evaluation; None if it was made without baselines."""
        path = os.path.join(evaluation_uri, COMPARISON_FILE)
        if not tfx.dsl.io.fileio.exists(path):
            return None
        with tfx.dsl.io.fileio.open(path, "r") as file:
            content = json.loads(file.read())
        rivals = tuple(Rival(**rival) for rival in content["rivals"])
        return cls(Metric(**content["metric"]), content["value"], content["max_loss"], rivals)


def compare_with_baselines(
    files: list[str],
    schema: schema_pb2.Schema,
    model_uri: str,
    baselines: BaselineReport,
    max_loss: float,
) -> Comparison:
    """Compares a model with the baselines by the task's headline metric, row by row.

    The differences are paired: in each replicate of a Poisson bootstrap, the model and all
    baselines see the same rows as often (see `ml.bootstrap`).

    Args:
      files: Files of raw examples: the split that the baselines have predicted.
      schema: Their schema.
      model_uri: Folder of the model; its TFLite model is preferred.
      baselines: The output of BaselineEvaluator.
      max_loss: Largest loss against gradient boosting.

    Returns:
      The comparison.

    Raises:
      SurroundingsError: If the files have another number of rows than were predicted.
    """
    report = baselines.read()
    task = Task.from_config(report["task"])
    predictions = load_predictions(baselines)
    metric = METRICS[task.headline.tfma_class]
    names = [_MODEL, *report["baselines"]]
    counter = Counter({Problem(name): metric.needs for name in names})
    total = None
    for tally in _count(counter, task, files, schema, model_uri, report["step"], predictions):
        total = tally if total is None else total + tally
    values = {name: np.full(1 + _REPLICATES, np.nan) for name in names}
    if total is not None:
        values = {name: metric.value(counter, total, Problem(name)) for name in names}
    rivals = tuple(
        _compare(task.headline, name, facts["title"], values[_MODEL], values[name])
        for name, facts in report["baselines"].items()
    )
    return Comparison(task.headline, _finite(values[_MODEL]), max_loss, rivals)


def _count(
    counter: Counter,
    task: Task,
    files: list[str],
    schema: schema_pb2.Schema,
    model_uri: str,
    step: int,
    predictions: dict[str, np.ndarray],
) -> Iterator[Tally]:
    predictor = load_predictor(model_uri)
    (rows,) = {len(array) for array in predictions.values()}
    start = 0
    for examples, labels, weights in examples_of(files, task, schema, step):
        end = start + len(examples)
        known = np.isfinite(labels)
        both = {_MODEL: np.asarray(predictor.predict(examples)).reshape(len(examples), -1)}
        both |= {name: array[start:end] for name, array in predictions.items()}
        if any(len(array) != len(examples) for array in both.values()):
            break
        counts = np.ones((len(examples), 1 + _REPLICATES))
        counts[:, 1:] = poisson_counts(examples, _REPLICATES)
        counts *= weights[:, None]
        some = {name: array[known] for name, array in both.items()}
        places = {_ALL: np.arange(known.sum())}
        yield from (tally for _, tally in counter.count(labels[known], some, counts[known], places))
        start = end
    if start != rows:
        raise SurroundingsError(
            f"the baselines have predicted {rows:,} rows, other than those of the examples; run "
            "again with --no-cache"
        )


def _compare(metric: Metric, name: str, title: str, own: np.ndarray, other: np.ndarray) -> Rival:
    losses = np.array([metric.loss(*pair) for pair in zip(own, other, strict=True)])
    replicates = losses[1:][np.isfinite(losses[1:])]
    margin = None
    if len(replicates) > 1:
        margin = float(np.std(replicates, ddof=1) * stats.t.ppf(_CONFIDENCE, len(replicates) - 1))
    return Rival(name, title, _finite(other), _finite(losses), margin)


def _finite(values: np.ndarray) -> float | None:
    return float(values[0]) if np.isfinite(values[0]) else None


def show(value: float | None) -> str:
    """A value of a metric for people."""
    if value is None:
        return "undefined"
    if abs(value) < 10:
        return f"{value:.4f}"
    return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
