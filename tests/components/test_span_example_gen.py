"""Tests that SpanExampleGen loses and changes no row, and names what is wrong with bad data."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx_bsl.coders import example_coder

from components.span_example_gen import plan, source_files
from components.span_example_gen.component import SpanExampleGen
from components.span_example_gen.plan import SPLITS, Shares, plan_shards
from components.span_example_gen.row_order import RowOrder
from components.span_example_gen.source_files import Copier, FileRows, SourceFiles
from ml.example_columns import Columns, to_example_batch
from storage.errors import DataError
from storage.periods import SpanPeriod
from storage.span_store import STORE_VARIABLE, ShardName, SpanStore
from storage.spans import DataSource, resolve_window
from tests.conftest import TRIPS, HostileFile, read_month, write_span

BAD_MONTH = 201302
TIME = "time_hour"
MONTHS = "span-{YYYY}{MM}"
DAY = 24 * 60 * 60
EVAL_DAYS = 7

Row = tuple[tuple[str, Any], ...]
Generate = Callable[..., Any]
Edit = Callable[[pa.Table], pa.Table]


@pytest.fixture(scope="session")
def generate(run_component: Callable[..., dict[str, Any]], curated_schema: Path) -> Generate:
    """Runs SpanExampleGen on a directory, by default on two months and the test month March."""

    def run(root: Path, schema: Path = curated_schema, **parameters: Any) -> Any:
        names = ("pattern", "time_column", "period", "text")
        chosen = {name: parameters.pop(name) for name in names if name in parameters}
        source = DataSource(str(root), **{"pattern": MONTHS, "time_column": TIME, **chosen})
        settings = {"layout": source.layout, "as_of": 201303, "window": 2, **parameters}
        outputs = run_component(SpanExampleGen, {"schema": schema}, data_uri=str(root), **settings)
        return outputs["examples"]

    return run


@pytest.fixture(scope="session")
def examples(generate: Generate, tiny_spans: Path) -> Any:
    """Examples of January and February, with March as the test month."""
    return generate(tiny_spans)


def records(examples: Any, split: str) -> list[bytes]:
    """The serialized examples of a split, all files in order."""
    return [record for _, file in sorted(shards(examples, split).items()) for record in file]


def shards(examples: Any, split: str) -> dict[str, list[bytes]]:
    """The serialized examples in each file of a split."""
    return {
        path.name: list(tf.data.TFRecordDataset(str(path), "GZIP").as_numpy_iterator())
        for path in (Path(examples.uri) / f"Split-{split}").iterdir()
    }


def parse(record: bytes) -> dict[str, Any]:
    """The one value of each feature that is present."""
    features = tf.train.Example.FromString(record).features.feature
    values = {}
    for name, feature in features.items():
        if kind := feature.WhichOneof("kind"):
            (values[name],) = getattr(feature, kind).value
    return values


def rows_of(examples: Any, split: str) -> Counter[Row]:
    return Counter(tuple(sorted(parse(record).items())) for record in records(examples, split))


def column_of(examples: Any, split: str, name: str) -> list[Any]:
    return [parse(record).get(name) for record in records(examples, split)]


def source_rows(root: Path, *months: int) -> Counter[Row]:
    """What the examples of some months should hold, read without the code under test."""
    rows: Counter[Row] = Counter()
    for month in months:
        for record in pq.read_table(root / f"span-{month}").to_pylist():
            present = {name: value for name, value in record.items() if value is not None}
            rows[tuple(sorted((name, as_feature(v)) for name, v in present.items()))] += 1
    return rows


def as_feature(value: Any) -> Any:
    if isinstance(value, datetime):
        return int(value.timestamp())
    return value.encode() if isinstance(value, str) else value


def span_file(root: Path, month: int = BAD_MONTH) -> Path:
    return root / f"span-{month}" / "trips.parquet"


def edit(path: Path, change: Edit) -> None:
    """Rewrites a Parquet file with other columns or rows."""
    pq.write_table(change(pq.read_table(path)), path, row_group_size=64)


def with_column(name: str, values: Callable[[pa.Table], Any]) -> Edit:
    """An edit that sets a column, or adds it."""

    def change(table: pa.Table) -> pa.Table:
        kept = table.drop([name]) if name in table.column_names else table
        return kept.append_column(name, values(table))

    return change


def refusal(generate: Generate, root: Path, **parameters: Any) -> str:
    """The message of the DataError with which SpanExampleGen ends."""
    with pytest.raises(DataError) as failure:
        generate(root, **parameters)
    return str(failure.value)


# Splits


def test_span_example_gen_puts_every_row_of_the_window_in_one_split(
    examples: Any, tiny_spans: Path
) -> None:
    training_rows = rows_of(examples, "train") + rows_of(examples, "eval")
    assert training_rows == source_rows(tiny_spans, 201301, 201302)


def test_span_example_gen_test_split_is_the_whole_test_month(
    examples: Any, tiny_spans: Path
) -> None:
    assert rows_of(examples, "test") == source_rows(tiny_spans, 201303)


def test_span_example_gen_does_not_read_months_outside_the_window(
    generate: Generate, own_spans: Path
) -> None:
    span_file(own_spans, 201301).write_bytes(b"no Parquet")
    span_file(own_spans, 201304).write_bytes(b"no Parquet")
    assert generate(own_spans, window=1).get_string_custom_property("spans") == json.dumps(
        {"train": [201302], "test": [201303]}
    )


def test_span_example_gen_puts_the_last_days_in_eval_and_those_before_in_train(
    examples: Any,
) -> None:
    train, held_out, test = (column_of(examples, split, TIME) for split in SPLITS)
    cutoff = max(held_out) - EVAL_DAYS * DAY
    assert max(train) <= cutoff < min(held_out)
    assert max(held_out) < min(test)


def test_span_example_gen_puts_a_row_at_the_cutoff_in_train(
    generate: Generate, tmp_path: Path
) -> None:
    last = datetime(2013, 2, 28, 23, 30, tzinfo=UTC)
    cutoff = last - timedelta(days=3)
    write_clock(tmp_path / "spans/span-201302", [cutoff, last, cutoff + timedelta(seconds=1)])
    test = [datetime(2013, 3, 1, tzinfo=UTC), datetime(2013, 2, 28, 0, 30, tzinfo=UTC)]
    write_clock(tmp_path / "spans/span-201303", test)
    found = generate(
        tmp_path / "spans",
        schema_of(tmp_path, 'feature { name: "clock" type: INT }'),
        time_column="clock",
        window=1,
        eval_days=3,
    )
    at = int(cutoff.timestamp())
    assert column_of(found, "train", "clock") == [at]
    assert sorted(column_of(found, "eval", "clock")) == [at + 1, at + 3 * DAY]
    assert len(records(found, "test")) == len(test)  # by their folder, not their time


def write_clock(folder: Path, times: list[datetime]) -> None:
    folder.mkdir(parents=True)
    table = pa.table({"clock": pa.array(times, pa.timestamp("us", "UTC"))})
    pq.write_table(table, folder / "clock.parquet", row_group_size=1)


def schema_of(tmp_path: Path, text: str) -> Path:
    """A folder that is laid out like a `Schema` artifact."""
    folder = tmp_path / "schema"
    folder.mkdir()
    (folder / "schema.pbtxt").write_text(text)
    return folder


def test_span_example_gen_refuses_a_window_shorter_than_the_eval_days(
    generate: Generate, tiny_spans: Path
) -> None:
    message = refusal(generate, tiny_spans, window=1, eval_days=31)
    assert message.startswith("the train split has no row; the window has 1 span(s) with ")


def test_span_example_gen_reads_a_span_of_several_files_whole(
    generate: Generate, own_spans: Path, tiny_spans: Path
) -> None:
    whole = pq.read_table(span_file(own_spans))
    for name, part in (("a", whole[:50]), ("b", whole[50:51]), ("c", whole[51:]), ("d", whole[:0])):
        pq.write_table(part, own_spans / f"span-{BAD_MONTH}" / f"{name}.parquet")
    span_file(own_spans).unlink()
    found = generate(own_spans)
    training_rows = rows_of(found, "train") + rows_of(found, "eval")
    assert training_rows == source_rows(tiny_spans, 201301, 201302)


def test_span_example_gen_ignores_the_order_of_rows(
    generate: Generate, own_spans: Path, examples: Any
) -> None:
    shuffled = np.random.default_rng(7).permutation(pq.read_metadata(span_file(own_spans)).num_rows)
    edit(span_file(own_spans), lambda table: table.take(shuffled))
    found = generate(own_spans)
    for split in SPLITS:
        assert rows_of(found, split) == rows_of(examples, split)


def test_span_example_gen_writes_the_same_rows_in_the_same_files_and_order(
    generate: Generate, tiny_spans: Path, examples: Any
) -> None:
    again = generate(tiny_spans)
    for split in SPLITS:
        before, after = shards(examples, split), shards(again, split)
        assert {name: len(file) for name, file in after.items()} == {
            name: len(file) for name, file in before.items()
        }
        # Parsed, since protobuf serializes a map in any order.
        assert list(map(parse, records(again, split))) == list(map(parse, records(examples, split)))


def test_span_example_gen_records_rows_and_months_of_the_splits(examples: Any) -> None:
    rows = json.loads(examples.get_string_custom_property("rows"))
    assert json.loads(examples.split_names) == list(SPLITS) == ["train", "eval", "test"]
    assert rows == {split: len(records(examples, split)) for split in SPLITS}
    assert min(rows.values()) > 0
    assert json.loads(examples.get_string_custom_property("spans")) == {
        "train": [201301, 201302],
        "test": [201303],
    }


def test_span_example_gen_reads_each_row_group_of_a_large_file_once(
    tmp_path: Path,
) -> None:
    root = tmp_path
    for month in (201301, 201302):
        write_span(root, month, pa.concat_tables([read_month(month)] * 4))
    source = DataSource(str(root), MONTHS, TIME)
    window = resolve_window(source, 201302, 1)
    columns = Columns({}, frozenset({TIME}), TIME)
    files = SourceFiles(source, columns, RowOrder(TIME), SpanStore(""), str(tmp_path / "copies"))
    shards, rows = plan_shards(window, files, Shares(1, 0.1, 0.2))
    for span in (*window.train, window.test):
        parts = [shard for shard in shards if shard.name.span == span.number]
        assert [shard.name.number for shard in parts] == list(range(len(parts)))
        assert {shard.name.piece for shard in parts} == {0, 1}
        for piece in (0, 1):
            of_piece = [shard for shard in parts if shard.name.piece == piece]
            groups = [group for shard in of_piece for group in shard.row_groups]
            assert groups == sorted(set(groups))
        assert len([shard for shard in parts if shard.name.piece == 0]) > 1
    assert rows["test"] == pq.read_metadata(window.test.files[0]).num_rows


def test_span_example_gen_writes_small_files_of_large_row_groups(
    generate: Generate, own_spans: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = span_file(own_spans)
    table = pq.read_table(path)
    expected = generate(own_spans)
    monkeypatch.setattr(plan, "ROWS_PER_SHARD", 32)
    monkeypatch.setattr(source_files, "ROWS_PER_GROUP", 32)
    monkeypatch.setattr(source_files, "_MOST_ROWS_OF_A_GROUP", 64)
    pq.write_table(table, path, row_group_size=len(table))
    assert len(table) > 64
    found = generate(own_spans)
    for split in SPLITS:
        assert rows_of(found, split) == rows_of(expected, split)
    sizes = [len(rows) for name, rows in shards(found, "train").items() if str(BAD_MONTH) in name]
    assert len(sizes) > 1
    assert max(sizes) <= 32
    assert not (Path(found.uri) / ".staged").exists()


# What is kept


def test_span_example_gen_does_not_read_a_month_twice(
    generate: Generate, own_spans: Path, store: Path
) -> None:
    """February and March are test months at first, and then months of the window."""
    expected = generate(own_spans, as_of=201304, window=2)
    shutil.rmtree(store)
    earlier = [generate(own_spans, as_of=as_of, window=1) for as_of in (201302, 201303)]
    for month in (201302, 201303):
        # All that planning looks at stays: the times, which are the last column of this file.
        damage_but_for_times(span_file(own_spans, month))
    found = generate(own_spans, as_of=201304, window=2)
    for split in SPLITS:
        assert rows_of(found, split) == rows_of(expected, split)
    assert shards(earlier[1], "test").keys() <= {
        name for split in SPLITS for name in shards(found, split)
    }
    shutil.rmtree(store)
    assert "cannot be read" in refusal(generate, own_spans, as_of=201304, window=2)


def damage_but_for_times(path: Path) -> None:
    """Makes all columns but the times unreadable, with size and time of the file as they were."""
    metadata, status = pq.read_metadata(path), path.stat()
    content = bytearray(path.read_bytes())
    for group in range(metadata.num_row_groups):
        for index in range(metadata.num_columns):
            column = metadata.row_group(group).column(index)
            if column.path_in_schema != TIME:
                begin = column.dictionary_page_offset or column.data_page_offset
                content[begin : begin + column.total_compressed_size] = bytes(
                    column.total_compressed_size
                )
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_span_example_gen_reads_a_rewritten_month_again(
    generate: Generate, own_spans: Path, store: Path
) -> None:
    generate(own_spans)
    assert any(store.iterdir())
    edit(span_file(own_spans), with_column("distance", lambda t: pa.array([7] * len(t))))
    found = generate(own_spans)
    assert set(column_of(found, "eval", "distance")) == {7}


def test_span_example_gen_replaces_a_damaged_kept_file(
    generate: Generate, own_spans: Path, store: Path, examples: Any
) -> None:
    generate(own_spans)
    kept = sorted(store.rglob("examples-*"))
    kept[0].write_bytes(kept[0].read_bytes()[:-9])
    kept[1].write_bytes(b"")
    kept[2].write_bytes(kept[2].read_bytes()[:40] + bytes(4) + kept[2].read_bytes()[44:])
    found = generate(own_spans)
    for split in SPLITS:
        assert rows_of(found, split) == rows_of(examples, split)
    assert min(path.stat().st_size for path in kept) > 0


def test_span_example_gen_replaces_a_kept_file_with_other_contents(
    generate: Generate, own_spans: Path, store: Path, examples: Any
) -> None:
    generate(own_spans)
    kept = sorted(store.rglob("examples-*"))
    kept[0].write_bytes(gzip.compress(b"no records"))
    kept[1].write_bytes(gzip.compress(b""))
    kept[2].write_bytes(kept[3].read_bytes())  # Fewer rows, or more.
    found = generate(own_spans)
    for split in SPLITS:
        assert rows_of(found, split) == rows_of(examples, split)


# Values


def test_span_example_gen_writes_nulls_as_absent_features(examples: Any, tiny_spans: Path) -> None:
    source = pq.read_table(tiny_spans / "span-201303")
    nullable = [name for name in source.column_names if source[name].null_count]
    assert nullable
    spec = {
        name: tf.io.VarLenFeature(
            tf.string if pa.types.is_string(source[name].type) else tf.float32
        )
        for name in nullable
    }
    parsed = tf.io.parse_example(records(examples, "test"), spec)
    for name in nullable:
        assert len(parsed[name].values) == len(source) - source[name].null_count


def encode(array: pa.Array, kind: int) -> list[Any]:
    """Sends a column through Parquet and a tf.Example; None where the feature is absent."""
    file = io.BytesIO()
    pq.write_table(pa.table({"x": array}), file, version="2.6")
    columns = Columns({"x": kind}, frozenset(), "time")
    encoder = example_coder.RecordBatchToExamplesEncoder()
    return [
        parse(record).get("x")
        for batch in pq.ParquetFile(file).iter_batches()
        for record in encoder.encode(to_example_batch(batch, columns))
    ]


@given(st.lists(st.none() | st.floats(width=32, allow_nan=False)))
def test_encode_keeps_float32_exactly(values: list[float | None]) -> None:
    found = encode(pa.array(values, pa.float32()), schema_pb2.FLOAT)
    assert [v if v is None else v.hex() for v in found] == [
        v if v is None else v.hex() for v in values
    ]


@given(
    st.sampled_from([(pa.int64(), -(2**63), 2**63 - 1), (pa.uint32(), 0, 2**32 - 1)]).flatmap(
        lambda kind: st.tuples(
            st.just(kind[0]), st.lists(st.none() | st.integers(kind[1], kind[2]))
        )
    )
)
def test_encode_keeps_integers_exactly(column: tuple[pa.DataType, list[int | None]]) -> None:
    kind, values = column
    assert encode(pa.array(values, kind), schema_pb2.INT) == values


@given(
    kind=st.sampled_from([pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]),
    values=st.lists(st.none() | st.text()),
)
def test_encode_keeps_strings_exactly(kind: pa.DataType, values: list[str | None]) -> None:
    expected = [value if value is None else value.encode() for value in values]
    assert encode(pa.array(values, kind), schema_pb2.BYTES) == expected


@given(st.lists(st.none() | st.binary()))
def test_encode_keeps_bytes_that_are_not_text_exactly(values: list[bytes | None]) -> None:
    assert encode(pa.array(values, pa.binary()), schema_pb2.BYTES) == values


@given(
    unit=st.sampled_from(["s", "ms", "us", "ns"]),
    zone=st.sampled_from([None, "UTC", "America/New_York"]),
    seconds=st.lists(st.none() | st.integers(0, 2**33)),
)
def test_encode_writes_timestamps_as_seconds_since_the_epoch(
    unit: str, zone: str | None, seconds: list[int | None]
) -> None:
    scale = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    late_in_the_second = [value if value is None else (value + 1) * scale - 1 for value in seconds]
    times = pa.array(late_in_the_second, pa.timestamp(unit, zone))
    assert encode(times, schema_pb2.INT) == seconds


@given(st.lists(st.none() | st.booleans()))
def test_encode_writes_booleans_as_zero_and_one(values: list[bool | None]) -> None:
    assert encode(pa.array(values, pa.bool_()), schema_pb2.INT) == values


def test_encode_writes_doubles_as_the_nearest_float32() -> None:
    values = pa.array([0.1, None, -1e-9])
    assert encode(values, schema_pb2.FLOAT) == [np.float32(0.1), None, np.float32(-1e-9)]


def test_encode_writes_nan_as_absent() -> None:
    for kind in (pa.float32(), pa.float64()):
        assert encode(pa.array([1.5, float("nan")], kind), schema_pb2.FLOAT) == [1.5, None]


def test_span_example_gen_writes_a_column_of_nulls_as_absent(
    generate: Generate, own_spans: Path
) -> None:
    edit(span_file(own_spans, 201303), with_column("engine", lambda table: pa.nulls(len(table))))
    assert set(column_of(generate(own_spans), "test", "engine")) == {None}


# What is more than the schema requires, or wider


def test_span_example_gen_accepts_what_the_schema_allows(
    generate: Generate, own_spans: Path
) -> None:
    path = span_file(own_spans, 201303)
    edit(path, with_column("seats", lambda table: pa.array([180] * len(table), pa.int32())))
    edit(path, with_column("temp", lambda table: pa.array([float("inf")] * len(table))))
    (row,) = Counter(
        tuple(parse(record)[name] for name in ("seats", "temp"))
        for record in records(generate(own_spans), "test")
    )
    integer_for_float, infinity = row
    assert isinstance(integer_for_float, float)
    assert integer_for_float == 180
    assert infinity == float("inf")  # absurd, but that is for DataGate to find


@pytest.mark.parametrize(
    "value", ["B22", 2**63, 1e300, [["a"]], {"a": 1}, None], ids=lambda value: type(value).__name__
)
def test_span_example_gen_leaves_out_a_column_that_the_schema_lacks(
    generate: Generate, own_spans: Path, examples: Any, value: Any
) -> None:
    kind = pa.uint64() if value == 2**63 else None
    path = span_file(own_spans, 201303)
    edit(path, with_column("crew", lambda table: pa.array([value] * len(table), kind)))
    found = generate(own_spans)
    assert rows_of(found, "test") == rows_of(examples, "test")
    assert found.get_string_custom_property("left_out") == '["crew"]'


def test_span_example_gen_lets_an_optional_column_be_missing(
    generate: Generate, own_spans: Path, curated_schema: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(curated_schema, tmp_path / "schema"))
    with (folder / "schema.pbtxt").open("a") as file:
        file.write('feature { name: "gate" type: BYTES }\n')
    assert set(column_of(generate(own_spans, folder), "test", "gate")) == {None}


# The fingerprint


def test_span_example_gen_accepts_the_fingerprint_of_the_window(
    generate: Generate, tiny_spans: Path
) -> None:
    seen = resolve_window(DataSource(str(tiny_spans), MONTHS, TIME), 201303, 2).fingerprint
    assert len(records(generate(tiny_spans, fingerprint=seen), "test")) > 0


def test_span_example_gen_refuses_data_changed_since_planning(
    generate: Generate, own_spans: Path
) -> None:
    seen = resolve_window(DataSource(str(own_spans), MONTHS, TIME), 201303, 2).fingerprint
    edit(span_file(own_spans), lambda table: table[1:])
    message = refusal(generate, own_spans, fingerprint=seen)
    assert f"{str(own_spans)!r} changed after the run had started" in message


# Files that cannot be read


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(lambda whole: whole[: len(whole) // 2], id="truncated in the middle"),
        pytest.param(lambda whole: whole[:-1], id="truncated by a byte"),
        pytest.param(lambda whole: b"", id="empty"),
        pytest.param(lambda whole: b"year,month\n2013,2\n" * 99, id="CSV"),
        pytest.param(lambda whole: whole[:-40] + b"\xff" * 32 + whole[-8:], id="broken footer"),
        pytest.param(
            # The footer is the last place to name the column as a schema element.
            lambda whole: whole.replace(b"\x18\x07company", b"\x18\x07\xff\xffmpany"),
            id="name of a column is not UTF-8",
        ),
    ],
)
def test_span_example_gen_names_a_file_that_is_not_readable_parquet(
    generate: Generate, own_spans: Path, content: Callable[[bytes], bytes]
) -> None:
    path = span_file(own_spans)
    whole = path.read_bytes()
    path.write_bytes(content(whole))
    assert path.read_bytes() != whole
    assert f"{path} is not a readable Parquet file" in refusal(generate, own_spans)


def test_span_example_gen_does_not_run_a_hostile_file(
    generate: Generate, own_spans: Path, hostile_file: HostileFile
) -> None:
    path = span_file(own_spans)
    hostile_file.write(pq.read_table(path), path)
    assert str(path) in refusal(generate, own_spans)
    assert not hostile_file.has_run()


def corrupt(path: Path, group: int, column: str) -> None:
    """Overwrites the bytes of one column of one row group, and nothing else."""
    metadata = pq.read_metadata(path)
    chunk = metadata.row_group(group).column(metadata.schema.names.index(column))
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    content = bytearray(path.read_bytes())
    content[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    path.write_bytes(content)


# The time column is read when the shards are planned, the others by the workers of Beam.
@pytest.mark.parametrize("column", [TIME, "company"])
def test_span_example_gen_names_file_and_row_group_of_corrupt_bytes(
    generate: Generate, own_spans: Path, column: str
) -> None:
    corrupt(span_file(own_spans), 3, column)
    message = refusal(generate, own_spans)
    assert f"{span_file(own_spans)}: row group 3 cannot be read: " in message


@pytest.mark.parametrize("column", [TIME, "company"])
def test_span_example_gen_reports_corrupt_bytes_in_one_line(
    generate: Generate, own_spans: Path, column: str
) -> None:
    corrupt(span_file(own_spans), 3, column)
    message = refusal(generate, own_spans)
    assert "while running" not in message
    assert message == " ".join(message.split())


# Columns that are not as the schema says


def test_span_example_gen_names_a_missing_column_and_lists_those_there_are(
    generate: Generate, own_spans: Path
) -> None:
    edit(span_file(own_spans), lambda table: table.drop(["origin"]))
    message = refusal(generate, own_spans)
    assert f"{span_file(own_spans)}: column 'origin' is missing; it has time_hour, " in message


def test_span_example_gen_names_a_missing_time_column(generate: Generate, own_spans: Path) -> None:
    edit(span_file(own_spans), lambda table: table.drop([TIME]))
    assert f"{span_file(own_spans)}: column '{TIME}' is missing" in refusal(generate, own_spans)


def test_span_example_gen_needs_the_time_column_even_if_the_schema_lacks_it(
    generate: Generate, own_spans: Path
) -> None:
    message = refusal(generate, own_spans, time_column="landed_at")
    assert f"{span_file(own_spans, 201301)}: column 'landed_at' is missing" in message


def as_text(name: str) -> Edit:
    return with_column(name, lambda table: pc.cast(table[name], pa.string()))


@pytest.mark.parametrize(
    ("change", "column", "allowed"),
    [
        (as_text("distance"), "distance", "floating point or integer is expected"),
        (as_text("day"), "day", "integer is expected"),
        (
            with_column("day", lambda table: pc.cast(table["day"], pa.float64())),
            "day",
            "integer is expected",
        ),
        (with_column("company", lambda table: table["day"]), "company", "string is expected"),
        (
            as_text(TIME),
            TIME,
            "a timestamp, a date or whole seconds since 1970 are expected",
        ),
        (
            with_column("temp", lambda table: pa.array([[1.0]] * len(table))),
            "temp",
            "one value is expected (a vector has its length as `shape` in the schema)",
        ),
        (
            with_column("temp", lambda table: pa.array([{"a": 1}] * len(table))),
            "temp",
            "floating point or integer is expected",
        ),
    ],
)
def test_span_example_gen_names_a_column_of_another_type_and_what_is_allowed(
    generate: Generate, own_spans: Path, change: Edit, column: str, allowed: str
) -> None:
    edit(span_file(own_spans), change)
    found = pq.read_schema(span_file(own_spans)).field(column).type
    message = refusal(generate, own_spans)
    assert message == f"{span_file(own_spans)}: column {column!r} is {found}; {allowed}"


def test_span_example_gen_refuses_an_integer_too_large_for_int64(
    generate: Generate, own_spans: Path
) -> None:
    huge = with_column("day", lambda table: pa.array([2**63] * len(table), pa.uint64()))
    edit(span_file(own_spans), huge)
    message = refusal(generate, own_spans)
    assert str(span_file(own_spans)) in message
    assert re.search("column 'day'", message)


def test_span_example_gen_names_a_column_that_a_file_has_twice(
    generate: Generate, own_spans: Path
) -> None:
    edit(span_file(own_spans), lambda table: table.append_column("temp", table["temp"]))
    message = refusal(generate, own_spans)
    assert str(span_file(own_spans)) in message
    assert "'temp'" in message


# Rows that are not there, or have no time


@pytest.mark.parametrize("month", [201302, 201303])
def test_span_example_gen_names_an_empty_month(
    generate: Generate, own_spans: Path, month: int
) -> None:
    edit(span_file(own_spans, month), lambda table: table[:0])
    message = refusal(generate, own_spans)
    assert message == f"span-{month} has no row: {span_file(own_spans, month)}"


def test_span_example_gen_names_an_empty_month_without_types(
    generate: Generate, own_spans: Path
) -> None:
    def without_types(table: pa.Table) -> pa.Table:
        return pa.table({name: pa.nulls(0) for name in table.column_names})

    edit(span_file(own_spans), without_types)
    assert str(span_file(own_spans)) in refusal(generate, own_spans)


def test_span_example_gen_names_file_and_row_group_of_a_row_without_time(
    generate: Generate, own_spans: Path
) -> None:
    def without_two_times(table: pa.Table) -> pa.Table:
        keep = pa.array([index not in (70, 80) for index in range(len(table))])
        return with_column(TIME, lambda t: pc.if_else(keep, t[TIME], None))(table)

    edit(span_file(own_spans), without_two_times)
    assert refusal(generate, own_spans) == (
        f"{span_file(own_spans)}: row group 1: column '{TIME}' is null in 2 rows; "
        "every row needs a time"
    )


def test_span_example_gen_names_a_missing_directory(generate: Generate, tmp_path: Path) -> None:
    assert repr(str(tmp_path / "nowhere")) in refusal(generate, tmp_path / "nowhere")


# Rows of another month


def shift(days: int) -> Edit:
    def change(table: pa.Table) -> pa.Table:
        times = pc.add(table[TIME], pa.scalar(timedelta(days=days), pa.duration("ms")))
        return table.set_column(table.schema.get_field_index(TIME), TIME, times)

    return change


@pytest.mark.parametrize("month", [BAD_MONTH, 201303])
def test_span_example_gen_refuses_a_month_of_another_year(
    generate: Generate, own_spans: Path, month: int
) -> None:
    path = span_file(own_spans, month)
    edit(path, shift(-365))
    rows = pq.read_metadata(path).num_rows
    message = refusal(generate, own_spans)
    expected = rf"{path}: {rows} of {rows} rows are not of the month {month}: their 'time_hour' is "
    assert re.match(re.escape(expected) + r"2012-0\d-\d\dT.* to 2012-0\d-\d\dT.*, UTC$", message)


def test_span_example_gen_refuses_another_month_under_the_same_name(
    generate: Generate, own_spans: Path
) -> None:
    shutil.copy(span_file(own_spans, 201304), span_file(own_spans, 201303))
    assert "rows are not of the month 201303" in refusal(generate, own_spans)


def test_span_example_gen_counts_a_few_rows_of_another_month(
    generate: Generate, own_spans: Path
) -> None:
    stray = pq.read_table(span_file(own_spans, 201304))[100:103]
    edit(span_file(own_spans), lambda table: pa.concat_tables([table, stray]))
    assert f"{span_file(own_spans)}: 3 of " in refusal(generate, own_spans)


@pytest.mark.parametrize("month", range(201301, 201313))
def test_month_bounds_hold_the_local_calendar_of_real_months(month: int) -> None:
    times = pq.read_table(span_file(TRIPS, month), columns=[TIME])[TIME].to_pylist()
    begin, end = SpanPeriod.MONTH.bounds(month)
    assert begin - DAY <= min(times).timestamp() <= max(times).timestamp() < end + DAY


# Other layouts and formats


def text_of(table: pa.Table, path: Path) -> None:
    """Writes a table as CSV, gzipped CSV or JSON lines."""
    frame = table.to_pandas()
    frame[TIME] = frame[TIME].dt.strftime("%Y-%m-%d %H:%M:%SZ")
    path.parent.mkdir(parents=True, exist_ok=True)
    if ".csv" in path.name:
        frame.to_csv(path, index=False)
    else:
        frame.to_json(path, orient="records", lines=True)


def test_span_example_gen_keeps_what_text_files_hold(
    generate: Generate, tiny_spans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A month of text that was read is not read again, unless what was kept is damaged."""
    monkeypatch.setenv(STORE_VARIABLE, str(tmp_path / "store"))
    data = tmp_path / "data"
    for month in (201301, 201302, 201303):
        table = pq.read_table(span_file(tiny_spans, month))
        text_of(table, data / f"{month}" / "a.csv")
    copied = []

    def copy(self: Copier, path: str, *target: Any) -> list[str]:
        copied.append(Path(path).parent.name)
        return copy_of(self, path, *target)

    copy_of = Copier.copy
    monkeypatch.setattr(Copier, "copy", copy)
    first = generate(data, pattern="{YYYY}{MM}", as_of=201302, window=1)
    assert copied == ["201301", "201302"]
    more = generate(data, pattern="{YYYY}{MM}", as_of=201303, window=2)
    assert copied == ["201301", "201302", "201303"]
    assert rows_of(more, "train") + rows_of(more, "eval") == sum(
        (rows_of(first, split) for split in SPLITS), Counter()
    )
    for path in (tmp_path / "store").rglob("examples-*"):
        path.write_bytes(b"damaged")
    for path in (tmp_path / "store").rglob("rows-*"):
        path.write_bytes(path.read_bytes()[:-3])
    again = generate(data, pattern="{YYYY}{MM}", as_of=201303, window=2)
    assert [rows_of(again, split) for split in SPLITS] == [rows_of(more, split) for split in SPLITS]


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_span_example_gen_keeps_the_months_of_a_file_that_grows(
    generate: Generate,
    tiny_spans: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ending: str,
) -> None:
    monkeypatch.setenv(STORE_VARIABLE, str(tmp_path / "store"))
    tables = [pq.read_table(span_file(tiny_spans, m)) for m in (201301, 201302, 201303)]
    begin = {m: datetime(2013, m, 1, tzinfo=UTC) for m in (1, 2, 3, 4)}
    whole = pa.concat_tables(tables).sort_by(TIME)
    whole = whole.filter(pc.field(TIME) >= pa.scalar(begin[1], whole[TIME].type))
    path = tmp_path / f"all.{ending}"
    names = {}
    for month in (3, 4):
        part = whole.filter(pc.field(TIME) < pa.scalar(begin[month], whole[TIME].type))
        if ending == "csv":
            text_of(part, path)
        else:
            pq.write_table(part, path, row_group_size=100)
        found = generate(path, pattern="", as_of=201300 + month - 1, window=month - 2)
        names[month] = {ShardName.parse(name) for split in SPLITS for name in shards(found, split)}
    kept = {name for name in names[4] if name and name.span < 201303}
    assert {(n.span, n.key) for n in names[3] if n} == {(name.span, name.key) for name in kept}


@given(
    st.lists(
        st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5),
        max_size=4,
    ),
    st.lists(st.text()),
)
def test_file_rows_are_decoded_as_encoded(groups: list[list[int]], left_out: list[str]) -> None:
    rows = FileRows([np.array(group, np.int64) for group in groups], tuple(left_out))
    found = FileRows.decode(rows.encode())
    assert [group.tolist() for group in found.places] == groups
    assert found.left_out == rows.left_out


@given(st.binary() | st.binary().map(lambda rest: b'{"groups": [2], "left_out": []}\n' + rest))
def test_file_rows_are_refused_if_they_are_something_else(content: bytes) -> None:
    with pytest.raises((ValueError, UnicodeDecodeError)):
        FileRows.decode(content)


def test_row_order_gives_equal_values_equal_places_in_any_row_group() -> None:
    order = RowOrder("", ("k",))
    kinds = [pa.int64(), pa.int16(), pa.dictionary(pa.int8(), pa.int64())]
    tables = [pa.table({"k": pa.array([5, 7], kinds[0])})]
    tables += [pa.table({"k": pa.array([5, None, 7]).cast(pa.int64())}).slice(0, 3)]
    tables += [pa.table({"k": pa.array([5, 7], kinds[1])})]
    tables += [pa.table({"k": pa.array([5, 7]).dictionary_encode()})]
    places = [order.places(table, "") for table in tables]
    assert all((p[[0, -1]] == places[0]).all() for p in places)
    times = [pa.array([datetime(2013, 1, 1, tzinfo=UTC)], pa.timestamp(u, "UTC")) for u in ("us",)]
    texts = [pa.array(["a", None]), pa.array(["a", None]).dictionary_encode()]
    assert len({int(order.places(pa.table({"k": text}), "")[0]) for text in texts}) == 1
    for values in (*times, pa.array([[1, 2]]), pa.array([1.5]), pa.array([True]), pa.nulls(1)):
        assert 0 <= order.places(pa.table({"k": values}), "")[0] < order.BUCKETS


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "jsonl.gz"])
def test_span_example_gen_reads_of_text_what_it_reads_of_parquet(
    generate: Generate, tiny_spans: Path, examples: Any, tmp_path: Path, ending: str
) -> None:
    for month in (201301, 201302, 201303):
        table = pq.read_table(span_file(tiny_spans, month))
        text_of(table, tmp_path / f"year={month // 100}/month={month % 100:02d}" / f"a.{ending}")
    found = generate(tmp_path, pattern="year={YYYY}/month={MM}")
    for split in SPLITS:
        assert rows_of(found, split) == rows_of(examples, split)
    assert not (Path(found.uri) / ".staged").exists()


def test_span_example_gen_divides_one_file_by_time_as_months_are(
    generate: Generate, tiny_spans: Path, tmp_path: Path
) -> None:
    tables = [pq.read_table(span_file(tiny_spans, m)) for m in (201301, 201302, 201303)]
    whole = pa.concat_tables(tables)
    pq.write_table(whole, tmp_path / "all.parquet", row_group_size=100)
    found = generate(tmp_path / "all.parquet", pattern="")
    assert json.loads(found.get_string_custom_property("spans"))["test"] == [201303]
    seconds = np.array([time.timestamp() for time in whole[TIME].to_pylist()])
    begin, end = SpanPeriod.MONTH.bounds(201303)
    assert sorted(column_of(found, "test", TIME)) == sorted(
        seconds[(seconds >= begin) & (seconds < end)].astype(int)
    )
    rows = json.loads(found.get_string_custom_property("rows"))
    assert rows["train"] + rows["eval"] == ((seconds < begin) & (seconds >= begin - 60 * DAY)).sum()


def test_span_example_gen_splits_rows_without_a_time_by_a_hash(
    generate: Generate, tmp_path: Path
) -> None:
    values = [f"v{number}" for number in range(1000)]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.csv").write_text("x,k\n" + "".join(f"{v},{v[-1]}\n" for v in values))
    schema = schema_of(
        tmp_path, 'feature { name: "x" type: BYTES } feature { name: "k" type: INT }'
    )
    data, layout = tmp_path / "data", {"pattern": "", "time_column": "", "as_of": 0}
    found = generate(data, schema, **layout)
    again = generate(data, schema, **layout)
    splits = {split: set(column_of(found, split, "x")) for split in SPLITS}
    assert sorted(value for split in splits.values() for value in split) == sorted(
        value.encode() for value in values
    )
    assert splits == {split: set(column_of(again, split, "x")) for split in SPLITS}
    note = "by a hash of the row, for the rows have no time (data.time_column, data.spans)"
    assert found.get_string_custom_property("split") == note
    assert 640 < len(splits["train"]) < 760
    assert 60 < len(splits["eval"]) < 140
    by_key = generate(data, schema, key_columns='["k"]', **layout)
    keys = [set(column_of(by_key, split, "k")) for split in SPLITS]
    assert sum(map(len, keys)) == len(set.union(*keys)) == 10


@pytest.mark.parametrize(
    ("column", "feature", "reason"),
    [
        (pa.array([[1.0, 2.0], [3.0]]), "FLOAT shape { dim { size: 2 } }", "a vector of 1 values"),
        (pa.array([[1.0, 2.0]] * 2), "FLOAT", "one value is expected"),
        (
            pa.array([17_031_010_101, 17_031_010_102]),
            "FLOAT",
            "17031010101, and a 32-bit float leaves 1 of 2 such numbers",
        ),
        (pa.array([1e300, 1.0]), "FLOAT", "1e+300, which is too large for a 32-bit float"),
        (pa.array([{"a": 1}] * 2), "FLOAT", "floating point or integer is expected"),
        (pa.array([timedelta(1)] * 2), "INT", "integer is expected"),
    ],
)
def test_span_example_gen_refuses_a_column_by_name(
    generate: Generate, tmp_path: Path, column: pa.Array, feature: str, reason: str
) -> None:
    (tmp_path / "data").mkdir()
    table = pa.table({"x": pa.concat_arrays([column] * 50), "n": range(100)})
    pq.write_table(table, tmp_path / "data" / "a.parquet")
    schema = schema_of(tmp_path, f'feature {{ name: "x" type: {feature} }}')
    layout: dict[str, Any] = {"pattern": "", "time_column": "", "as_of": 0}
    message = refusal(generate, tmp_path / "data", schema=schema, key_columns='["n"]', **layout)
    assert message.startswith(str(tmp_path / "data" / "a.parquet"))
    assert "'x'" in message
    assert reason in message


def test_span_example_gen_tells_columns_that_are_rounded(
    generate: Generate, own_spans: Path
) -> None:
    """A sum of money may be: the numbers stay apart."""
    sums = pa.array([20_000_001 + 1_000_000 * n for n in range(10)])
    for month in (201301, 201302, 201303):
        edit(
            span_file(own_spans, month),
            with_column("seats", lambda table: pc.take(sums, [n % 10 for n in range(len(table))])),
        )
    found = generate(own_spans)
    assert found.get_string_custom_property("rounded") == '["seats"]'


def test_span_example_gen_tells_columns_apart_of_which_one_begins_like_another(
    generate: Generate, tmp_path: Path
) -> None:
    """Parquet takes `a` for the beginning of a nested column `a.b`."""
    (tmp_path / "data").mkdir()
    values = [float(n) for n in range(200)]
    table = pa.table({"trip.miles": values, "trip": [-v for v in values], "Trip (usd)": values})
    pq.write_table(table, tmp_path / "data" / "a.parquet")
    features = "".join(f'feature {{ name: "{name}" type: FLOAT }} ' for name in table.column_names)
    found = generate(
        tmp_path / "data",
        schema=schema_of(tmp_path, features),
        pattern="",
        time_column="",
        as_of=0,
        key_columns='["trip"]',
    )
    rows = [parse(record) for split in SPLITS for record in records(found, split)]
    assert sorted(row["trip.miles"] for row in rows) == values
    assert all(row["trip"] == -row["trip.miles"] == -row["Trip (usd)"] for row in rows)


def test_span_example_gen_reads_a_column_of_several_types_that_the_schema_lacks(
    generate: Generate, own_spans: Path
) -> None:
    """An integer in one month and a float in the next ended StatisticsGen with a TypeError."""
    for month, value in ((201301, 1), (201302, 1.5), (201303, "x")):
        path = span_file(own_spans, month)
        extra = pa.array([value] * pq.read_metadata(path).num_rows)
        pq.write_table(pq.read_table(path).append_column("extra", extra), path)
    found = generate(own_spans)
    assert set(column_of(found, "train", "extra")) == {None}
    assert found.get_string_custom_property("left_out") == '["extra"]'
