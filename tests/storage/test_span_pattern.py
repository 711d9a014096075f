"""Tests the patterns by which paths of spans are read."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import DataError
from storage.periods import SpanPeriod
from storage.span_pattern import SpanPattern


def groups_of(pattern: SpanPattern, path: str) -> dict[str, str] | None:
    names = path.split("/")
    matches = [level.fullmatch(name) for level, name in zip(pattern.levels, names, strict=True)]
    if not all(matches):
        return None
    return {name: text for match in matches if match for name, text in match.groupdict().items()}


@pytest.mark.parametrize(
    ("text", "path", "period", "number", "version"),
    [
        ("span-{YYYY}{MM}", "span-201301", SpanPeriod.MONTH, 201301, -1),
        ("{YYYY}-{MM}-{DD}", "2012-02-29", SpanPeriod.DAY, 20120229, -1),
        ("year={YYYY}/month={MM}", "year=2013/month=01", SpanPeriod.MONTH, 201301, -1),
        ("year={YYYY}/month={MM}", "year=2013/month=1", SpanPeriod.MONTH, 201301, -1),
        ("y={YYYY}/m={MM}/d={DD}", "y=2013/m=10/d=2", SpanPeriod.DAY, 20131002, -1),
        ("{YYYY}/{MM}/{DD}/{HH}", "2013/01/02/03", SpanPeriod.HOUR, 2013010203, -1),
        ("{DD}.{MM}.{YYYY}", "02.01.2013", SpanPeriod.DAY, 20130102, -1),
        ("span-{SPAN}/version-{VERSION}", "span-7/version-12", SpanPeriod.NUMBER, 7, 12),
        ("span-{SPAN:3}", "span-007", SpanPeriod.NUMBER, 7, -1),
        ("sales-{YYYY}*.csv.gz", "sales-2013-all.csv.gz", SpanPeriod.YEAR, 2013, -1),
        ("a+b-{SPAN}", "a+b-1", SpanPeriod.NUMBER, 1, -1),
    ],
)
def test_parse_reads_number_and_version_off_a_path(
    text: str, path: str, period: SpanPeriod, number: int, version: int
) -> None:
    pattern = SpanPattern.parse(text)
    groups = groups_of(pattern, path)
    assert groups is not None
    assert (pattern.period, pattern.number(groups)) == (period, number)
    assert pattern.version(groups) == version


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("span-{YYYY}{MM}", "span-2013-01"),
        ("span-{YYYY}{MM}", "span-\uff12\uff10\uff11\uff1301"),
        ("span-{YYYY}{MM}", "span-201301\n"),
        ("span-{SPAN:3}", "span-7"),
        ("{YYYY}-{MM}", "2013-1"),
        ("year={YYYY}", "year=13"),
        ("a.b-{SPAN}", "axb-1"),
    ],
)
def test_level_matches_no_other_name(text: str, path: str) -> None:
    assert groups_of(SpanPattern.parse(text), path) is None


@pytest.mark.parametrize("month", ["00", "13", "99"])
def test_number_is_none_where_the_calendar_has_no_such_span(month: str) -> None:
    assert SpanPattern.parse("{YYYY}{MM}").number({"YYYY": "2013", "MM": month}) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "'' is no name"),
        ("span", "{SPAN} alone is expected"),
        ("{MM}", "{SPAN} alone is expected"),
        ("{YYYY}-{DD}", "{SPAN} alone is expected"),
        ("{YYYY}-{SPAN}", "{SPAN} alone is expected"),
        ("{VERSION}", "{SPAN} alone is expected"),
        ("{YYYY}/{YYYY}", "{YYYY} is there twice"),
        ("{yyyy}", "{yyyy} is no placeholder"),
        ("{YYYY:4}", "{YYYY:4} is no placeholder"),
        ("{SPAN:x}", "{SPAN:x} is no placeholder"),
        ("{SPAN:0}", "{SPAN:0} is no placeholder"),
        ("{}", "{} is no placeholder"),
        ("/data/{SPAN}", "'' is no name"),
        ("../{SPAN}", "'..' is no name"),
        ("{SPAN}/", "'' is no name"),
    ],
)
def test_parse_refuses_a_pattern_that_says_no_span(text: str, reason: str) -> None:
    with pytest.raises(DataError, match=re.escape(reason)):
        SpanPattern.parse(text)


@given(
    text=st.sampled_from(["span-{YYYY}{MM}", "y={YYYY}/m={MM}", "{MM}-{YYYY}"]),
    year=st.integers(1, 9999),
    month=st.integers(1, 12),
)
def test_name_is_the_path_of_its_number(text: str, year: int, month: int) -> None:
    pattern = SpanPattern.parse(text)
    number = year * 100 + month
    groups = groups_of(pattern, pattern.name(number))
    assert groups is not None
    assert pattern.number(groups) == number
