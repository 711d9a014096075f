"""Tests of what is guessed of a label, and of labels that are refused."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from orchestration.new_model.columns import Facts, Kind
from orchestration.new_model.task import Target, guess_target
from storage.errors import DataError


def target(values: list[Any], kind: Kind, task: Any = None, missing: int = 0) -> Target:
    column = pd.Series(values)
    counts = column.value_counts()
    numeric = kind in (Kind.INTEGER, Kind.NUMBER)
    facts = Facts(
        name="label",
        kind=kind,
        rows=len(values) + missing,
        missing=missing,
        sampled=len(values),
        distinct=len(counts),
        values=tuple((str(v), int(n)) for v, n in counts.items()),
        minimum=float(column.min()) if numeric else None,
        maximum=float(column.max()) if numeric else None,
        skewness=float(column.skew()) if numeric else 0.0,
    )
    return guess_target(facts, column, task)


@pytest.mark.parametrize(
    ("values", "kind", "task", "classes"),
    [
        (["no"] * 80 + ["yes"] * 40, Kind.TEXT, "binary", ("no", "yes")),
        (["yes"] * 80 + ["no"] * 40, Kind.TEXT, "binary", ("no", "yes")),
        (["kept"] * 80 + ["lost"] * 40, Kind.TEXT, "binary", ("kept", "lost")),
        ([0] * 80 + [1] * 40, Kind.INTEGER, "binary", ("0", "1")),
        ([0] * 40 + [1] * 80, Kind.INTEGER, "binary", ("0", "1")),
        ([-1] * 40 + [1] * 80, Kind.INTEGER, "binary", ("-1", "1")),
        # Which of them is "yes" is not to be seen: the rarer one is a guess.
        ([2] * 40 + [1] * 80, Kind.INTEGER, "binary", ("1", "2")),
        ([2] * 80 + [1] * 40, Kind.INTEGER, "binary", ("2", "1")),
        (["false"] * 80 + ["true"] * 40, Kind.BOOLEAN, "binary", ("false", "true")),
        (["b"] * 50 + ["a"] * 60 + ["c"] * 40, Kind.TEXT, "multiclass", ("a", "b", "c")),
        ([2, 10, 1] * 50, Kind.INTEGER, "multiclass", ("1", "2", "10")),
        (list(range(200)), Kind.INTEGER, "regression", ()),
        (list(np.linspace(0, 1, 200)), Kind.NUMBER, "regression", ()),
    ],
)
def test_guess_target_finds_task_and_classes(
    values: list[Any], kind: Kind, task: str, classes: tuple[str, ...]
) -> None:
    found = target(values, kind)
    assert (found.kind, found.classes) == (task, classes)


def test_guess_target_asks_which_of_1_and_2_is_positive() -> None:
    assert target([2] * 40 + [1] * 80, Kind.INTEGER).guess
    assert not target([0] * 40 + [1] * 80, Kind.INTEGER).guess


def test_guess_target_knows_prices_by_their_skew() -> None:
    assert target(list(np.exp(np.linspace(0, 10, 300))), Kind.NUMBER).skewed
    assert not target(list(np.linspace(1, 10, 300)), Kind.NUMBER).skewed


@pytest.mark.parametrize(
    ("values", "kind", "task", "message"),
    [
        (["a"] * 200, Kind.TEXT, None, "same value"),
        ([f"v{n}" for n in range(5000)], Kind.TEXT, None, "5,000 different values"),
        ([f"v{n}" for n in range(5000)], Kind.TEXT, "multiclass", "5,000 different values"),
        (["1", "2", "3", "4", "5", "n/a"] * 50, Kind.TEXT, None, "nearly all .* 'n/a'"),
        (["a", "b"] * 15, Kind.TEXT, None, "30 rows are too few"),
        (["a"] * 200 + ["b"] * 3, Kind.TEXT, None, "'b' occurs in 3 rows"),
        (["a", "b", "c"] * 60, Kind.TEXT, "binary", "a binary task has two"),
        (["a", "b", "c"] * 60, Kind.TEXT, "regression", "a regression needs numbers"),
        ([1.5, 2.5] * 60, Kind.NUMBER, "multiclass", "fractions"),
        (["", "a"] * 60, Kind.TEXT, None, "'' is a text without a character"),
        ([2.0**30, 2.0**30 + 1] * 60, Kind.NUMBER, None, "32-bit floats do not tell .* apart"),
        (
            ["caf\u00e9", "cafe\u0301"] * 60,
            Kind.TEXT,
            None,
            "differ in capitals, accents or blanks",
        ),
        (["a", "a "] * 60, Kind.TEXT, None, "differ in capitals, accents or blanks"),
    ],
)
def test_guess_target_refuses_what_cannot_be_learned(
    values: list[Any], kind: Kind, task: Any, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        target(values, kind, task)


def test_guess_target_refuses_rows_without_a_label() -> None:
    with pytest.raises(DataError, match="3 of 203 rows have no value"):
        target(["a", "b"] * 100, Kind.TEXT, missing=3)
