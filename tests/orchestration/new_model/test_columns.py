"""Tests of the roles that columns get."""

from typing import Any

import pytest

from orchestration.new_model.columns import Facts, Kind, Role, allowed_roles, decide


def facts(kind: Kind, name: str = "x", **others: Any) -> Facts:
    given = {"rows": 1000, "missing": 0, "sampled": 1000, "distinct": 500, "maximum": 9.0}
    return Facts(name, kind, **(given | others))


@pytest.mark.parametrize(
    ("column", "role"),
    [
        (facts(Kind.TEXT, distinct=12, words=1.0), Role.CATEGORY),
        (facts(Kind.TEXT, distinct=999, words=1.0), Role.LEFT_OUT),
        (facts(Kind.TEXT, distinct=900, words=8.0), Role.LEFT_OUT),
        (facts(Kind.TEXT, distinct=1), Role.LEFT_OUT),
        (facts(Kind.NUMBER), Role.NUMBER),
        (facts(Kind.NUMBER, skewness=8.0), Role.SKEWED),
        (facts(Kind.NUMBER, skewness=8.0, minimum=0.1), Role.LOGARITHM),
        (facts(Kind.NUMBER, skewness=1.5, minimum=0.1), Role.LOGARITHM),
        (facts(Kind.NUMBER, skewness=1.5, minimum=0.0), Role.NUMBER),
        (facts(Kind.NUMBER, exact=False), Role.LEFT_OUT),
        (facts(Kind.INTEGER), Role.NUMBER),
        (facts(Kind.INTEGER, distinct=1000, name="trip_id"), Role.LEFT_OUT),
        (facts(Kind.INTEGER, distinct=1000, name="distance"), Role.NUMBER),
        (facts(Kind.INTEGER, exact=False), Role.LEFT_OUT),
        (facts(Kind.INTEGER, distinct=1000, minimum=1, maximum=1000.0), Role.LEFT_OUT),
        (facts(Kind.INTEGER, distinct=5, name="payment_type"), Role.CODE),
        (facts(Kind.INTEGER, distinct=5, name="payment_type", missing=3), Role.NUMBER),
        (facts(Kind.BOOLEAN, distinct=2), Role.NUMBER),
        (facts(Kind.TIME), Role.TIME),
        (facts(Kind.VECTOR, distinct=0, length=64), Role.VECTOR),
        (facts(Kind.VECTOR, distinct=0, length=2, integral=True, minimum=0.0), Role.SHARES),
        (facts(Kind.VECTOR, distinct=0, length=2, integral=True, minimum=-1.0), Role.VECTOR),
        (facts(Kind.VECTOR, distinct=0, exact=False), Role.LEFT_OUT),
        (facts(Kind.VECTOR, distinct=0, missing=1), Role.LEFT_OUT),
        (facts(Kind.NUMBER, name="two\nlines"), Role.LEFT_OUT),
        (facts(Kind.NOTHING, distinct=0, missing=1000), Role.LEFT_OUT),
    ],
)
def test_decide_chooses_a_role_and_says_why(column: Facts, role: Role) -> None:
    decided = decide(column)
    assert decided.role is role
    assert decided.why


@pytest.mark.parametrize(
    "column",
    [
        facts(Kind.TEXT, distinct=999),
        facts(Kind.INTEGER, distinct=5, name="payment_type"),
        facts(Kind.INTEGER, distinct=5),
        facts(Kind.TIME),
    ],
)
def test_decide_tells_a_guess_with_what_else_it_may_be(column: Facts) -> None:
    decided = decide(column)
    assert decided.guess
    assert decided.role in allowed_roles(column)
    assert len(allowed_roles(column)) > 1
