"""Tests of the search for settings, with trainings that are functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.tuner.results import Result, Training
from components.tuner.search import (
    COMPLETE,
    FAILED,
    PRUNED,
    Plan,
    Trial,
    best_trial,
    choose_steps,
    search,
)
from ml.metrics import ACCURACY, CLASS_LOG_LOSS, RMSE
from storage.errors import UserError

RATE, UNITS = "training.learning_rate", "network.units"
PLAN = Plan(
    space={
        RATE: {"low": 1e-4, "high": 1.0, "log": True},
        UNITS: {"choices": [32, 64, 128]},
    },
    defaults={RATE: 1e-4, UNITS: 32},
    metric=RMSE,
    tie_breaker=RMSE,
    trials=30,
    parallel=4,
    steps=(100, 300, 0),
    finalists=2,
    seed=7,
)


def error(training: Training) -> float:
    """Lowest at a learning rate of 0.01 and 128 units; more rows change nothing."""
    rate, units = training.settings[RATE], training.settings[UNITS]
    assert isinstance(rate, float)
    assert isinstance(units, int)
    return abs(math.log10(rate) + 2) + (128 - units) / 128


class Trainer:
    """Trainings that are a function of what is trained, and a record of them."""

    def __init__(self, compute: Callable[[Training], float | str] = error, metric: str = "rmse"):
        self.seen: list[Training] = []
        self.compute, self.metric = compute, metric

    def __call__(self, trainings: Sequence[Training]) -> list[Result]:
        self.seen += trainings
        return [self.result(training) for training in trainings]

    def result(self, training: Training) -> Result:
        outcome = self.compute(training)
        if isinstance(outcome, str):
            return Result(why=outcome)
        return Result({self.metric: outcome}, epochs=1, seconds=1.0)


def settings(trials: Sequence[Trial]) -> list[Any]:
    return [dict(trial.settings) for trial in trials]


def test_search_finds_better_settings_than_those_it_begins_with() -> None:
    trials = search(PLAN, Trainer())
    best = best_trial(PLAN, trials)
    assert len(trials) == 30
    assert trials[0].settings == PLAN.defaults
    assert (best.mean(RMSE) or math.inf) < 0.5 < (trials[0].mean(RMSE) or 0.0)
    assert best.settings[UNITS] == 128


def test_search_takes_the_highest_where_the_metric_says_so() -> None:
    plan = replace(PLAN, metric=ACCURACY, tie_breaker=CLASS_LOG_LOSS)
    trials = search(plan, Trainer(lambda training: 1 - error(training) / 10, "accuracy"))
    assert (best_trial(plan, trials).mean(ACCURACY) or 0.0) > 0.95


def test_search_is_the_same_each_time_and_goes_on_where_a_shorter_one_ended() -> None:
    trials = search(PLAN, Trainer())
    assert settings(search(PLAN, Trainer())) == settings(trials)
    assert settings(search(replace(PLAN, trials=12), Trainer())) == settings(trials)[:12]
    assert settings(search(replace(PLAN, seed=8), Trainer())) != settings(trials)


def test_search_learns_from_all_rows_in_the_better_third_alone() -> None:
    trainer = Trainer()
    trials = search(replace(PLAN, finalists=0), trainer)
    counts = [sum(t.rows == rows for t in trainer.seen) for rows in PLAN.steps]
    # A third of 30, of 10 and the configured settings, which always go on.
    assert counts == [30, 11, 5]
    states = {state: sum(t.state == state for t in trials) for state in (COMPLETE, PRUNED)}
    assert states == {COMPLETE: counts[2], PRUNED: 30 - counts[2]}
    pruned = [error(Training(0, t.settings, 0, 7)) for t in trials if t.state == PRUNED]
    assert min(pruned) >= min(t.mean(RMSE) or math.inf for t in trials if t.state == COMPLETE)


def test_search_never_prunes_the_configured_settings() -> None:
    trials = search(PLAN, Trainer())
    assert trials[0].state == COMPLETE
    assert [*trials[0].results] == [100, 300, 0]
    assert [*trials[0].by_seed] == [7, 8, 9]


def test_search_trains_each_step_of_all_trials_together() -> None:
    """So that no core waits for the only trial of a batch that goes on."""
    asked: list[set[int]] = []

    def train(trainings: Sequence[Training]) -> list[Result]:
        asked.append({training.rows for training in trainings})
        return Trainer()(trainings)

    search(replace(PLAN, finalists=0), train)
    assert asked == [{100}] * 8 + [{300}, {0}]


def test_search_counts_failed_trials_and_goes_on() -> None:
    def compute(training: Training) -> float | str:
        rate = training.settings[RATE]
        assert isinstance(rate, float)
        return "diverged" if rate > 0.02 else error(training)

    trials = search(PLAN, Trainer(compute))
    failed = [trial for trial in trials if trial.state == FAILED]
    assert failed
    assert {trial.why for trial in failed} == {"diverged"}
    assert best_trial(PLAN, trials).state == COMPLETE


def test_search_counts_a_trial_without_a_value_as_failed() -> None:
    class Undefined(Trainer):
        def result(self, training: Training) -> Result:
            return Result({"rmse": None} if training.trial % 2 else {"rmse": 1.0}, 1)

    trials = search(PLAN, Undefined())
    assert {trial.number % 2 for trial in trials if trial.state == FAILED} == {1}


def test_search_finds_the_best_although_the_configured_settings_fail() -> None:
    trials = search(PLAN, Trainer(lambda t: error(t) if t.trial else "diverged"))
    assert trials[0].state == FAILED
    assert best_trial(PLAN, trials).number > 0


def test_search_says_why_no_trial_is_complete() -> None:
    with pytest.raises(UserError, match="none of 30 trials is complete; trial 0 failed: hung"):
        search(PLAN, Trainer(lambda training: "hung"))


def test_search_decides_by_the_mean_of_several_seeds() -> None:
    def compute(training: Training) -> float:
        lucky = training.trial == 3 and training.seed == 7
        return -5.0 if lucky else error(training)

    lucky = replace(PLAN, finalists=0)
    assert best_trial(lucky, search(lucky, Trainer(compute))).number == 3
    careful = replace(PLAN, finalists=30)
    trials = search(careful, Trainer(lambda t: 99.0 if t.trial == 3 and t.seed == 8 else error(t)))
    assert best_trial(careful, trials).number != 3


def test_search_leaves_out_finalists_that_fail_with_another_seed() -> None:
    trials = search(PLAN, Trainer())
    first = best_trial(PLAN, trials).number
    trainer = Trainer(lambda t: "killed" if (t.trial, t.seed) == (first, 9) else error(t))
    assert best_trial(PLAN, search(PLAN, trainer)).number != first


def test_best_trial_of_equal_accuracies_has_the_lower_log_loss() -> None:
    plan = replace(PLAN, metric=ACCURACY, tie_breaker=CLASS_LOG_LOSS)
    trials = [
        Trial(n, {}, {0: Result({"accuracy": 0.9, "log_loss": loss}, 1)}, COMPLETE)
        for n, loss in enumerate((0.4, 0.2, 0.3))
    ]
    assert best_trial(plan, trials).number == 1


def test_search_takes_configured_settings_outside_of_the_ranges() -> None:
    plan = replace(PLAN, defaults={RATE: 1e-6, UNITS: 48})
    trials = search(plan, Trainer())
    assert trials[0].settings == {RATE: 1e-6, UNITS: 48}
    assert trials[0].state == COMPLETE


@given(
    low=st.integers(1, 1000),
    width=st.integers(1, 1000),
    log=st.booleans(),
    share=st.floats(0, 1),
    choices=st.lists(st.text(max_size=3), min_size=2, max_size=4, unique=True),
    seed=st.integers(0, 2**32 - 1),
)
def test_search_tries_values_of_the_ranges_alone(
    low: int, width: int, log: bool, share: float, choices: list[str], seed: int
) -> None:
    space: dict[str, dict[str, Any]] = {
        "training.epochs": {"low": low, "high": low + width, "log": log},
        "training.dropout": {"low": share, "high": share + 0.5, "log": False},
        "network.kind": {"choices": choices},
    }
    defaults: dict[str, Any] = {
        "training.epochs": low,
        "training.dropout": share,
        "network.kind": choices[0],
    }
    plan = replace(PLAN, space=space, defaults=defaults, trials=6, seed=seed, steps=(0,))
    trials = search(plan, Trainer(lambda training: float(training.trial)))
    for trial in trials:
        epochs, dropout, kind = (trial.settings[key] for key in space)
        assert isinstance(epochs, int)
        assert low <= epochs <= low + width
        assert isinstance(dropout, float)
        assert share <= dropout <= share + 0.5
        assert kind in choices


@given(rows=st.integers(1, 10**7), sample=st.integers(0, 10**5))
def test_choose_steps_grow_and_end_with_all_rows(rows: int, sample: int) -> None:
    *samples, last = choose_steps(rows, sample)
    assert last == 0
    assert samples == sorted(set(samples))
    assert all(sample <= size <= rows / 2 for size in samples)
