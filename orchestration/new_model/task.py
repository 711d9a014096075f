"""Guesses the task of a label."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ml.tasks import BINARY, MOST_CLASSES, MULTICLASS, REGRESSION
from ml.tasks import Kind as TaskKind
from orchestration.new_model.columns import Facts, Kind
from orchestration.new_model.reading import nearly_numbers
from storage.errors import DataError
from storage.table_formats import fold_name

# Whole numbers with more values are numbers to predict.
_MOST_NUMBERED_CLASSES = 20
_MOST_GUESSED_CLASSES = 200
_POSITIVE = ("1", "1.0", "true", "t", "yes", "y", "positive", "bad", "fraud", "churn")
_ONES, _OPPOSITES = ("1", "1.0"), {"0", "-1", "0.0", "-1.0"}
LEAST_ROWS = 100
_LEAST_OF_CLASS = 10


@dataclass(frozen=True)
class Target:
    """The label and its task.

    Attributes:
      facts: The label's column.
      kind: The task.
      classes: Its values in the order of their ids, as text; none for a regression.
      why: Reason, in a few words.
      guess: What may be otherwise; "" for nothing.
      skewed: Whether a regression is of positive numbers that span powers of ten.
    """

    facts: Facts
    kind: TaskKind
    classes: tuple[str, ...]
    why: str
    guess: str = ""
    skewed: bool = False


def guess_target(facts: Facts, values: pd.Series, task: TaskKind | None) -> Target:
    """Guesses the task of a label, or checks the one that is given.

    Args:
      facts: The label's column.
      values: Its values in the sample.
      task: The task; None guesses.

    Raises:
      DataError: If the column cannot be a label, or not of this task.
    """
    where = f"label {facts.name!r}"
    if facts.missing:
        raise DataError(
            f"{where}: {facts.missing:,} of {facts.rows:,} rows have no value; every row needs one "
            "(data.null_values says which texts of a CSV file are absent values)"
        )
    if facts.kind in (Kind.VECTOR, Kind.TIME, Kind.NOTHING):
        raise DataError(
            f"{where} has values of the kind {facts.kind.value}; text, true and false, or numbers "
            "are expected"
        )
    if facts.rows < LEAST_ROWS:
        raise DataError(
            f"{where}: {facts.rows:,} rows are too few to train and judge a model: at least "
            f"{LEAST_ROWS} are needed"
        )
    if facts.distinct < 2:
        raise DataError(f"{where}: all rows have the same value, {facts.values[0][0]!r}")
    if other := nearly_numbers(values) if facts.kind is Kind.TEXT else "":
        raise DataError(
            f"{where}: nearly all values are numbers, but not {other!r}: mend the rows, or add it "
            "to data.null_values and remove rows without a label"
        )
    chosen = task or _guess(facts)
    return _CHECKS[chosen](where, facts, task is None)


def _guess(facts: Facts) -> TaskKind:
    if facts.distinct == 2:
        return BINARY
    if facts.kind is Kind.NUMBER:
        return REGRESSION
    if facts.kind is Kind.INTEGER and facts.distinct > _MOST_NUMBERED_CLASSES:
        return REGRESSION
    return MULTICLASS


def _binary(where: str, facts: Facts, guessed: bool) -> Target:
    if facts.distinct != 2:
        raise DataError(f"{where} has {facts.distinct:,} values; a binary task has two")
    _check_classes(where, facts)
    (frequent, _), (rare, _) = facts.values
    named = next((v for v, _ in facts.values if v.lower() in _POSITIVE), None)
    if named in _ONES and not {frequent, rare} & _OPPOSITES:
        named = None
    positive = named or rare
    negative = frequent if positive == rare else rare
    reason = "by its name" if named else "the rarer value"
    return Target(
        facts,
        BINARY,
        (negative, positive),
        f"two values; {positive!r} is the positive class, {reason}",
        f"is {positive!r} the positive class? (classes)" if not named else "",
    )


def _multiclass(where: str, facts: Facts, guessed: bool) -> Target:
    most = _MOST_GUESSED_CLASSES if guessed else MOST_CLASSES
    if facts.distinct > most:
        raise DataError(
            f"{where} has {facts.distinct:,} different values, more than the {most:,} classes that "
            "are taken: is it an identifier? For numbers use --task regression"
        )
    _check_classes(where, facts)
    classes = sorted((value for value, _ in facts.values), key=_in_order)
    numbered = facts.kind is Kind.INTEGER
    guess = "classes, or numbers to predict? (--task regression)" if numbered and guessed else ""
    return Target(facts, MULTICLASS, tuple(classes), f"{len(classes)} values", guess)


def _regression(where: str, facts: Facts, guessed: bool) -> Target:
    if facts.kind not in (Kind.INTEGER, Kind.NUMBER):
        raise DataError(f"{where} has {facts.kind.value}; a regression needs numbers")
    if not facts.exact:
        raise DataError(
            f"{where}: its numbers are infinite, too large for 32-bit floats, or not told apart by "
            "them: scale the column"
        )
    positive = facts.minimum is not None and facts.minimum > 0
    skewed = positive and facts.skewness > 1
    why = "numbers that span powers of ten" if skewed else "numbers"
    return Target(facts, REGRESSION, (), why, skewed=skewed)


def _check_classes(where: str, facts: Facts) -> None:
    if facts.kind is Kind.NUMBER and any(float(value) % 1 for value, _ in facts.values):
        raise DataError(f"{where} has fractions, such as {facts.values[0][0]}; classes have none")
    written: dict[str, str] = {}
    for value, _ in facts.values:
        if not value.strip():
            raise DataError(
                f"{where}: {value!r} is a text without a character: give the class a name"
            )
        other = written.setdefault(fold_name(value.strip()), value)
        if other != value:
            raise DataError(
                f"{where}: the values {other!r} and {value!r} differ in capitals, accents or "
                "blanks alone: make them one"
            )
    if facts.kind is Kind.NUMBER:
        numbers = np.array([float(value) for value, _ in facts.values])
        if len(np.unique(numbers.astype(np.float32))) < len(numbers):
            raise DataError(
                f"{where}: 32-bit floats do not tell its numbers apart, such as {numbers[0]:.0f}: "
                "write classes as text"
            )
    value, count = facts.values[-1]
    expected = count * facts.rows / max(1, facts.sampled)
    if expected < _LEAST_OF_CLASS:
        raise DataError(
            f"{where}: {value!r} occurs in {round(expected)} rows; a class needs at least "
            f"{_LEAST_OF_CLASS}, to be learned and judged"
        )


def _in_order(value: str) -> tuple[int, float, str]:
    try:
        return 0, float(value), value
    except ValueError:
        return 1, 0.0, value


_CHECKS: dict[str, Callable[[str, Facts, bool], Target]] = {
    BINARY: _binary,
    MULTICLASS: _multiclass,
    REGRESSION: _regression,
}
