"""Decides what becomes of each column of a table: its role in a model, and why."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, replace

from ml.names import check_column

MOST_CATEGORIES = 1000
_MOST_CODES = 20  # Whole numbers with fewer values may be codes.
_IDENTIFYING = 0.95  # Share of the rows with a value of their own.
_WORDS = 3.0  # Mean number of words from which text is free text.
_SKEWED = 3.0
_FACTORS = 1.0  # Skewness from which positive numbers differ by factors.
_CODE_NAME = re.compile(r"(^|[ _.-])(id|code|zip|zone|area|type|class|number|no|key)$", re.I)
_FEW_ROWS = 30


class Kind(enum.Enum):
    """What the values of a column are."""

    TEXT = "text"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    TIME = "time"
    VECTOR = "vector"
    NOTHING = "nothing"


class Role(enum.Enum):
    """What becomes of a column."""

    LABEL = "label"
    WEIGHT = "weight"
    TIME = "time"
    CATEGORY = "category"
    CODE = "code"
    NUMBER = "number"
    LOGARITHM = "logarithm"
    SKEWED = "skewed number"
    VECTOR = "vector"
    SHARES = "vector of counts"
    LEFT_OUT = "left out"


# What becomes of a feature, in the words of the table.
TREATMENTS = {
    Role.CATEGORY: "vocabulary, embedding",
    Role.CODE: "ids of the listed values, embedding",
    Role.NUMBER: "z-score",
    Role.LOGARITHM: "z-score of the logarithm",
    Role.SKEWED: "place among 100 quantiles",
    Role.VECTOR: "z-score of each value",
    Role.SHARES: "share of the largest value",
    Role.TIME: "hour and weekday as circles",
    Role.LABEL: "what is predicted",
    Role.WEIGHT: "weight of a row",
    Role.LEFT_OUT: "",
}


@dataclass(frozen=True)
class Facts:
    """What a look at a column found.

    Attributes:
      name: The column.
      kind: What its values are.
      rows: Rows of the table.
      missing: How many of them have no value.
      sampled: Rows of the sample with a value.
      distinct: Different values in the sample.
      values: Values of the sample with their numbers of rows, the most frequent first; at most
        1,000, none of vectors.
      minimum: Smallest value of all rows, also of vectors; None of text. Of times in seconds since
        the Unix epoch.
      maximum: The largest.
      skewness: Third standardized moment of the sample; 0 where there is none.
      words: Mean number of words; 0 of what is no text.
      length: Values of a vector; 1 otherwise.
      exact: Whether 32-bit floats hold the values: whole numbers exactly, others without overflow
        and apart, as times that may be absent; of vectors also whether all have the same length and
        no value is absent.
      integral: Whether the values of vectors are whole numbers.
      zone: Whether times say their zone.
    """

    name: str
    kind: Kind
    rows: int
    missing: int
    sampled: int
    distinct: int
    values: tuple[tuple[str, int], ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    skewness: float = 0.0
    words: float = 0.0
    length: int = 1
    exact: bool = True
    integral: bool = False
    zone: bool = True

    @property
    def share_missing(self) -> float:
        """Share of the rows without a value."""
        return self.missing / self.rows if self.rows else 1.0


@dataclass(frozen=True)
class Column:
    """A column with its role.

    Attributes:
      facts: What was found.
      role: What becomes of it.
      why: Reason, in a few words.
      guess: Whether it could well be otherwise; `how` says how to change it.
    """

    facts: Facts
    role: Role
    why: str
    guess: str = ""

    @property
    def name(self) -> str:
        """The column's name."""
        return self.facts.name

    @property
    def is_feature(self) -> bool:
        """Whether the model reads it."""
        return self.role not in (Role.LABEL, Role.WEIGHT, Role.LEFT_OUT)

    def with_role(self, role: Role, why: str) -> Column:
        """The same column with another role."""
        return replace(self, role=role, why=why, guess="")


def allowed_roles(facts: Facts) -> tuple[Role, ...]:
    """The roles that a column of these values can have, besides label and time."""
    by_kind = {
        Kind.TEXT: (Role.CATEGORY,),
        Kind.INTEGER: (Role.NUMBER, Role.LOGARITHM, Role.SKEWED, Role.CODE),
        Kind.NUMBER: (Role.NUMBER, Role.LOGARITHM, Role.SKEWED),
        Kind.BOOLEAN: (Role.NUMBER,),
        Kind.TIME: (Role.TIME,) if facts.exact else (),
        Kind.VECTOR: (Role.SHARES, Role.VECTOR) if _counts(facts) else (Role.VECTOR,),
        Kind.NOTHING: (),
    }
    roles = by_kind[facts.kind]
    if facts.kind is Kind.VECTOR and (facts.missing or not facts.exact or facts.length < 2):
        roles = ()
    if facts.kind is Kind.NUMBER and not facts.exact:
        roles = ()
    if facts.missing or facts.distinct > _MOST_CODES * 10:
        # A whole number may be absent only as a float, and codes are listed in the code.
        roles = tuple(role for role in roles if role is not Role.CODE)
    if facts.minimum is None or facts.minimum <= 0:
        roles = tuple(role for role in roles if role is not Role.LOGARITHM)
    return (*roles, Role.LEFT_OUT)


def decide(facts: Facts) -> Column:
    """Chooses the role of a column that is neither label nor time.

    Example:
      >>> decide(Facts("fare", Kind.NUMBER, 100, 0, 100, 80)).role
      <Role.NUMBER: 'number'>
    """
    if facts.kind is Kind.NOTHING:
        return Column(facts, Role.LEFT_OUT, "it has no value")
    if facts.kind is not Kind.VECTOR and facts.distinct <= 1 and not facts.missing:
        return Column(facts, Role.LEFT_OUT, f"constant: {_first(facts)}")
    try:
        check_column(facts.name)
    except ValueError as error:
        return Column(facts, Role.LEFT_OUT, str(error))
    decisions = {
        Kind.TEXT: _of_text,
        Kind.INTEGER: _of_integer,
        Kind.NUMBER: _of_number,
        Kind.BOOLEAN: lambda facts: Column(facts, Role.NUMBER, "true is 1, false is 0"),
        Kind.TIME: _of_time,
        Kind.VECTOR: _of_vector,
    }
    return decisions[facts.kind](facts)


def _of_text(facts: Facts) -> Column:
    own = facts.distinct / max(1, facts.sampled)
    if own > _IDENTIFYING and facts.sampled > _FEW_ROWS:
        why = "an identifier: nearly every row has a value of its own"
        return Column(facts, Role.LEFT_OUT, why, "identifier or category?")
    if facts.words > _WORDS and facts.distinct > _MOST_CODES * 5:
        why = "free text, which TFLite's built-in operators cannot split"
        return Column(facts, Role.LEFT_OUT, why, "free text or category?")
    if facts.distinct > MOST_CATEGORIES:
        guess = "category or identifier?"
        return Column(facts, Role.CATEGORY, f"more than {MOST_CATEGORIES:,} categories", guess)
    return Column(facts, Role.CATEGORY, f"{facts.distinct:,} categories")


def _of_integer(facts: Facts) -> Column:
    own = facts.distinct / max(1, facts.sampled)
    named = bool(_CODE_NAME.search(facts.name))
    if own > _IDENTIFYING and facts.sampled > _FEW_ROWS and (named or not facts.exact):
        why = "an identifier: nearly every row has a value of its own"
        return Column(facts, Role.LEFT_OUT, why, "identifier or number?")
    numbering = facts.maximum is not None and facts.minimum is not None
    numbering = numbering and facts.maximum - facts.minimum == facts.rows - 1  # type: ignore[operator]
    if own > _IDENTIFYING and numbering and not facts.missing:
        return Column(facts, Role.LEFT_OUT, "it numbers the rows", "identifier or number?")
    if not facts.exact:
        why = "whole numbers that 32-bit floats cannot hold: store them as text if they are codes"
        return Column(facts, Role.LEFT_OUT, why, "code or number?")
    if Role.CODE in allowed_roles(facts) and facts.distinct <= _MOST_CODES and named:
        why = f"{facts.distinct} whole numbers, and a name of codes"
        return Column(facts, Role.CODE, why, "code or number?")
    column = _of_number(facts)
    if facts.distinct <= _MOST_CODES or named:
        return replace(column, guess="number or code?")
    return column


def _of_number(facts: Facts) -> Column:
    if not facts.exact:
        why = "numbers that are infinite, or that 32-bit floats cannot tell apart: scale them"
        return Column(facts, Role.LEFT_OUT, why)
    if Role.LOGARITHM in allowed_roles(facts) and facts.skewness > _FACTORS:
        why = f"positive and skewed ({facts.skewness:.1f})"
        return Column(facts, Role.LOGARITHM, why)
    if abs(facts.skewness) > _SKEWED and facts.distinct > _MOST_CODES:
        return Column(facts, Role.SKEWED, f"skewed ({facts.skewness:.0f})")
    return Column(facts, Role.NUMBER, "a number")


def _of_time(facts: Facts) -> Column:
    if not facts.exact:
        why = "times that may be absent are 32-bit floats, which cannot tell these apart: fill them"
        return Column(facts, Role.LEFT_OUT, why)
    return Column(facts, Role.TIME, "a time", "is it known when a prediction is asked for?")


def _of_vector(facts: Facts) -> Column:
    if facts.missing or not facts.exact:
        why = (
            "vectors that are absent, differ in length, or hold values that are not finite or that "
            "32-bit floats cannot tell apart"
        )
        return Column(facts, Role.LEFT_OUT, why)
    if facts.length < 2:
        return Column(facts, Role.LEFT_OUT, "lists of one value or none: write the value itself")
    shown = f"{facts.length:,} values a row"
    if _counts(facts):
        return Column(facts, Role.SHARES, f"{shown}, whole numbers to {facts.maximum:,.0f}")
    return Column(facts, Role.VECTOR, shown)


def _counts(facts: Facts) -> bool:
    """Whether vectors hold numbers of one unit from 0 on, such as grey values."""
    return facts.integral and facts.minimum == 0 and bool(facts.maximum)


def _first(facts: Facts) -> str:
    return facts.values[0][0] if facts.values else "the same in every row"
