"""Tests what is read of tables as people have them, and how the rest is refused."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import fs

from storage import csv_files, tables
from storage.errors import DataError
from storage.json_files import LINE, read_json
from storage.table_formats import Format, TextFormat
from storage.tables import as_parquet, iter_batches, read_schema, read_times

FILES = fs.LocalFileSystem()
TYPES = {"a": pa.int64(), "b": pa.string()}


def write(folder: Path, name: str, content: str | bytes, encoding: str = "utf-8") -> str:
    raw = content.encode(encoding) if isinstance(content, str) else content
    path = folder / name
    path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    return str(path)


def read(path: str, types: dict[str, pa.DataType] = TYPES, **text: Any) -> pa.Table:
    target = f"{path}.parquet"
    as_parquet(path, FILES, FILES, target, types, TextFormat(**text))
    return pq.read_table(target)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.parquet", Format.PARQUET),
        ("A.PQ", Format.PARQUET),
        ("a.csv", Format.CSV),
        ("a.TSV.gz", Format.CSV),
        ("a.jsonl.gz", Format.JSONL),
        ("a.ndjson", Format.JSONL),
        ("a.parquet.gz", None),
        ("a.json", None),
        ("csv", None),
        ("a.csv.bz2", None),
        ("a.csv\n", None),
    ],
)
def test_format_is_told_by_the_ending(name: str, expected: Format | None) -> None:
    assert Format.of(name) is expected


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.tsv", "a.jsonl", "a.jsonl.gz"])
def test_as_parquet_keeps_rows_types_and_absent_values(tmp_path: Path, name: str) -> None:
    rows: list[dict[str, Any]] = [
        {"a": 1, "b": "x"},
        {"a": None, "b": 'é \n " , y'},
        {"a": -3, "b": None},
    ]
    if "json" in name:
        content = "\n".join(json.dumps({k: v for k, v in r.items() if v is not None}) for r in rows)
    else:
        content = as_csv(rows, "\t" if "tsv" in name else ",")
    table = read(write(tmp_path, name, content))
    assert table.schema.types == list(TYPES.values())
    assert table.to_pylist() == rows


def as_csv(rows: list[dict[str, Any]], separator: str = ",") -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), delimiter=separator, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


@settings(deadline=None)
@given(
    values=st.lists(
        st.tuples(
            st.none() | st.integers(-(2**63), 2**63 - 1),
            st.none()
            | st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=8),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_as_parquet_reads_what_python_wrote(values: list[tuple[int | None, str | None]]) -> None:
    nulls = TextFormat().null_values
    rows = [{"a": a, "b": None if b in nulls else b} for a, b in values]
    with tempfile.TemporaryDirectory() as folder:
        from_csv = read(write(Path(folder), "a.csv", as_csv(rows)))
        from_json = read(write(Path(folder), "a.jsonl", "\n".join(map(json.dumps, rows))))
    assert from_csv.to_pylist() == rows
    assert from_json.to_pylist() == rows


@given(
    st.lists(
        st.dictionaries(st.sampled_from("ab"), st.just("}\n{") | st.text(), min_size=1), min_size=1
    ),
    st.data(),
)
def test_read_json_reads_the_object_of_each_line_or_refuses_the_file(
    rows: list[dict[str, str]], data: st.DataObject
) -> None:
    text = "\n".join(f" {json.dumps(row)}" for row in rows)
    for _ in range(data.draw(st.integers(0, 2))):
        place = data.draw(st.integers(0, len(text)))
        added = data.draw(st.sampled_from([*'\n\r {}[],:\0"', "null", '{"a": "x"}']))
        text = text[:place] + added + text[place:]
    types = {"a": pa.string(), "b": pa.string()}
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), "a.jsonl", text)
        try:
            batches = [*read_json(path, FILES, types, TextFormat(), None, set(), with_lines=True)]
        except DataError:
            return
    found = pa.Table.from_batches(batches)
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    assert found[LINE].to_pylist() == lines
    expected = [{name: json.loads(line).get(name) for name in "ab"} for line in lines]
    assert found.select(["a", "b"]).to_pylist() == expected


def test_as_parquet_reads_json_lines_that_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", '\ufeff{"a": 1, "b": "x"}\n{"a": 2, "b": "y"}\n')
    assert read(path).to_pylist() == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]


def test_as_parquet_writes_row_groups_of_one_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "ROWS_PER_GROUP", 100)
    monkeypatch.setattr(csv_files, "BLOCK_BYTES", 300)
    rows = [{"a": number, "b": "x" * (number % 7)} for number in range(1050)]
    path = write(tmp_path, "a.csv", as_csv(rows))
    table = read(path)
    assert table["a"].to_pylist() == list(range(1050))
    groups = pq.ParquetFile(f"{path}.parquet")
    sizes = [groups.metadata.row_group(g).num_rows for g in range(groups.num_row_groups)]
    assert sizes == [100] * 10 + [50]


def test_iter_batches_reads_no_further_when_it_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread of pyarrow that reads on when Python ends aborts the process."""
    monkeypatch.setattr(csv_files, "BLOCK_BYTES", 300)
    rows = [{"a": number, "b": "x" * 50} for number in range(20_000)]
    path = write(tmp_path, "a.csv", as_csv(rows))
    reads = []
    read_chunk = csv_files._Quotes.read

    def read_and_count(stream: Any, size: int = -1) -> bytes:
        chunk = read_chunk(stream, size)
        reads.append(len(chunk))
        return chunk

    monkeypatch.setattr(csv_files._Quotes, "read", read_and_count)
    batches = iter_batches(path, FILES, TYPES, TextFormat())
    assert next(batches).num_rows
    batches.close()  # type: ignore[attr-defined]
    seen = len(reads)
    assert reads[-1] == 0
    time.sleep(0.2)
    assert len(reads) == seen < 1000


def test_as_parquet_keeps_vectors_and_leaves_out_columns_that_nobody_named(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", '{"a": 1, "v": [1, 2.5], "c": true}\n{"a": 2, "v": [3, 4]}\n')
    table = read(path, {"a": pa.int64(), "v": pa.list_(pa.float32())})
    assert table.to_pylist() == [
        {"a": 1, "v": [1.0, 2.5]},
        {"a": 2, "v": [3.0, 4.0]},
    ]


def test_as_parquet_of_a_header_alone_has_no_row(tmp_path: Path) -> None:
    table = read(write(tmp_path, "a.csv", "a,b\n"))
    assert (table.num_rows, table.schema.types) == (0, list(TYPES.values()))


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("short.csv", "a,b\n1,x\n2\n", "row 3 has 1 values; 2 are expected"),
        ("long.csv", "a,b\n1,x\n2,y,z\n", "row 3 has 3 values; 2 are expected"),
        ("type.csv", "a,b\n1,x\n1.5,y\n", "row 3: column 'a' is '1.5'; a whole number is"),
        ("huge.csv", f"a,b\n{2**63},x\n", f"row 2: column 'a' is '{2**63}'; a whole number"),
        ("header.csv", "a,b\n1,x\na,b\n", "row 3 is a header again"),
        ("other.csv", "a;b\n1;2\n", "its only column is 'a;b'"),
        ("open.csv", 'a,b\n1,"x\n2,y\n', 'a quotation mark (") is not closed'),
        ("empty.csv", "", "is empty"),
        ("blank.csv", "\n\n", "is empty"),
        ("twice.csv", "a,a\n1,2\n", "column 'a' is there 2 times"),
        ("capitals.csv", "a,A\n1,2\n", "columns 'a' and 'A' differ in capitals alone"),
        ("unnamed.csv", "a,\n1,2\n", "column 2 has no name"),
        ("latin.csv", "a,b\n1,é\n".encode("latin-1"), "row 2 is not utf-8"),
        ("utf16.csv", "a,b\n".encode("utf-16"), "it is UTF-16"),
        ("nul.csv", "a,b\n1,\0\n", "it is no text, but has NUL"),
        ("type.jsonl", '{"a": 1}\n{"a": "x"}\n', "row 2: column 'a' is of another type"),
        ("cut.jsonl", '{"a": 1}\n{"a":', "row 2: "),
        ("list.jsonl", "[1]\n", "row 1: "),
        ("twice.jsonl", '{"a": 1, "a": 2}\n', "row 1: "),
        ("empty.jsonl", "", "is empty"),
        ("latin.jsonl", '{"b": "é"}\n'.encode("latin-1"), "row 1 is not utf-8"),
        ("two.jsonl", '{"a": 1}\n{"a": 2}{"a": 3}\n{"a":\n4}\n', "row 2: one object in a line"),
        ("number.jsonl", '{"a": 1}\n{"a": 2} 5 {"a": 3}\n', "row 2: one object in a line"),
        # pyarrow ends at the first of these marks, and drops all rows behind it.
        ("commas.jsonl", '{"a": 1},\n{"a": 2},\n', "row 1: one object in a line is expected"),
        ("comma.jsonl", '{"a": 1}, {"a": 2}\n', "row 1: one object in a line is expected"),
        ("closed.jsonl", '{"a": 1}\n]\n{"a": 2}\n', "row 2: one object in a line is expected"),
        ("brace.jsonl", '{"a": 1}}\n{"a": 2}\n', "row 1: one object in a line is expected"),
        ("colon.jsonl", '{"a": 1}:\n{"a": 2}\n', "row 1: one object in a line is expected"),
        ("nul.jsonl", '{"a": 1}\n\0\n{"a": 2}\n', "row 2: one object in a line is expected"),
        ("null.jsonl", 'null\n{"a": 1}\n', "row 1: one object in a line is expected"),
        ("second null.jsonl", '{"a": 1}\nnull\n', "row 2: one object in a line is expected"),
        ("pretty.jsonl", '{\n "a": 1\n}\n', "row 1: one object in a line is expected"),
        ("pair.jsonl", '{"a": 1}{"a": 2}\n', "row 1: one object in a line is expected"),
        ("csv.jsonl", "a,b\n1,x\n", "row 1: one object in a line is expected"),
        ("fraction.jsonl", '{"a": 1}\n{"a": 1.5}\n', "row 2: column 'a' is 1.5; a whole number is"),
        ("huge.jsonl", f'{{"a": {2**63}}}\n', f"row 1: column 'a' is {2**63}; a whole number is"),
        ("list.jsonl", '{"a": [1]}\n', "row 1: column 'a' is of another type; a whole number is"),
        ("case.jsonl", '{"a": 1}\n{"A": 2}\n', "columns 'a' and 'A' differ in capitals alone"),
        ("parquet.jsonl", b"PAR1\x15\x04", "it is a Parquet file: name it .parquet"),
        ("parquet.csv", b"PAR1\x15\x04", "it is a Parquet file: name it .parquet"),
        ("gzip.csv", gzip.compress(b"a,b\n1,x\n"), "it is gzipped: add .gz to its name"),
        ("gzip.jsonl", gzip.compress(b'{"a": 1}\n'), "it is gzipped: add .gz to its name"),
        ("book.csv", b"PK\x03\x04\x14\0\6\0", "it is a zip archive, or a workbook of a spread"),
        ("utf16.jsonl", '{"a": 1}\n'.encode("utf-16"), "it is UTF-16"),
        ("escaped.csv", 'a,b\n1,"x\\"y"\n', 'a quotation mark in a value is doubled ("")'),
        ("mac.csv", "a,b\r1,x\r", "its lines end in CR alone"),
        ("colons.csv", "x:y\n1:2\n", "is the first row a header, and data.separator ',' right?"),
        ("accents.csv", "caf\u00e9,cafe\u0301\n1,2\n", "differ in how an accent is written alone"),
    ],
)
def test_as_parquet_refuses_a_file_by_row_and_reason(
    tmp_path: Path, name: str, content: str | bytes, reason: str
) -> None:
    path = write(tmp_path, name, content)
    with pytest.raises(DataError, match=re.escape(reason)) as refusal:
        read(path)
    assert str(refusal.value).startswith(path)
    assert "\n" not in str(refusal.value)


def test_as_parquet_refuses_a_mark_of_utf_8_in_a_file_of_another_encoding(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", b"\xef\xbb\xbfa,b\n1,x\n")
    with pytest.raises(DataError, match=r"begins as UTF-8 does, and data.encoding is 'latin-1'"):
        read(path, encoding="latin-1")


def test_as_parquet_refuses_an_encoding_that_there_is_not(tmp_path: Path) -> None:
    for name, content in (("a.csv", "a,b\n1,x\n"), ("a.jsonl", '{"a": 1}\n')):
        with pytest.raises(DataError, match=r"data.encoding = 'klingon': there is no such"):
            read(write(tmp_path, name, content), encoding="klingon")


def test_as_parquet_refuses_a_vector_in_csv_by_name(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", 'v,a\n"[1, 2]",3\n')
    with pytest.raises(DataError, match=r"column 'v' is a list.*no CSV file holds: use Parquet"):
        read(path, {"v": pa.list_(pa.float64()), "a": pa.int64()})


@pytest.mark.parametrize("content", ["a,b", "a,b\n", "\n\na,b\n", "a,b\r\n"])
def test_as_parquet_takes_a_header_alone_with_and_without_a_line_break(
    tmp_path: Path, content: str
) -> None:
    assert read(write(tmp_path, "a.csv", content)).num_rows == 0


def test_as_parquet_skips_blank_lines(tmp_path: Path) -> None:
    rows = [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]
    assert read(write(tmp_path, "a.csv", "\n\na,b\n\n1,x\n\n2,y\n\n")).to_pylist() == rows
    lines = '\ufeff{"a": 1, "b": "x"}\r\n\r\n  {"a": 2, "b": "y"} \n \n'
    assert read(write(tmp_path, "a.jsonl", lines)).to_pylist() == rows


def test_as_parquet_keeps_a_backslash_that_ends_a_value(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", 'a,b\n1,"C:\\"\n2,"D:\\"\n')
    assert read(path)["b"].to_pylist() == ["C:\\", "D:\\"]


WRITTEN = {
    "true": [("True", 1), ("False", 0)],
    "small letters": [("true", 1), ("false", 0)],
    "date": [("2013-01-31", 1359590400), ("2013-02-01", 1359676800)],
    "time": [("2013-01-31 00:00:01", 1359590401), ("2013-02-01 00:00:00", 1359676800)],
    "zone": [("2013-01-31T01:00:00+01:00", 1359590400), ("2013-02-01T00:00:00Z", 1359676800)],
    "nanoseconds": [("2013-01-31 00:00:00.123456789", 1359590400), ("2013-02-01", 1359676800)],
    "seconds": [("1359590400", 1359590400), ("-5", -5)],
}


@pytest.mark.parametrize("kind", [pa.int64(), pa.float64()])
@pytest.mark.parametrize("absent", [False, True])
@pytest.mark.parametrize("case", WRITTEN)
def test_as_parquet_reads_numbers_written_as_true_and_false_or_times(
    tmp_path: Path, case: str, absent: bool, kind: pa.DataType
) -> None:
    """Parquet has such columns too, and INT and FLOAT features take them."""
    rows = [(text, number) for text, number in WRITTEN[case]]
    path = write(
        tmp_path, "a.csv", "q,b\n" + ",x\n" * absent + "".join(f"{text},x\n" for text, _ in rows)
    )
    assert as_numbers(read(path, {"q": kind, "b": pa.string()})["q"]) == [
        *[None] * absent,
        *[number for _, number in rows],
    ]


JSON_WRITTEN: dict[str, list[tuple[Any, int]]] = {
    "true": [(True, 1), (False, 0)],
    "time": [("2013-01-31 00:00:01.5", 1359590401), ("2013-02-01", 1359676800)],
    "zone": [("2013-01-31T01:00:00+01:00", 1359590400), ("2013-02-01T00:00:00Z", 1359676800)],
    "seconds": [(1359590400, 1359590400), (-5, -5)],
}


@pytest.mark.parametrize("kind", [pa.int64(), pa.float64()])
@pytest.mark.parametrize("case", JSON_WRITTEN)
def test_as_parquet_reads_such_numbers_of_json_lines(
    tmp_path: Path, case: str, kind: pa.DataType
) -> None:
    lines = [{"q": None}, *({"q": value} for value, _ in JSON_WRITTEN[case])]
    path = write(tmp_path, "a.jsonl", "\n".join(map(json.dumps, lines)))
    numbers = as_numbers(read(path, {"q": kind})["q"])
    assert numbers == [None, *(number for _, number in JSON_WRITTEN[case])]


def as_numbers(column: pa.ChunkedArray) -> list[Any]:
    """Numbers, booleans, or times as seconds since 1970."""
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("s", column.type.tz), safe=False).cast(pa.int64())
    return [value if value is None else int(value) for value in column.to_pylist()]


def test_as_parquet_reads_a_switch_of_json_lines_as_numbers(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", '{"q": 1}\n{"q": 0}\n')
    assert as_numbers(read(path, {"q": pa.bool_()})["q"]) == [1, 0]


def test_as_parquet_refuses_times_of_json_lines_with_and_without_a_zone(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", '{"t": "2013-01-01T00:00:00Z"}\n{"t": "2013-01-01"}\n')
    with pytest.raises(DataError, match="column 't' has times with a time zone and times without"):
        read(path, {"t": pa.timestamp("us")})


def test_as_parquet_names_a_key_that_is_first_there_in_a_late_row(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", '{"a": 1}\n' * 300 + '{"a": 1, "last": 2}\n')
    target = str(tmp_path / "copy.parquet")
    assert as_parquet(path, FILES, FILES, target, TYPES, TextFormat()) == ["last"]


@settings(deadline=None)
@given(
    lines=st.lists(
        st.sampled_from(
            ['{"a": 1}', '{"a": 2, "b": "}"}', "", " ", "null", "[", "]", "}", ",", "5", "{}"]
        )
        | st.text('{}[],:"a1 \n', max_size=12),
        max_size=6,
    )
)
def test_as_parquet_takes_each_line_of_json_or_refuses_the_file(lines: list[str]) -> None:
    def is_object(line: str) -> bool:
        try:
            return isinstance(json.loads(line), dict)
        except ValueError:
            return False

    content = "\n".join(lines)
    written = [line for line in content.split("\n") if line.strip()]
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), "a.jsonl", content)
        try:
            rows = read(path).num_rows
        except DataError:
            return
    assert all(map(is_object, written))
    assert rows == len(written)


def test_as_parquet_refuses_a_header_among_texts(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "a,b\nx,y\na,b\n")
    with pytest.raises(DataError, match="row 3 is a header again"):
        read(path, {"a": pa.string(), "b": pa.string()})


def test_as_parquet_reads_a_text_that_is_the_name_of_its_column(tmp_path: Path) -> None:
    assert read(write(tmp_path, "a.csv", "a,b\n1,b\n")).to_pylist() == [{"a": 1, "b": "b"}]


def test_as_parquet_refuses_what_is_not_gzipped(tmp_path: Path) -> None:
    (tmp_path / "a.csv.gz").write_bytes(b"a,b\n1,2\n")
    with pytest.raises(DataError, match=r"a\.csv\.gz cannot be read: "):
        read(str(tmp_path / "a.csv.gz"))


def test_text_format_says_separator_encoding_and_absent_values(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "a;b\n1;é\n-;-\n".encode("latin-1"))
    table = read(path, separator=";", encoding="latin-1", null_values=("-",))
    assert table.to_pylist() == [{"a": 1, "b": "é"}, {"a": None, "b": None}]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("1970-01-02", 86_400),
        ("1970-01-01 00:01:00", 60),
        ("1970-01-01T00:01:00.999", 60),
        ("1970-01-01T00:01:00Z", 60),
        ("1970-01-01 01:00:00+01:00", 0),
    ],
)
def test_read_times_reads_times_with_and_without_zone(
    tmp_path: Path, value: str, seconds: int
) -> None:
    path = write(tmp_path, "a.csv", f"x,t\n1,{value}\n2,{value}\n")
    (times,) = read_times(path, FILES, "t", TextFormat())
    assert times.tolist() == [seconds, seconds]


@pytest.mark.parametrize(
    "kind", [pa.timestamp("ns"), pa.timestamp("ms", "Europe/Berlin"), pa.date32(), pa.date64()]
)
def test_read_times_reads_each_row_group_of_parquet(tmp_path: Path, kind: pa.DataType) -> None:
    days = pa.array([0, 1, 2], pa.int32()).cast(pa.date32())
    column = days.cast(kind) if kind.id != pa.date32().id else days
    pq.write_table(pa.table({"t": column}), tmp_path / "a.parquet", row_group_size=2)
    times = read_times(str(tmp_path / "a.parquet"), FILES, "t", TextFormat())
    assert [group.tolist() for group in times] == [[0, 86_400], [172_800]]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("t\nnoon\n", "column 't' is 'noon'; a time as 2013-01-31 23:59:00 is expected"),
        ("t,x\n2013-01-01,1\n,2\n", "column 't' is null in 1 rows; every row needs a time"),
        ("t\n2013-01-01T00:00:00Z\n2013-01-01\n", "times with a time zone and times without"),
        ("x\n1\n", "column 't' is missing; it has x"),
    ],
)
def test_read_times_refuses_what_is_no_time(tmp_path: Path, content: str, reason: str) -> None:
    path = write(tmp_path, "a.csv", content)
    with pytest.raises(DataError, match=re.escape(reason)):
        read_times(path, FILES, "t", TextFormat())


def test_read_schema_reads_names_of_every_format(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1], "b": [2]}), tmp_path / "a.parquet")
    paths = [
        str(tmp_path / "a.parquet"),
        write(tmp_path, "a.csv", "a,b\n1,2\n"),
        write(tmp_path, "a.jsonl.gz", '{"a": 1, "b": 2}\n'),
    ]
    assert [read_schema(path, FILES, TextFormat()) for path in paths] == [["a", "b"]] * 3


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_as_parquet_leaves_out_and_names_columns_without_a_type(tmp_path: Path, name: str) -> None:
    rows: list[dict[str, Any]] = [
        {"a": 1, "b": "x", "c": 1, "d": 2},
        {"a": 2, "b": "y", "c": 2.5, "d": 2},
    ]
    content = as_csv(rows) if "csv" in name else "\n".join(map(json.dumps, rows))
    path = write(tmp_path, name, content)
    target = str(tmp_path / "copy.parquet")
    left_out = as_parquet(path, FILES, FILES, target, TYPES, TextFormat(), ["d"])
    assert left_out == ["c"]
    assert pq.read_table(target).select(["a", "b"]).to_pylist() == [
        {"a": 1, "b": "x"},
        {"a": 2, "b": "y"},
    ]
    assert set(pq.read_schema(target).names) == {"a", "b", "d"}


def test_as_parquet_leaves_out_a_column_of_several_types(tmp_path: Path) -> None:
    path = write(
        tmp_path, "a.jsonl", '{"a": 1, "b": "x", "c": 1}\n{"a": 2, "b": "y", "c": ["z"]}\n'
    )
    assert read(path).to_pylist() == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]


def test_as_parquet_refuses_a_file_without_a_header(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "1,x\n2,y\n")
    with pytest.raises(DataError, match="none of its columns 1, x is in the schema: is the first"):
        read(path)


def test_read_times_takes_whole_numbers_as_seconds_since_1970(tmp_path: Path) -> None:
    pq.write_table(pa.table({"t": pa.array([0, 86_400], pa.int32())}), tmp_path / "a.parquet")
    paths = [str(tmp_path / "a.parquet"), write(tmp_path, "a.csv", "t\n0\n86400\n")]
    for path in paths:
        (times,) = read_times(path, FILES, "t", TextFormat())
        assert times.tolist() == [0, 86_400]
    milliseconds = write(tmp_path, "b.csv", "t\n1386000000000\n")
    with pytest.raises(DataError, match=r"column 't' has 1386000000000, no number of seconds"):
        read_times(milliseconds, FILES, "t", TextFormat())
