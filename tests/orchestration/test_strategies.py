"""Tests of what champion-challenger would have served, with models that are made up."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from components.serving_monitor.comparison import Rules
from ml.metrics import AUC, LOG_LOSS
from ml.tasks import Task
from orchestration.backtest.months import Served
from orchestration.backtest.strategies import MonthRows, serve
from orchestration.backtest.strategy_names import CHALLENGE, REPLACE
from orchestration.backtest.strategy_table import (
    conclude,
    make_strategy_table,
    metrics_of,
    show_strategies,
)
from pipeline.challenger_config import ChallengerConfig

TASK = Task("binary", "y")
CONFIG = ChallengerConfig(min_rows=100)
RULES = Rules(**{k: v for k, v in CONFIG.comparison.items() if k != "block_seconds"})
DAYS, ROWS = 30, 60
# How far the logits of a version are from the truth.
ERRORS = {1: 1.2, 2: 0.2, 3: 2.5, 4: 0.2}


def month(number: int, newest: int | None) -> MonthRows:
    random = np.random.default_rng(number)
    logits = random.normal(-1, 1.5, DAYS * ROWS)
    labels = (random.random(len(logits)) < 1 / (1 + np.exp(-logits))).astype(float)
    errors = random.normal(0, 1, (5, len(logits)))

    def predict(version: int) -> np.ndarray:
        return 1 / (1 + np.exp(-(logits + ERRORS[version] * errors[version])))[:, None]

    blocks = 100 * number + np.repeat(np.arange(DAYS), ROWS)
    return MonthRows(number, newest, labels, np.ones(len(labels)), blocks, predict)


def play(*newest: int | None, actions: dict[str, str] | None = None) -> list[Served]:
    months = [month(number, version) for number, version in enumerate(newest, 1)]
    return list(serve(TASK, months, RULES, actions or CONFIG.actions))


def log_losses(served: Served) -> tuple[float, float]:
    """Of champion-challenger and of retrain-and-replace."""
    ours, theirs = (served.scores[name]["log_loss"] for name in (CHALLENGE, REPLACE))
    assert ours is not None
    assert theirs is not None
    return ours, theirs


def test_strategy_serves_the_challenger_once_the_test_finds_it_better() -> None:
    nothing, first, second, third = play(None, 1, 2, 2)
    assert (nothing.champion, nothing.scores) == (None, {})
    assert (first.champion, first.challenger, first.verdict) == (1, None, "")
    assert first.scores[CHALLENGE] == first.scores[REPLACE]
    assert (second.champion, second.challenger, second.verdict) == (1, 2, "better")
    assert second.promoted
    assert 7 <= second.blocks < DAYS
    assert second.interval is not None
    assert second.interval[1] < 0
    # Until then the champion served, from then on the challenger.
    served = log_losses(second)
    assert served[0] > served[1]
    rows = month(3, 2)
    until = rows.blocks <= 300 + second.blocks - 1
    mixed = np.where(until[:, None], rows.predict(1), rows.predict(2))[:, 0]
    loss = -np.log(np.where(rows.labels == 1, mixed, 1 - mixed)).mean()
    assert served[0] == pytest.approx(loss)
    assert (third.champion, third.challenger) == (2, None)
    assert third.scores[CHALLENGE] == third.scores[REPLACE]


def test_strategy_keeps_the_champion_where_the_challenger_is_worse() -> None:
    _, second, third = play(1, 3, 3)
    assert (second.challenger, second.verdict, second.promoted) == (3, "worse", False)
    ours, theirs = log_losses(second)
    assert ours < theirs
    # It is not tried again.
    assert (third.champion, third.challenger, third.newest) == (1, None, 3)


def test_strategy_goes_on_with_the_test_until_a_newer_version_is_there() -> None:
    first, second, third, fourth = play(2, 4, 4, 1)
    assert first.challenger is None
    assert (second.verdict, second.blocks) == ("not yet", DAYS)
    assert (third.verdict, third.blocks) == ("not yet", 2 * DAYS)
    assert fourth.challenger == 1
    assert fourth.verdict == "worse"
    assert fourth.blocks <= DAYS


def test_strategy_does_what_is_configured() -> None:
    waits = {**CONFIG.actions, "better": "wait"}
    _, second = play(1, 2, actions=waits)
    assert (second.verdict, second.promoted) == ("better", False)
    _, _, third = play(1, 2, 2, actions=waits)
    assert (third.champion, third.challenger) == (1, 2)


def test_strategy_measures_rows_with_a_label_and_a_prediction_alone() -> None:
    rows = month(1, 1)
    rows.labels[::2] = np.nan
    (served,) = serve(TASK, [rows], RULES, CONFIG.actions)
    assert served.scores[CHALLENGE]["auc"] is not None


def test_strategy_table_shows_both_strategies_and_what_was_gained(tmp_path: Path) -> None:
    played = {"base": play(None, 1, 2, 3)}
    console = Console(file=io.StringIO(), width=250)
    console.print(make_strategy_table(played, (LOG_LOSS, AUC)))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    lines = [line.split() for line in shown.splitlines()]
    assert lines[1][:3] == ["month", "champion", "challenger"]
    assert lines[2] == ["1", "-", "-", "-", "-", "-", "-", "-", "-"]
    assert "better, after" in shown
    assert "promoted" in shown
    assert lines[-1][0] == "mean"
    log_loss, auc = conclude(played["base"], (LOG_LOSS, AUC))
    assert "better than retrain-and-replace" in log_loss
    assert auc.startswith("mean AUC of champion-challenger")
    assert list(conclude(played["base"][:1], (LOG_LOSS, AUC))) == []
    assert metrics_of(TASK, "") == (LOG_LOSS, AUC)
    show_strategies(played, (LOG_LOSS, AUC), tmp_path / "strategies.csv", console)
    rows = list(csv.DictReader((tmp_path / "strategies.csv").open()))
    assert [row["month"] for row in rows] == ["1", "2", "3", "4"]
    assert rows[2]["promoted"] == "True"
    assert float(rows[2]["high"]) < 0
    assert rows[0]["auc champion-challenger"] == ""
