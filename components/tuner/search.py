"""Searches good settings: which to try next, which to give up, and which are best.

It trains nothing itself, and what it finds follows from its arguments and the results of the
trainings, not from the times that they take.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean
from typing import Any, Literal

import optuna

from components.tuner.results import Result, Training
from ml import progress
from ml.hyperparameters import Value
from ml.metrics import Metric
from storage.errors import UserError

State = Literal["complete", "pruned", "failed"]
COMPLETE: State = "complete"
PRUNED: State = "pruned"
FAILED: State = "failed"

# Of the trials with as many rows, one in so many goes on, with so many times the rows.
_REDUCTION = 3
# Trials whose settings are drawn at random, before others are chosen by their results.
_RANDOM_TRIALS = 8
# Seeds with which finalists are trained, besides that of the search.
_MORE_SEEDS = 2
_SEEDS = 2**32


@dataclass(frozen=True)
class Plan:
    """What to search, and how.

    Attributes:
      space: The range of each setting, by key: `low`, `high` and `log`, or `choices`.
      defaults: The configured value of each of them.
      metric: The metric that decides.
      tie_breaker: The metric that decides between equal values of `metric`.
      trials: Number of trials, the configured settings among them.
      parallel: Number of trials that are chosen together.
      steps: Rows of `train` that trials learn from, step by step; 0, for all, is the last.
      finalists: Number of best trials that are trained with more seeds.
      seed: Seed of the search and of its trainings.
    """

    space: Mapping[str, Mapping[str, Any]]
    defaults: Mapping[str, Value]
    metric: Metric
    tie_breaker: Metric
    trials: int
    parallel: int
    steps: tuple[int, ...]
    finalists: int
    seed: int


@dataclass
class Trial:
    """A combination of settings, and what came out.

    Attributes:
      number: Its number, from 0; 0 has the configured settings.
      settings: The settings, by key.
      results: The results by number of rows, 0 for all.
      state: "complete", "pruned" or "failed"; None while it goes on.
      by_seed: The results of a finalist on all rows, by seed.
    """

    number: int
    settings: Mapping[str, Value]
    results: dict[int, Result] = field(default_factory=dict)
    state: State | None = None
    by_seed: dict[int, Result] = field(default_factory=dict)

    @property
    def why(self) -> str:
        """Why it failed; "" if it did not."""
        return next((result.why for result in self.results.values() if result.why), "")

    @property
    def seconds(self) -> float:
        """Time of all its trainings."""
        others = [result for result in self.by_seed.values() if result is not self.results.get(0)]
        return sum(result.seconds for result in (*self.results.values(), *others))

    def mean(self, metric: Metric) -> float | None:
        """The mean of a metric over the seeds; None if a training failed, or has no value."""
        results = list(self.by_seed.values()) or [self.results.get(0, Result())]
        values = [result.metrics.get(metric.name) for result in results]
        known = [value for value in values if value is not None]
        return fmean(known) if len(known) == len(values) else None


def choose_steps(rows: int, sample_rows: int) -> tuple[int, ...]:
    """The numbers of rows that trials learn from, step by step; 0, for all, is the last.

    Example:
      >>> choose_steps(40_000, 4000), choose_steps(7000, 4000), choose_steps(40_000, 0)
      ((4000, 12000, 0), (0,), (0,))

    Args:
      rows: Rows of `train`.
      sample_rows: Rows of the first step; 0 to begin with all.
    """
    steps, size = [], sample_rows
    while 0 < size <= rows / 2:  # Little is saved by a sample of more.
        steps.append(size)
        size *= _REDUCTION
    return (*steps, 0)


def search(plan: Plan, train: Callable[[Sequence[Training]], Sequence[Result]]) -> list[Trial]:
    """Runs the trials.

    Settings are chosen by a tree-structured Parzen estimator (Bergstra et al. 2011,
    https://papers.nips.cc/paper/4443), several at once, by what trials reach on the first number of
    rows; that is told to it in the order of their numbers, whichever was ready first. When all have
    learned from so many rows, the better third goes on with more (successive halving, Jamieson and
    Talwalkar 2016, https://arxiv.org/abs/1502.07943). The configured settings always do, and are a
    finalist.

    Args:
      plan: What to search, and how.
      train: Runs trainings and returns their results, in the same order.

    Returns:
      The trials, in the order of their numbers.

    Raises:
      UserError: If no trial is complete.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        direction="maximize" if plan.metric.direction > 0 else "minimize",
        sampler=optuna.samplers.TPESampler(seed=plan.seed, n_startup_trials=_RANDOM_TRIALS),
    )
    space = {key: _distribution(given) for key, given in plan.space.items()}
    trials = [Trial(0, dict(plan.defaults))]
    asked: dict[int, optuna.Trial] = {}
    begun = 0
    while begun < plan.trials:
        while len(trials) < min(begun + plan.parallel, plan.trials):
            asked[len(trials)] = chosen = study.ask(space)
            trials.append(Trial(len(trials), {key: chosen.params[key] for key in space}))
        _train(plan, trials[begun:], plan.steps[0], train)
        for trial in trials[begun:]:
            _tell(plan, study, trial, space, asked.get(trial.number))
        begun = len(trials)
        _report(plan, trials)
    for before, rows in pairwise(plan.steps):
        _prune(plan, trials, before)
        going = [trial for trial in trials if trial.state is None]
        progress.report(f"{len(going)} of {plan.trials} trials go on with {rows or 'all'} rows")
        _train(plan, going, rows, train)
    if not any(trial.state == COMPLETE for trial in trials):
        first = next(trial for trial in trials if trial.state == FAILED)
        raise UserError(
            f"none of {len(trials)} trials is complete; trial {first.number} failed: {first.why}"
        )
    _train_finalists(plan, trials, train)
    return trials


def best_trial(plan: Plan, trials: Iterable[Trial]) -> Trial:
    """The best trial: of the finalists by their means, or of all that are complete."""
    complete = [trial for trial in trials if trial.state == COMPLETE]
    finalists = [t for t in complete if t.by_seed and t.mean(plan.metric) is not None]
    return min(finalists or complete, key=lambda trial: _rank(plan, trial))


def _rank(plan: Plan, trial: Trial) -> tuple[float, float, int]:
    """Sorts trials from the best to the worst; of equal ones the first comes first."""
    value, second = trial.mean(plan.metric), trial.mean(plan.tie_breaker)
    return (
        math.inf if value is None else -plan.metric.direction * value,
        math.inf if second is None else -plan.tie_breaker.direction * second,
        trial.number,
    )


def _distribution(given: Mapping[str, Any]) -> optuna.distributions.BaseDistribution:
    """A range as Optuna knows it."""
    if "choices" in given:
        return optuna.distributions.CategoricalDistribution(given["choices"])
    low, high, log = given["low"], given["high"], given["log"]
    if isinstance(low, int):
        return optuna.distributions.IntDistribution(low, high, log)
    return optuna.distributions.FloatDistribution(low, high, log)


def _train(
    plan: Plan,
    trials: Sequence[Trial],
    rows: int,
    train: Callable[[Sequence[Training]], Sequence[Result]],
) -> None:
    """Trains trials on a number of rows, 0 for all."""
    trainings = [Training(t.number, t.settings, rows, plan.seed) for t in trials]
    for trial, result in zip(trials, train(trainings), strict=True):
        trial.results[rows] = result
        if result.why or result.metrics.get(plan.metric.name) is None:
            trial.state = FAILED
        elif rows == 0:
            trial.state = COMPLETE


def _prune(plan: Plan, trials: Sequence[Trial], rows: int) -> None:
    """Gives up the trials that are not in the better third of those with as many rows."""
    scores = sorted((_score(plan, trial, rows) for trial in trials), reverse=True)
    known = [score for score in scores if score > -math.inf]
    least = known[math.ceil(len(known) / _REDUCTION) - 1] if known else -math.inf
    for trial in trials:
        if trial.state is None and trial.number and _score(plan, trial, rows) < least:
            trial.state = PRUNED


def _score(plan: Plan, trial: Trial, rows: int) -> float:
    """The metric on a number of rows, so that more is better; -inf if it is unknown."""
    value = trial.results.get(rows, Result()).metrics.get(plan.metric.name)
    return -math.inf if value is None else plan.metric.direction * value


def _tell(
    plan: Plan,
    study: optuna.Study,
    trial: Trial,
    space: Mapping[str, optuna.distributions.BaseDistribution],
    asked: optuna.Trial | None,
) -> None:
    """Tells Optuna what a trial reached on the first number of rows."""
    value = trial.results[plan.steps[0]].metrics.get(plan.metric.name)
    if asked is not None:
        if trial.state == FAILED:
            study.tell(asked, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(asked, value)
    elif trial.state != FAILED:
        # The configured settings may be outside of the ranges.
        with contextlib.suppress(ValueError):
            study.add_trial(
                optuna.trial.create_trial(
                    params=dict(trial.settings), distributions=dict(space), value=value
                )
            )


def _train_finalists(
    plan: Plan, trials: Sequence[Trial], train: Callable[[Sequence[Training]], Sequence[Result]]
) -> None:
    """Trains the best trials, and the configured settings, with other seeds.

    The best of many trials with one seed is better than it is with others.
    """
    complete = sorted(
        (trial for trial in trials if trial.state == COMPLETE), key=lambda t: _rank(plan, t)
    )
    chosen = complete[: plan.finalists]
    if not chosen:
        return
    if trials[0].state == COMPLETE and trials[0] not in chosen:
        chosen.append(trials[0])
    seeds = [(plan.seed + more) % _SEEDS for more in range(1, _MORE_SEEDS + 1)]
    progress.report(f"{len(chosen)} finalists with {len(seeds)} other seeds")
    trainings = [Training(t.number, t.settings, 0, seed) for t in chosen for seed in seeds]
    results = iter(train(trainings))
    for trial in chosen:
        trial.by_seed = {plan.seed: trial.results[0]} | {seed: next(results) for seed in seeds}


def _report(plan: Plan, trials: Sequence[Trial]) -> None:
    rows = plan.steps[0]
    best = max(_score(plan, trial, rows) for trial in trials)
    shown = plan.metric.show(best * plan.metric.direction) if best > -math.inf else "none"
    line = f"{len(trials)} of {plan.trials} trials on {rows or 'all'} rows"
    line += f", best {plan.metric.title} {shown}"
    logging.info("%s", line)
    progress.report(line)
