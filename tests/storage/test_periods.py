"""Tests how spans are numbered and which time each covers."""

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.periods import Period

CALENDAR = [Period.YEAR, Period.MONTH, Period.DAY, Period.HOUR]
TIMES = st.datetimes(datetime(1902, 1, 1), datetime(2199, 12, 31)).map(
    lambda time: int(time.replace(tzinfo=UTC).timestamp())
)


@pytest.mark.parametrize(
    ("period", "number", "expected"),
    [
        (Period.YEAR, 2013, [2011, 2012]),
        (Period.MONTH, 201301, [201211, 201212]),
        (Period.DAY, 20120301, [20120228, 20120229]),
        (Period.HOUR, 2013010101, [2012123123, 2013010100]),
        (Period.NUMBER, 1, [0]),
    ],
)
def test_before_crosses_borders_of_the_calendar(
    period: Period, number: int, expected: list[int]
) -> None:
    assert period.before(number, 2) == expected


@pytest.mark.parametrize(
    ("period", "number"),
    [
        (Period.YEAR, 0),
        (Period.YEAR, 10_000),
        (Period.MONTH, 201300),
        (Period.MONTH, 201313),
        (Period.MONTH, 7),
        (Period.MONTH, 20130101),
        (Period.DAY, 20130229),
        (Period.DAY, 201301),
        (Period.HOUR, 2013010124),
        (Period.NUMBER, -1),
    ],
)
def test_is_number_refuses_what_no_calendar_has(period: Period, number: int) -> None:
    assert not period.is_number(number)


@pytest.mark.parametrize("period", CALENDAR)
@given(seconds=TIMES)
def test_time_lies_within_the_bounds_of_its_span(period: Period, seconds: int) -> None:
    (number,) = period.numbers_of(np.array([seconds]))
    assert period.is_number(int(number))
    bounds = period.bounds(int(number))
    assert bounds is not None
    assert bounds[0] + 86_400 <= seconds < bounds[1] - 86_400


@pytest.mark.parametrize("period", CALENDAR)
@given(seconds=TIMES, count=st.integers(1, 50))
def test_between_is_what_comes_before_and_the_span_itself(
    period: Period, seconds: int, count: int
) -> None:
    (number,) = period.numbers_of(np.array([seconds])).tolist()
    earlier = period.before(number, count)
    assert len(earlier) == count
    assert earlier == sorted(earlier)
    assert period.between(earlier[0], number) == [*earlier, number]


def test_bounds_are_a_day_wider_than_the_month() -> None:
    def utc(*parts: int) -> int:
        return int(datetime(*parts, tzinfo=UTC).timestamp())  # type: ignore[arg-type]

    assert Period.MONTH.bounds(201312) == (utc(2013, 11, 30), utc(2014, 1, 2))
    assert Period.NUMBER.bounds(3) is None
