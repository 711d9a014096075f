"""Searches the highest sparsity of which `eval` shows that it costs little."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import tf_keras

from components.pruner.spec import highest_sparsity
from ml import progress
from ml.examples import Columns
from ml.fit import select_inputs
from ml.networks import clone
from ml.row_weights import evaluation_weights
from ml.scores import Score, headline
from ml.stored_columns import predict
from ml.tasks import Task

# A part of `max_loss` is left to the quantization, and to months that differ from `eval`.
SPENT = 0.5
# A loss counts with this many of its standard errors (one-sided confidence of 95%).
_ERRORS = 1.64
_REPLICATES = 50
_ROWS = 20_000
_BATCH = 8192
# Steps of a trial: this share of those of the pruning itself.
_TRIAL_SHARE, _TRIAL_STEPS = 0.12, 40
_TRIALS = 5
# Sparsity that no measured network of these sizes lost anything by, where `eval` is too small to
# show a loss of `max_loss`.
_HARMLESS = 0.5


@dataclass(frozen=True)
class Trial:
    """A sparsity that was tried.

    Attributes:
      sparsity: Share of the weights that were zero.
      loss: Loss of the headline metric on `eval`; see `ml.metrics.Metric.loss`.
      error: Standard error of that loss.
      allowed: Whether the loss is within the limit with confidence.
    """

    sparsity: float
    loss: float
    error: float
    allowed: bool


class Judge:
    """Compares networks with the float model on `eval`.

    Args:
      network: The float model.
      evaluation: Columns of `eval`.
      task: The task.
    """

    def __init__(self, network: tf_keras.Model, evaluation: Columns, task: Task, seed: int = 7):
        self.task = task
        self._rows = {name: column[:_ROWS] for name, column in evaluation.items()}
        self._labels = np.ravel(self._rows[task.label])
        self.rows = len(self._labels)
        weights = evaluation_weights(self._rows, task)
        self._weights = np.ones(len(self._labels)) if weights is None else np.ravel(weights)
        random = np.random.default_rng(seed)
        # The bootstrap of Chamandy et al. 2012: a Poisson count of each row.
        self._counts = random.poisson(1, (_REPLICATES, len(self._labels)))
        predictions = self._predict(network)
        self._before = self._score(predictions, self._weights)
        self._replicates_before = [
            self._score(predictions, self._weights * counts) for counts in self._counts
        ]

    def loss(self, network: tf_keras.Model) -> float:
        """The loss of the headline metric; infinite if the metric is undefined."""
        return self._loss(self._score(self._predict(network), self._weights), self._before)

    def loss_and_error(self, network: tf_keras.Model) -> tuple[float, float]:
        """The loss of the headline metric, and its standard error.

        Returns:
          The loss, see `loss`; and the bootstrap's standard error, at least that of one row more
          that is wrong: few rows that all agree are no proof.
        """
        after = self._predict(network)
        losses = [
            self._loss(self._score(after, self._weights * counts), before)
            for counts, before in zip(self._counts, self._replicates_before, strict=True)
        ]
        known = [value for value in losses if np.isfinite(value)]
        error = float(np.std(known)) if len(known) > 1 else math.inf
        loss = self._loss(self._score(after, self._weights), self._before)
        return loss, max(error, 1 / self.rows)

    def _loss(self, after: Score, before: Score) -> float:
        if after is None or before is None:
            return math.inf
        return self.task.headline.loss(after, before) + 0.0  # No -0.0.

    def _score(self, predictions: np.ndarray, weights: np.ndarray) -> Score:
        return headline(self.task, self._labels, predictions, weights)

    def _predict(self, network: tf_keras.Model) -> np.ndarray:
        return predict(network, select_inputs(network, self._rows), _BATCH)


def search_sparsity(
    prune: Callable[[float, int], tf_keras.Model], judge: Judge, steps: int, max_loss: float
) -> tuple[float, str, list[dict[str, Any]]]:
    """Searches the highest sparsity by bisection of the share of weights that are kept.

    Each trial prunes the trained network in a few steps. The pruning itself has more, and loses
    less.

    Args:
      prune: Prunes the trained network: `(sparsity, steps)`.
      judge: Compares the result with the trained network.
      steps: Steps of the pruning itself.
      max_loss: Largest loss of the headline metric by the whole compression.

    Returns:
      The sparsity, why it is no higher, as a sentence, and the trials.
    """
    metric, limit = judge.task.headline, SPENT * max_loss
    limit_shown = f"{metric.format_loss(limit)} in {metric.title}"
    few = min(steps, max(_TRIAL_STEPS, int(_TRIAL_SHARE * steps)))
    highest = highest_sparsity(steps)
    if _ERRORS / judge.rows > limit:
        lowest = min(_HARMLESS, highest)
        why = f"auto: eval has too few rows ({judge.rows:,}) to show a loss of {limit_shown}"
        return lowest, f"{why}; {lowest:.0%} rarely costs anything", []
    trials: list[Trial] = []

    def allows(sparsity: float) -> bool:
        loss, error = judge.loss_and_error(prune(sparsity, few))
        trials.append(Trial(sparsity, loss, error, loss + _ERRORS * error <= limit))
        progress.report(f"{sparsity:.1%} loses {metric.format_loss(loss)} in {few} steps")
        return trials[-1].allowed

    # Of the weights kept: known to suffice, and known to be too few.
    enough, too_few = 1.0, 1 - highest
    found = allows(highest)
    while not found and len(trials) < _TRIALS:
        kept = math.sqrt(enough * too_few)
        if allows(1 - kept):
            enough = kept
        else:
            too_few = kept
    sparsity = highest if found else 1 - enough
    tried = ", ".join(f"{t.sparsity:.1%} {metric.format_loss(t.loss)}" for t in trials)
    if found:
        why = f"the {steps:,} steps suffice for no more"
    elif sparsity:
        why = f"{1 - too_few:.1%} may lose more than {limit_shown}"
    else:
        why = f"every trial may lose more than {limit_shown}"
    trials.sort(key=lambda trial: trial.sparsity)
    return sparsity, f"auto: {why} (tried {tried})", [asdict(trial) for trial in trials]


def measure_sensitivity(
    network: tf_keras.Model, names: Sequence[str], sparsity: float, judge: Judge
) -> dict[str, float]:
    """What each layer alone loses of the headline metric on `eval`, pruned without fine-tuning.

    Args:
      network: The trained network; it is not changed.
      names: Names of the layers.
      sparsity: Share of a layer's weights that become zero.
      judge: Compares with the trained network.

    Returns:
      The loss by layer.
    """
    losses = {}
    copy = clone(network)
    for name in names:
        layer = copy.get_layer(name)
        trained = layer.get_weights()
        for weight in layer.weights:
            if weight.shape.rank > 1:
                values = weight.numpy()
                smallest = np.abs(values) <= np.quantile(np.abs(values), sparsity)
                weight.assign(np.where(smallest, 0, values))
        losses[name] = judge.loss(copy)
        layer.set_weights(trained)
    return losses
