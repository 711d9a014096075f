"""Chooses the settings of a new model by its data: window, network, training, slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from orchestration.new_model.columns import Column, Role
from orchestration.new_model.reading import SPAN, Look, seconds_of_sample
from orchestration.new_model.task import Target
from pipeline.data_config import DataConfig
from storage.periods import SpanPeriod
from storage.spans import DataSource

_LARGEST_WINDOW = 12
_ENOUGH_TO_TRAIN = 300_000  # Rows; older ones rarely help and cost time.
_LEAST_SPANS = 4
_STEPS = 3000
_FEW = 2000  # Rows; a model is judged on a larger share of them,
_LARGER_SHARE = 0.3
_VERY_FEW = 1000  # and of so few a larger share says when to stop.
_LARGER_EVAL_SHARE = 0.2
_EVAL_ROWS = 1000
_WIDE = 64  # Values of a row that tell little each, as pixels do.
_FEW_SLICES = 3
_SLICE_VALUES = 20
_DAY = 24 * 3600


@dataclass(frozen=True)
class Settings:
    """What `config.toml` and the network say of the data.

    Attributes:
      source: Where the data are.
      window: Spans to train on.
      eval_days: Days at their end that are held out.
      eval_share: Share of the rows that is held out, where there are no spans.
      test_share: Share of the rows to be judged on, where there are no spans.
      train_rows: Rows of the window, roughly.
      test_rows: Rows that the model is judged on, roughly.
      batch_size: Rows per step.
      epochs: Passes over the rows.
      patience: Epochs without progress.
      learning_rate: Adam's learning rate at the start.
      dropout: Share of each layer's inputs that is dropped.
      l2: Weight of the L2 penalty.
      pruning_epochs: Passes over the rows in pruning, which nothing stops early.
      pruning_rate: Its learning rate at the start.
      hidden: Units of the hidden layers.
      slices: Columns by which the model is judged too.
      min_slice_examples: Smaller slices are not judged.
      notes: What is to be said of the choice.
    """

    source: DataSource
    window: int
    eval_days: int
    eval_share: float
    test_share: float
    train_rows: int
    test_rows: int
    batch_size: int
    epochs: int
    patience: int
    learning_rate: float
    dropout: float
    l2: float
    pruning_epochs: int
    pruning_rate: float
    hidden: tuple[int, ...]
    slices: tuple[str, ...]
    min_slice_examples: int
    notes: tuple[str, ...] = ()


def choose_period(source: DataSource, seconds: np.ndarray) -> DataSource:
    """Chooses the period of the spans of rows that have a time, but paths that say nothing of it.

    Args:
      source: Where the data are.
      seconds: Times of a sample of the rows, int64 [rows].

    Returns:
      The source with the longest period of which there are four, or the shortest.
    """
    if source.pattern or not source.time_column:
        return source
    periods = (SpanPeriod.YEAR, SpanPeriod.MONTH, SpanPeriod.DAY, SpanPeriod.HOUR)
    for period in periods:
        if len(np.unique(period.numbers_of(seconds))) >= _LEAST_SPANS:
            return replace(source, period=period)
    return replace(source, period=SpanPeriod.HOUR)


def choose_settings(look: Look, columns: Sequence[Column], target: Target) -> Settings:
    """Chooses the settings of a model."""
    test_share = _LARGER_SHARE if look.count < _FEW else DataConfig.test_share
    eval_share = _LARGER_EVAL_SHARE if look.count < _VERY_FEW else DataConfig.eval_share
    window, train_rows, test_rows, notes = _window(look, test_share, eval_share)
    smallest = 4 if train_rows < _VERY_FEW else 5
    # A skewed regression reaches another 4% with smaller steps, and loses less in pruning.
    largest = 8 if target.skewed else 10
    batch = int(2 ** np.clip(np.round(np.log2(max(1, train_rows) / 100)), smallest, largest))
    width = sum(column.facts.length for column in columns if column.is_feature)
    pruning_steps, pruning_rate = _pruning(train_rows, width, target)
    epochs, pruning_epochs = (
        int(np.clip(np.ceil(steps * batch / max(1, train_rows)), least, 100))
        for steps, least in ((_STEPS, 5), (pruning_steps, 4))
    )
    learning_rate, dropout, l2 = _regularization(train_rows, target)
    slices = _slices(look, columns, target)
    return Settings(
        source=look.source,
        window=window,
        eval_days=_eval_days(look, window),
        eval_share=eval_share,
        test_share=test_share,
        train_rows=train_rows,
        test_rows=test_rows,
        batch_size=batch,
        epochs=epochs,
        # The loss of few rows rises and falls by chance.
        patience=max(3, epochs // (2 if train_rows < _VERY_FEW else 5)),
        learning_rate=learning_rate,
        dropout=dropout,
        l2=l2,
        pruning_epochs=pruning_epochs,
        pruning_rate=pruning_rate,
        hidden=_hidden(train_rows, width),
        slices=slices,
        min_slice_examples=int(np.clip(test_rows // 20, 30, 500)),
        notes=notes,
    )


def _window(
    look: Look, test_share: float, eval_share: float
) -> tuple[int, int, int, tuple[str, ...]]:
    """The number of spans to train on, the rows in them, those to be judged on, and notes."""
    numbers = sorted(look.rows)
    if len(numbers) == 1:
        test = look.count * test_share
        return 1, round((look.count - test) * (1 - eval_share)), round(test), ()
    newest, earlier = numbers[-1], numbers[:-1]
    window = rows = 0
    for number in reversed(earlier):
        window += 1
        rows += look.rows[number]
        if window >= _LARGEST_WINDOW or (rows >= _ENOUGH_TO_TRAIN and window >= _FEW_SLICES):
            break
    typical = float(np.median([look.rows[number] for number in earlier]))
    notes: tuple[str, ...] = ()
    if look.rows[newest] < typical / 4:
        notes = (
            f"the newest span, {look.source.name(newest)}, has {look.rows[newest]:,} rows where "
            f"others have {typical:,.0f}: is it complete? A model is judged on it "
            "(--as-of for another)",
        )
    return window, rows, look.rows[newest], notes


def _eval_days(look: Look, window: int) -> int:
    """A week, or more if it has few rows, but at most about a fifth of the window."""
    column = look.source.time_column
    if not column:
        return 7
    spans = sorted(look.rows)[-window - 1 : -1]
    times = seconds_of_sample(look)[look.sample[SPAN].isin(spans).to_numpy()]
    days = (times.max() - times.min()) / _DAY if len(times) else 7
    rows = sum(look.rows[span] for span in spans)
    enough = _EVAL_ROWS * days / max(1, rows)
    return int(np.clip(np.ceil(max(7, enough)), 1, max(1, min(28, days / 5))))


def _regularization(rows: int, target: Target) -> tuple[float, float, float]:
    """The learning rate, the dropout and the L2 penalty.

    The layers of a skewed regression add up a logarithm, which dropout would shift; what such a
    label follows from is rarely noisy.
    """
    if target.skewed:
        return 3e-3, 0.0, 0.0
    if rows < _VERY_FEW:
        return 3e-3, 0.1, 1e-4
    return 1e-3, 0.2 if rows < 20_000 else 0.1, 1e-4


def _pruning(rows: int, width: int, target: Target) -> tuple[int, float]:
    """The steps of pruning and their learning rate: few small ones, because nothing stops early.

    A thousand steps at 1e-3 made the AUC of a noisy table of 50 columns 0.045 worse. What follows
    from its features nearly exactly, such as a price or the digit of an image, gains by them.
    """
    if target.skewed:
        return 1800, 3e-3
    if rows < _VERY_FEW or width >= _WIDE:
        return 1000, 1e-3
    return 300, 3e-4


def _hidden(rows: int, width: int) -> tuple[int, ...]:
    if rows < 2000 and width >= _WIDE:
        return (64, 64)
    if rows < 2000:
        return (32, 16)
    return (64, 32) if rows < 20_000 else (128, 64, 32)


def _slices(look: Look, columns: Sequence[Column], target: Target) -> tuple[str, ...]:
    """The categories with a few large groups each."""
    found: Mapping[str, Any] = {
        c.name: c.facts.distinct
        for c in columns
        if c.role is Role.CATEGORY and 2 <= c.facts.distinct <= _SLICE_VALUES
    }
    return tuple(sorted(found, key=lambda name: found[name]))[:_FEW_SLICES]
