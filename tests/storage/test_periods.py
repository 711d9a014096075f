"""Tests how spans are numbered and which time each covers."""

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.periods import SpanPeriod

CALENDAR = [SpanPeriod.YEAR, SpanPeriod.MONTH, SpanPeriod.DAY, SpanPeriod.HOUR]
TIMES = st.datetimes(datetime(1902, 1, 1), datetime(2199, 12, 31)).map(
    lambda time: int(time.replace(tzinfo=UTC).timestamp())
)


@pytest.mark.parametrize(
    ("period", "number", "expected"),
    [
        (SpanPeriod.YEAR, 2013, [2011, 2012]),
        (SpanPeriod.MONTH, 201301, [201211, 201212]),
        (SpanPeriod.DAY, 20120301, [20120228, 20120229]),
        (SpanPeriod.HOUR, 2013010101, [2012123123, 2013010100]),
        (SpanPeriod.NUMBER, 1, [0]),
    ],
)
def test_before_crosses_borders_of_the_calendar(
    period: SpanPeriod, number: int, expected: list[int]
) -> None:
    assert period.before(number, 2) == expected


@pytest.mark.parametrize(
    ("period", "number"),
    [
        (SpanPeriod.YEAR, 0),
        (SpanPeriod.YEAR, 10_000),
        (SpanPeriod.MONTH, 201300),
        (SpanPeriod.MONTH, 201313),
        (SpanPeriod.MONTH, 7),
        (SpanPeriod.MONTH, 20130101),
        (SpanPeriod.DAY, 20130229),
        (SpanPeriod.DAY, 201301),
        (SpanPeriod.HOUR, 2013010124),
        (SpanPeriod.NUMBER, -1),
    ],
)
def test_is_number_refuses_what_no_calendar_has(period: SpanPeriod, number: int) -> None:
    assert not period.is_number(number)


@pytest.mark.parametrize("period", CALENDAR)
@given(seconds=TIMES)
def test_time_lies_within_the_bounds_of_its_span(period: SpanPeriod, seconds: int) -> None:
    (number,) = period.numbers_of(np.array([seconds]))
    assert period.is_number(int(number))
    begin, end = period.bounds(int(number))
    assert begin <= seconds < end


@pytest.mark.parametrize("period", CALENDAR)
@given(seconds=TIMES, count=st.integers(1, 50))
def test_between_is_what_comes_before_and_the_span_itself(
    period: SpanPeriod, seconds: int, count: int
) -> None:
    (number,) = period.numbers_of(np.array([seconds])).tolist()
    earlier = period.before(number, count)
    assert len(earlier) == count
    assert earlier == sorted(earlier)
    assert period.between(earlier[0], number) == [*earlier, number]


def test_bounds_are_those_of_utc() -> None:
    def utc(year: int, month: int, day: int) -> int:
        return int(datetime(year, month, day, tzinfo=UTC).timestamp())

    assert SpanPeriod.MONTH.bounds(201312) == (utc(2013, 12, 1), utc(2014, 1, 1))
    with pytest.raises(ValueError, match="have no time"):
        SpanPeriod.NUMBER.bounds(3)
