"""Tests of the facts that one pass over a table finds."""

import json
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestration.new_model import reading
from orchestration.new_model.columns import Kind, Role, allowed_roles, decide
from orchestration.new_model.reading import Look, look, nearly_numbers
from storage.errors import DataError
from storage.spans import DataSource


def look_at(folder: Path, text: str, **source: Any) -> Look:
    (folder / "rows.csv").write_text(text)
    return look(DataSource(str(folder / "rows.csv"), **source))


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_look_samples_times_of_any_unit_alike(tmp_path: Path, unit: str) -> None:
    path = tmp_path / "rows.parquet"
    times = pa.array([datetime(2013, 1, 31), datetime(2013, 2, 1)], pa.timestamp(unit))
    pq.write_table(pa.table({"a": times}), path)
    sample = look(DataSource(str(path))).sample["a"]
    assert (sample.astype("int64") // 10**9).tolist() == [1359590400, 1359676800]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["1", "-2"], Kind.INTEGER),
        (["1", "2.5"], Kind.NUMBER),
        (["1e5", "2"], Kind.NUMBER),
        (["true", "False"], Kind.BOOLEAN),
        (["2013-01-31", "2013-02-01"], Kind.TIME),
        (["2013-01-31 23:59:00", "2013-02-01T00:00:00"], Kind.TIME),
        (["2013-01-31 23:59:00Z", "2013-02-01 00:00:00+02:00"], Kind.TIME),
        (["2013-01-31 23:59:00.123", "2013-02-01 00:00:00.5"], Kind.TIME),
        (["2013-01-31 23:59:00.123456789", "2013-02-01 00:00:00.000000001"], Kind.TIME),
        (["02139", "10001"], Kind.TEXT),
        (["1", "one"], Kind.TEXT),
        (["", ""], Kind.NOTHING),
    ],
)
def test_look_finds_the_kind_of_text(tmp_path: Path, values: list[str], kind: Kind) -> None:
    found = look_at(tmp_path, "a,b\n" + "".join(f"{value},x\n" for value in values))
    assert found.facts["a"].kind is kind


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        (pa.array(["a", "b"]).dictionary_encode(), Kind.TEXT),
        (pa.array(["a", "b"], pa.large_string()), Kind.TEXT),
        (pa.array([1, 2], pa.uint8()), Kind.INTEGER),
        (pa.array([1, 2], pa.uint64()), Kind.INTEGER),
        (pa.array([2**63, 2], pa.uint64()), Kind.NUMBER),
        # What Parquet says is text is text, whatever it looks like.
        (pa.array(["1", "2"]), Kind.TEXT),
        (pa.array(["true", "False"]), Kind.TEXT),
        (pa.array(["2013-01-31", "2013-02-01"]), Kind.TEXT),
        (pa.array([1.5, 2], pa.float32()), Kind.NUMBER),
        (pa.array([Decimal("1.5"), None]), Kind.NUMBER),
        (pa.array([True, False]), Kind.BOOLEAN),
        (pa.array([date(2013, 1, 31), None]), Kind.TIME),
        (pa.array([datetime(2013, 1, 31), None]), Kind.TIME),
        (pa.array([[1.0, 2.0], [3.0, 4.0]]), Kind.VECTOR),
        (pa.array([[1, 2], [3, 4]], pa.list_(pa.uint8(), 2)), Kind.VECTOR),
        (pa.nulls(2), Kind.NOTHING),
    ],
)
def test_look_finds_the_kind_of_arrow_types(tmp_path: Path, array: pa.Array, kind: Kind) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"a": array}), path)
    assert look(DataSource(str(path))).facts["a"].kind is kind


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["1", "2"], Kind.TEXT),
        (["2013-01-31 23:59:00.5", "2013-02-01"], Kind.TIME),
        ([True, False], Kind.BOOLEAN),
        ([1, 2.5], Kind.NUMBER),
    ],
)
def test_look_finds_the_kind_of_json(tmp_path: Path, values: list[Any], kind: Kind) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"a": value}) + "\n" for value in values))
    assert look(DataSource(str(path))).facts["a"].kind is kind


SECONDS = [1359590400 + number for number in range(200)]


@pytest.mark.parametrize(
    "array",
    [
        pa.array([*SECONDS, None], pa.timestamp("s")),
        pa.array([second + 0.25 for second in SECONDS]),
        pa.array([number * 1e-300 for number in range(200)]),
    ],
    ids=["times that may be absent", "seconds with fractions", "tiny numbers"],
)
def test_look_tells_numbers_that_32_bits_cannot_tell_apart(tmp_path: Path, array: pa.Array) -> None:
    """SpanExampleGen would refuse them."""
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"a": array}), path)
    facts = look(DataSource(str(path))).facts["a"]
    assert not facts.exact
    assert decide(facts).role is Role.LEFT_OUT
    assert allowed_roles(facts) == (Role.LEFT_OUT,)


def test_look_counts_absent_and_different_values(tmp_path: Path) -> None:
    facts = look_at(tmp_path, "a,b\n1,x\n,y\n3,x\n3,NA\n").facts
    assert (facts["a"].rows, facts["a"].missing, facts["a"].distinct) == (4, 1, 2)
    assert (facts["a"].minimum, facts["a"].maximum) == (1, 3)
    assert facts["b"].values == (("x", 2), ("y", 1))
    assert facts["b"].missing == 1


@pytest.mark.parametrize(("value", "exact"), [("16777216", True), ("16777217", False)])
def test_look_tells_whole_numbers_that_floats_cannot_hold(
    tmp_path: Path, value: str, exact: bool
) -> None:
    assert look_at(tmp_path, f"a\n{value}\n1\n").facts["a"].exact is exact


def test_look_tells_numbers_that_32_bits_cannot_hold(tmp_path: Path) -> None:
    assert not look_at(tmp_path, "a\n1e300\n1\n").facts["a"].exact


def test_look_counts_rows_by_the_span_of_their_time(tmp_path: Path) -> None:
    text = "time,a\n2013-01-31 23:59:59,1\n2013-02-01 00:00:00,2\n2013-02-02 00:00:00,3\n"
    assert look_at(tmp_path, text, time_column="time").rows == {201301: 1, 201302: 2}


def test_look_samples_a_large_table_the_same_way_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "SAMPLE_ROWS", 1000)
    text = "a\n" + "".join(f"{number}\n" for number in range(20_000))
    first, second = look_at(tmp_path, text), look_at(tmp_path, text)
    assert 400 < len(first.sample) <= 1000
    assert first.count == 20_000
    pd.testing.assert_frame_equal(first.sample, second.sample)
    assert abs(first.sample["a"].mean() - 10_000) < 1000


@pytest.mark.parametrize("other", [pa.array(["x"]), pa.array([True]), pa.array([[1.0]])])
def test_look_refuses_a_column_of_another_type_in_one_file(tmp_path: Path, other: pa.Array) -> None:
    pq.write_table(pa.table({"a": [1.5]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"a": other}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"b.parquet: column 'a' is \w+, and number in other files"):
        look(DataSource(str(tmp_path)))


def test_look_refuses_a_file_with_other_columns(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("a,b\n1,2\n")
    (tmp_path / "2.csv").write_text("a,c\n1,2\n")
    with pytest.raises(DataError, match=r"2\.csv.*'b'"):
        look(DataSource(str(tmp_path)))


def test_look_refuses_a_table_without_rows(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no row"):
        look_at(tmp_path, "a,b\n")


@pytest.mark.parametrize(
    ("values", "found"),
    [(["1", "2", "3", "4", "5", "n/a"], "n/a"), (["a", "b"], ""), (["1", "2"], ""), ([], "")],
)
def test_nearly_numbers_names_the_value_that_is_none(values: list[str], found: str) -> None:
    assert nearly_numbers(pd.Series(values, dtype=object)) == found
