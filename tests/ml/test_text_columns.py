"""Strings of a CSV file as types of a schema, row by row."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from ml.text_columns import TextColumns

TYPES = {
    "number": pa.float64(),
    "count": pa.int64(),
    "switch": pa.bool_(),
    "time": pa.timestamp("us", "UTC"),
    "text": pa.string(),
}


def parse(**columns: list[str]) -> tuple[dict[str, list[object]], dict[int, str]]:
    batch = pa.RecordBatch.from_arrays([pa.array(c) for c in columns.values()], [*columns])
    parsed, problems = TextColumns(TYPES, ("", "NA")).parse(batch)
    return parsed.to_pydict(), problems


def test_text_columns_reads_types_and_keeps_unknown_columns_as_written() -> None:
    found, problems = parse(
        number=[" 1e2 ", "NA"],
        count=["-7", ""],
        switch=["Yes", "0"],
        time=["2013-01-01 05:00:00Z", ""],
        text=["NA", "a"],
        code=["007", "NA"],
    )
    assert problems == {}
    assert found == {
        "number": [100.0, None],
        "count": [-7, None],
        "switch": [True, False],
        "time": [datetime(2013, 1, 1, 5, tzinfo=UTC), None],
        "text": [None, "a"],
        "code": ["007", "NA"],
    }


def test_text_columns_tells_the_first_problem_of_each_row() -> None:
    found, problems = parse(
        number=["1", "far", "3"], count=["1.5", "x", "3"], switch=["t", "f", "perhaps"]
    )
    assert problems == {
        0: "column 'count' is '1.5'; a whole number is expected",
        1: "column 'number' is 'far'; a number is expected",
        2: "column 'switch' is 'perhaps'; true or false is expected",
    }
    assert found["number"] == [1.0, None, 3.0]


@given(st.lists(st.one_of(st.floats().map(repr), st.text(max_size=3)), min_size=1))
def test_text_columns_parses_each_row_as_alone(texts: list[str]) -> None:
    found, problems = parse(number=texts)
    for row, text in enumerate(texts):
        alone, problem = parse(number=[text])
        assert problem == ({0: problems[row]} if row in problems else {})
        (value,), ours = alone["number"], found["number"][row]
        assert ours == value or (math.isnan(ours) and math.isnan(value))  # type: ignore[arg-type]
