"""What each strategy would have served in the months of a backtest.

Retrain-and-replace serves the newest pushed version. Champion-challenger lets it predict the same
rows as the champion first, and serves it once the sequential test says that it is better.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from components.serving_monitor.comparison import Comparison, Rules, Traffic, compare
from ml.influence import testable
from ml.scores import Score, measure
from ml.sequential_test import NOT_YET
from ml.tasks import Task
from orchestration.backtest.months import Served
from orchestration.backtest.strategy_names import CHALLENGE, REPLACE
from pipeline.challenger_config import PROMOTE, ROLL_BACK, WAIT


@dataclass(frozen=True)
class MonthRows:
    """The rows of a month, which every version can predict.

    Attributes:
      month: The month, YYYYMM.
      newest: The newest version that was pushed before it; None if there is none.
      labels: Encoded labels, NaN where there is none, float64 [rows].
      weights: float64 [rows].
      blocks: The block of time of each row, ascending from month to month, int64 [rows].
      predict: Gives the predictions of a version, float64 [rows, outputs].
    """

    month: int
    newest: int | None
    labels: np.ndarray
    weights: np.ndarray
    blocks: np.ndarray
    predict: Callable[[int], np.ndarray]


def serve(
    task: Task, months: Iterable[MonthRows], rules: Rules, actions: Mapping[str, str]
) -> Iterator[Served]:
    """Plays both strategies on the same rows.

    The first version is the champion at once. A newly pushed one takes the place of an undecided
    challenger, with which the test begins again; else the test goes on from month to month. Labels
    of a block are taken to be there when it ends: a promotion counts from the next block on.

    Args:
      task: The task.
      months: The months, oldest first.
      rules: When the test decides.
      actions: By verdict what follows: PROMOTE, ROLL_BACK or WAIT.

    Yields:
      What was served, for each month.
    """
    champion = challenger = seen = None
    compared: list[Traffic] = []
    for rows in months:
        if rows.newest is None:
            yield Served(rows.month, None)
            continue
        if champion is None:
            champion = seen = rows.newest
        if rows.newest != seen:
            challenger, compared, seen = rows.newest, [], rows.newest
        ours = predicted = rows.predict(champion)
        served = Served(rows.month, rows.newest, champion, challenger)
        replaced = ours if rows.newest == champion else rows.predict(rows.newest)
        if challenger is not None:
            theirs = replaced if challenger == rows.newest else rows.predict(challenger)
            compared.append(_pairs(rows, ours, theirs))
            comparison, until = _look(task, compared, rules, rows.blocks)
            action = actions.get(comparison.verdict, WAIT)
            served = _told(served, task, comparison, rules, promoted=action == PROMOTE)
            if action == PROMOTE:
                ours = np.where((rows.blocks > until)[:, None], theirs, predicted)
                champion = challenger
            if action in (PROMOTE, ROLL_BACK):
                challenger = None
        found = {CHALLENGE: _measure(task, rows, ours), REPLACE: _measure(task, rows, replaced)}
        yield replace(served, scores=found)


def _pairs(rows: MonthRows, ours: np.ndarray, theirs: np.ndarray) -> Traffic:
    """Rows that both versions predicted."""
    count = len(rows.labels)
    return Traffic(
        challenger=np.repeat([False, True], count),
        block=np.tile(rows.blocks, 2),
        pair=np.tile(np.arange(count), 2),
        labels=np.tile(rows.labels, 2),
        predictions=np.concatenate([ours, theirs]).astype(float),
        weights=np.tile(rows.weights, 2),
        columns=pd.DataFrame(index=range(2 * count)),
    )


def _look(
    task: Task, months: list[Traffic], rules: Rules, blocks: np.ndarray
) -> tuple[Comparison, int]:
    """Looks after each block of the last month until the test decides; also that block."""
    parts = {name: [vars(month)[name] for month in months] for name in vars(months[0])}
    shifts = np.cumsum([0, *(len(month) for month in months[:-1])])
    parts["pair"] = [pair + shift for pair, shift in zip(parts["pair"], shifts, strict=True)]
    columns = pd.concat(parts.pop("columns"), ignore_index=True)
    whole = Traffic(**{k: np.concatenate(v) for k, v in parts.items()}, columns=columns)
    for block in np.unique(blocks):
        comparison = compare(task, whole.only(whole.block <= block), rules)
        if comparison.verdict != NOT_YET:
            break
    return comparison, int(block)


def _told(
    served: Served, task: Task, comparison: Comparison, rules: Rules, promoted: bool
) -> Served:
    overall = comparison.slices[0]
    name = rules.metric or testable(task)[0]
    tested = next(one for one in overall.metrics if one.name == name)
    difference = None
    if tested.champion is not None and tested.challenger is not None:
        difference = tested.challenger - tested.champion
    return replace(
        served,
        verdict=comparison.verdict,
        blocks=overall.blocks,
        difference=difference,
        interval=tested.intervals.get("difference"),
        promoted=promoted,
    )


def _measure(task: Task, rows: MonthRows, predictions: np.ndarray) -> dict[str, Score]:
    known = np.isfinite(rows.labels) & np.isfinite(predictions).all(axis=1)
    return measure(task, rows.labels[known], predictions[known], rows.weights[known])
