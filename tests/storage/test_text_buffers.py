"""Tests that tables written as text are read as the same values, by others' readers and by ours."""

from __future__ import annotations

import csv
import datetime
import decimal
import gzip
import io
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from pyarrow import fs

from storage.json_files import LINE
from storage.table_formats import TextFormat
from storage.tables import iter_batches
from storage.text_buffers import CsvBuffer, JsonLinesBuffer, TextBuffer, TextError

_texts = st.text(
    st.characters(blacklist_categories=["Cs"], blacklist_characters="\0")
    | st.sampled_from('",;\n\r'),
    max_size=6,
)
# The first name may not begin with what UTF-8 files may begin with.
_name = _texts.filter(lambda text: text.strip() and not text.startswith("\ufeff"))
_names = st.lists(_name, min_size=2, max_size=4, unique_by=str.casefold)


def written(buffer: TextBuffer, *tables: pa.Table) -> bytes:
    for table in tables:
        buffer.add(table)
    assert buffer.rows == sum(map(len, tables))
    return buffer.close()


def as_csv(table: pa.Table, separator: str = ",", **options: Any) -> bytes:
    return written(CsvBuffer(table.schema, separator, **options), table)


def as_json(table: pa.Table, **options: Any) -> bytes:
    return written(JsonLinesBuffer(table.schema, **options), table)


def read_here(content: bytes, separator: str) -> list[dict[str, Any]]:
    """What is read of a CSV file as texts."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.csv")
        path.write_bytes(content)
        batches = iter_batches(
            str(path), fs.LocalFileSystem(), {}, TextFormat(separator, null_values=())
        )
        return [row for batch in batches for row in batch.to_pylist()]


@given(_names, st.data(), st.sampled_from(",;\t|^]-\\"))
def test_csv_buffer_writes_texts_that_all_readers_read(
    names: list[str], data: st.DataObject, separator: str
) -> None:
    cell = st.none() | _texts | st.just(separator)
    rows = data.draw(st.lists(st.lists(cell, min_size=len(names), max_size=len(names))))
    columns = [pa.array([row[place] for row in rows], pa.string()) for place in range(len(names))]
    content = as_csv(pa.table(dict(zip(names, columns, strict=True))), separator)
    expected = [[cell or "" for cell in row] for row in rows]
    assume(names not in expected)  # We refuse a header among the rows.
    reader = csv.reader(io.StringIO(content.decode(), newline=""), delimiter=separator)
    assert [*reader] == [names, *expected]
    assert [[*row.values()] for row in read_here(content, separator)] == expected


def test_csv_with_backslashes_between_quoted_values_is_read() -> None:
    content = as_csv(pa.table({"a": ["x\\y"], "b\\": ["z"]}), "\\")
    assert content == b'a\\"b\\"\n"x\\y"\\z\n'
    assert read_here(content, "\\") == [{"a": "x\\y", "b\\": "z"}]


@given(st.lists(st.floats(width=32) | st.none()), st.lists(st.floats()))
def test_csv_buffer_writes_numbers_without_a_loss(
    singles: list[float | None], doubles: list[float]
) -> None:
    for values, kind in ((singles, pa.float32()), (doubles, pa.float64())):
        table = pa.table({"x": pa.array(values, kind), "y": pa.nulls(len(values))})
        _, *lines = as_csv(table).decode().splitlines()
        found = [line.removesuffix(",") for line in lines]
        read = pa.array([float(text) if text else None for text in found], kind)
        assert str(read.to_pylist()) == str(pa.array(values, kind).to_pylist())
        # So that readers who guess types see that it is no whole number.
        assert not any(text.lstrip("-").isdigit() for text in found)


def test_csv_buffer_tells_an_empty_text_from_an_absent_one() -> None:
    table = pa.table({"a": ["", None], "b": [None, ""]})
    assert as_csv(table) == b'a,b\n"",\n,""\n'
    assert as_csv(table, empty="") == b"a,b\n,\n,\n"


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([1, None], pa.uint64(), ["1", ""]),
        ([True, False], pa.bool_(), ["true", "false"]),
        ([datetime.date(2013, 1, 31)], pa.date32(), ["2013-01-31"]),
        ([10**9 + 1], pa.timestamp("ns"), ["1970-01-01 00:00:01.000000001"]),
        ([0], pa.timestamp("s", "America/New_York"), ["1970-01-01 00:00:00Z"]),
        ([decimal.Decimal("1.50"), None], pa.decimal128(6, 2), ["1.50", ""]),
        ([b"caf\xc3\xa9"], pa.binary(), ["café"]),
        ([np.float16(1.5)], pa.float16(), ["1.5"]),
        ([[1.0, None], None], pa.list_(pa.float32()), ['"[1.0, null]"', ""]),
        ([[1, 2], None, [3, 4]], pa.list_(pa.int8(), 2), ['"[1, 2]"', "", '"[3, 4]"']),
        ([{"a": "x"}], pa.struct([("a", pa.string())]), ['"{""a"": ""x""}"']),
        ([{}, None], pa.struct([]), ["{}", ""]),
        ([[["é"], []], []], pa.list_(pa.large_list(pa.string())), ['"[[""é""], []]"', "[]"]),
        ([datetime.time(7, 30)], pa.time32("s"), ["07:30:00"]),
    ],
)
def test_csv_buffer_writes_all_types(values: list[Any], kind: pa.DataType, expected: Any) -> None:
    table = pa.table({"x": pa.array(values, kind), "y": pa.array(["z"] * len(values))})
    lines = as_csv(table).decode().splitlines()
    assert lines == ["x,y", *(f"{text},z" for text in expected)]
    dictionary = pa.table({"x": pa.array(["b", None]).dictionary_encode()})
    assert as_csv(dictionary) == b"x\nb\n\n"


_members: dict[str, Any] = {
    "text": st.none() | _texts,
    "Two words": st.none() | st.floats(),
    "list": st.none() | st.lists(st.none() | st.floats(width=32)),
    "pair": st.none() | st.tuples(st.integers(-9, 9), st.integers(-9, 9)).map(list),
    "deep": st.none()
    | st.fixed_dictionaries({"a": st.none() | _texts, "b": st.lists(st.none() | _texts)}),
    'a "b"\\': st.none() | st.booleans(),
}
_kinds = {
    "text": pa.string(),
    "Two words": pa.float64(),
    "list": pa.list_(pa.float32()),
    "pair": pa.list_(pa.int64(), 2),
    "deep": pa.struct([("a", pa.string()), ("b", pa.large_list(pa.string()))]),
    'a "b"\\': pa.bool_(),
}


def _finite(value: Any) -> Any:
    """What JSON has of a value."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return [_finite(inner) for inner in value] if isinstance(value, list) else value


@given(st.lists(st.fixed_dictionaries(_members), min_size=1))
def test_json_lines_buffer_writes_the_values(rows: list[dict[str, Any]]) -> None:
    table = pa.table({n: pa.array([row[n] for row in rows], k) for n, k in _kinds.items()})
    expected = [{name: _finite(value) for name, value in row.items()} for row in rows]
    for part in (table, pa.concat_tables([table, table]).slice(len(rows))):
        lines = as_json(part).decode().split("\n")
        assert lines.pop() == ""
        found = [json.loads(line) for line in lines]
        for row in found:  # A 32-bit float has fewer digits.
            row["list"] = row["list"] and [v if v is None else np.float32(v) for v in row["list"]]
        assert found == expected


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | _texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(st.dictionaries(_texts, _json, max_size=3), min_size=1), st.sampled_from([" ", ""]))
@example([{}, {"a": "{"}, {"a": {}}], "")
def test_json_lines_buffer_keeps_lines_as_they_are(rows: list[dict[str, Any]], space: str) -> None:
    lines = [f"{space}{json.dumps(row, ensure_ascii=not space)}{space}\r" for row in rows]
    table = pa.table({LINE: lines, "prediction.p": pa.array([0.5] * len(rows), pa.float32())})
    content = as_json(table).decode().split("\n")[:-1]
    for line, source, row in zip(content, lines, rows, strict=True):
        assert json.loads(line) == {**row, "prediction.p": 0.5}
        assert line.startswith(source.strip()[:-1].rstrip())


def test_json_lines_buffer_refuses_a_name_that_a_later_row_has() -> None:
    table = pa.table({LINE: ['{"b": "\\"p\\""}', '{"a": 1, "p": 2}'], "p": [1, 2]})
    with pytest.raises(TextError, match="a row has 'p', which the first rows do not have"):
        as_json(table)
    assert as_json(table.slice(0, 1)) == b'{"b": "\\"p\\"", "p": 1}\n'


@pytest.mark.parametrize("key", ["a/é", "\\u0061/é", "a\\/é", "a/\\u00e9"])
def test_json_lines_buffer_refuses_a_name_however_it_is_escaped(key: str) -> None:
    table = pa.table({LINE: [f'{{"{key}": 1}}'], "a/é": [1]})
    with pytest.raises(TextError, match="a row has 'a/é', which the first rows do not have"):
        as_json(table)


@pytest.mark.parametrize("depth", [3, 100_000])
def test_json_lines_buffer_writes_or_refuses_a_deep_row(depth: int) -> None:
    table = pa.table({LINE: [f'{{"b": {"[" * depth}"p"{"]" * depth}}}'], "p": [1]})
    if depth == 3:
        assert as_json(table) == b'{"b": [[["p"]]], "p": 1}\n'
        return
    with pytest.raises(TextError, match="is nested too deep: write Parquet"):
        as_json(table)


@pytest.mark.parametrize("make", [as_csv, as_json])
def test_text_buffer_packs_the_same_rows_to_the_same_bytes(make: Any) -> None:
    table = pa.table({"a": [1.5] * 999})
    packed = make(table, packed=True)
    assert gzip.decompress(packed) == make(table)
    assert packed == make(table, packed=True)
    assert len(packed) < len(make(table)) / 9


@pytest.mark.parametrize("make", [as_csv, as_json])
def test_text_buffer_writes_other_encodings(make: Any) -> None:
    table = pa.table({"é": ["ü", "a"]})
    assert make(table, encoding="latin-1").decode("latin-1") == make(table).decode()
    marked = make(pa.concat_tables([table, table]), encoding="utf-8-sig")
    assert marked.startswith(b"\xef\xbb\xbf")
    assert marked.count(b"\xef\xbb\xbf") == 1
    with pytest.raises(TextError, match=r"'日' cannot be written as latin-1 \(data.encoding\)"):
        make(pa.table({"a": ["日"]}), encoding="latin-1")


@pytest.mark.parametrize("make", [as_csv, as_json])
@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([1], pa.duration("s")), "column 'x' is duration.s., which text has no form for"),
        (pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())), "column 'x' is map"),
        (pa.array([{"a": [b"\xff"]}]), "column 'x' has bytes that are no UTF-8 text"),
        (pa.array([b"\xff"]).view(pa.string()), "column 'x' has bytes that are no UTF-8 text"),
    ],
)
def test_text_buffer_refuses_what_text_does_not_hold(
    make: Any, column: pa.Array, message: str
) -> None:
    with pytest.raises(TextError, match=message):
        make(pa.table({"a": ["fine"], "x": column}))
