"""Tests of the settings that a new model gets by its data."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from orchestration.new_model.columns import Column, Facts, Kind, Role
from orchestration.new_model.reading import SPAN, Look
from orchestration.new_model.settings import Settings, choose_settings
from orchestration.new_model.task import Target
from storage.spans import DataSource

LABEL = Facts("label", Kind.TEXT, 0, 0, 0, 2)
BINARY = Target(LABEL, "binary", ("a", "b"), "")
PRICE = Target(LABEL, "regression", (), "", skewed=True)


def settings_of(rows: int, target: Target = BINARY, width: int = 10) -> Settings:
    """Settings of a table without a time, with one column of vectors."""
    facts = Facts("x", Kind.VECTOR, rows, 0, 0, 0, length=width)
    columns = [Column(facts, Role.VECTOR, "")]
    look = Look(DataSource("x.parquet"), {0: rows}, {"x": facts}, pd.DataFrame({SPAN: [0]}))
    return choose_settings(look, columns, target)


@pytest.mark.parametrize(
    ("rows", "batch_size", "eval_share", "test_share"),
    [(300, 16, 0.2, 0.3), (1800, 32, 0.1, 0.3), (40_000, 256, 0.1, 0.2), (10**7, 1024, 0.1, 0.2)],
)
def test_choose_settings_holds_out_more_and_takes_smaller_batches_of_few_rows(
    rows: int, batch_size: int, eval_share: float, test_share: float
) -> None:
    found = settings_of(rows)
    assert (found.batch_size, found.eval_share, found.test_share) == (
        batch_size,
        eval_share,
        test_share,
    )
    assert 5 <= found.epochs <= 100
    assert 3 <= found.patience < found.epochs


def test_choose_settings_prunes_noisy_tables_by_few_small_steps() -> None:
    noisy, price, image = (
        settings_of(15_000),
        settings_of(15_000, PRICE),
        settings_of(1800, width=784),
    )
    assert noisy.pruning_epochs * 15_000 / noisy.batch_size < 600
    assert noisy.pruning_rate < price.pruning_rate
    assert noisy.pruning_epochs < min(price.pruning_epochs, image.pruning_epochs)
    assert noisy.dropout > price.dropout == 0


@pytest.mark.parametrize(("rows_a_day", "days"), [(10, 28), (70, 15), (1000, 7)])
def test_choose_settings_holds_out_so_many_days_that_their_rows_say_when_to_stop(
    rows_a_day: int, days: int
) -> None:
    times = pd.Series(pd.date_range("2024-01-01", "2024-12-31", freq="D", tz="UTC"))
    spans = (times.dt.year * 100 + times.dt.month).to_numpy()
    days_of = dict(zip(*np.unique(spans, return_counts=True), strict=True))
    rows = {int(span): int(count) * rows_a_day for span, count in days_of.items()}
    facts = {"t": Facts("t", Kind.TIME, sum(rows.values()), 0, 0, 0)}
    sample = pd.DataFrame({"t": times, SPAN: spans})
    look = Look(DataSource("x.csv", time_column="t"), rows, facts, sample)
    found = choose_settings(look, [Column(facts["t"], Role.TIME, "")], BINARY)
    assert found.eval_days == days
