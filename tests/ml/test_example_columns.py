"""Tests what columns of tables become as features of tf.Examples."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from tensorflow_metadata.proto.v0 import schema_pb2

from ml.example_columns import Columns, to_example_batch
from storage.errors import DataError

INT, FLOAT, BYTES = schema_pb2.INT, schema_pb2.FLOAT, schema_pb2.BYTES
KINDS = {INT: "INT", FLOAT: "FLOAT", BYTES: "BYTES"}
NOON = datetime(2013, 1, 31, 12, tzinfo=UTC)


def columns_of(feature: str, time_column: str = "") -> Columns:
    text = f'feature {{ name: "x" {feature} }}'
    return Columns.from_schema(text_format.Parse(text, schema_pb2.Schema()), time_column)


def convert(array: pa.Array, feature: str, rounded: set[str] | None = None) -> list[Any]:
    """A column as lists of values; None where the feature is absent."""
    columns = columns_of(feature)
    batch = pa.RecordBatch.from_arrays([array], ["x"])
    columns.check("a.parquet", batch.schema)
    found = to_example_batch(batch, columns, rounded)
    return found.column(0).to_pylist() if found.num_columns else [None] * len(array)


WIDTHS = [pa.int8(), pa.int16(), pa.int32(), pa.int64()]
WIDTHS += [pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]


@pytest.mark.parametrize("kind", WIDTHS, ids=str)
@pytest.mark.parametrize("feature", [INT, FLOAT])
def test_to_example_batch_takes_integers_of_every_width(kind: pa.DataType, feature: int) -> None:
    assert convert(pa.array([1, None, 100], kind), f"type: {KINDS[feature]}") == [[1], None, [100]]


@pytest.mark.parametrize(
    ("array", "feature", "expected"),
    [
        (pa.array(np.array([1.5, 2.0], np.float16)), FLOAT, [[1.5], [2.0]]),
        (pa.array([1.5, None], pa.float32()), FLOAT, [[1.5], None]),
        (pa.array([1.5, None], pa.float64()), FLOAT, [[1.5], None]),
        (pa.array([Decimal("1.25"), None]), FLOAT, [[1.25], None]),
        (pa.array([True, None, False]), INT, [[1], None, [0]]),
        (pa.array([True, None, False]), FLOAT, [[1.0], None, [0.0]]),
        (pa.array([date(1970, 1, 2), None]), INT, [[86_400], None]),
        (pa.array([date(1970, 1, 2), None], pa.date64()), INT, [[86_400], None]),
        (pa.array([NOON, None]), INT, [[int(NOON.timestamp())], None]),
        (pa.array([-1, 1_999], pa.int64()).cast(pa.timestamp("ms")), INT, [[-1], [1]]),
        (pa.array(["a", None, ""]), BYTES, [[b"a"], None, [b""]]),
        (pa.array(["a", None], pa.large_string()), BYTES, [[b"a"], None]),
        (pa.array([b"\xff", None]), BYTES, [[b"\xff"], None]),
        (pa.array(["a", None, "b"]).dictionary_encode(), BYTES, [[b"a"], None, [b"b"]]),
        (pa.array(["a", "b"], pa.large_string()).dictionary_encode(), BYTES, [[b"a"], [b"b"]]),
        (pa.array([7, None, 9]).dictionary_encode(), INT, [[7], None, [9]]),
        (pa.array([0.5, None]).dictionary_encode(), FLOAT, [[0.5], None]),
        (pa.nulls(2), INT, [None, None]),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else None,
)
def test_to_example_batch_takes_every_type_that_fits(
    array: pa.Array, feature: int, expected: list[Any]
) -> None:
    assert convert(array, f"type: {KINDS[feature]}") == expected


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.float32()),
        pa.list_(pa.uint8(), 2),
        pa.list_(pa.float64(), 2),
        pa.large_list(pa.int64()),
    ],
    ids=str,
)
def test_to_example_batch_takes_vectors_of_one_length(kind: pa.DataType) -> None:
    vectors = pa.array([[1, 2], None, [3, 4], [5, 6]], kind).slice(1)
    feature = "type: FLOAT shape { dim { size: 2 } }"
    assert convert(vectors, feature) == [None, [3.0, 4.0], [5.0, 6.0]]


@pytest.mark.parametrize(
    ("array", "feature", "reason"),
    [
        (pa.array([[1.0], None]), "type: FLOAT", "one value is expected (a vector has its length"),
        (
            pa.array([[1.0], None]),
            "type: FLOAT shape { dim { size: 2 } }",
            "column 'x' has a vector of 1 values; 2 are expected",
        ),
        (
            pa.array([[1.0, None]]),
            "type: FLOAT shape { dim { size: 2 } }",
            "column 'x' has vectors in which a value is absent",
        ),
        (
            pa.array([1.0]),
            "type: FLOAT shape { dim { size: 2 } }",
            "column 'x' is double; a list of 2 values is expected",
        ),
        (pa.array([{"a": 1}]), "type: INT", "integer is expected"),
        (pa.array([1.5]), "type: INT", "column 'x' is double; integer is expected"),
        (pa.array([1]), "type: BYTES", "column 'x' is int64; string is expected"),
        (pa.array([Decimal("1.5")]), "type: INT", "integer is expected"),
        (pa.array(["1"]), "type: FLOAT", "floating point or integer is expected"),
        (pa.array([1], pa.duration("s")), "type: INT", "integer is expected"),
        (pa.array([1], pa.time32("s")), "type: INT", "integer is expected"),
        (pa.array([2**63], pa.uint64()), "type: INT", "column 'x': Integer value"),
        (pa.array([1e300]), "type: FLOAT", "column 'x' has 1e+300, which is too large"),
        (
            pa.array([2.0**25 + 1, 2.0**25 + 2, 1.0]),
            "type: FLOAT",
            "column 'x' has 33554433, and a 32-bit float leaves 1 of 2 such numbers: make it an",
        ),
        (
            pa.array([Decimal(17_031_010_101), Decimal(17_031_010_102)]),
            "type: FLOAT",
            "column 'x' has 17031010101, and a 32-bit float leaves 1 of 2",
        ),
        (
            pa.array([1359590400.25, 1359590400.5]),
            "type: FLOAT",
            "column 'x' has 1359590400.25, and a 32-bit float leaves 1 of 2 such numbers",
        ),
        (
            pa.array([1e-300, 2e-300, None]),
            "type: FLOAT",
            "column 'x' has 1e-300, and a 32-bit float makes 0 of all such numbers: scale",
        ),
        (
            pa.array([[1.0, np.nan]]),
            "type: FLOAT shape { dim { size: 2 } }",
            "column 'x' has vectors in which a value is absent, or NaN",
        ),
    ],
)
def test_columns_refuse_what_does_not_fit_by_name(
    array: pa.Array, feature: str, reason: str
) -> None:
    with pytest.raises(DataError, match=re.escape(reason)):
        convert(array, feature)


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64()], ids=str)
def test_to_example_batch_takes_nan_as_absent(kind: pa.DataType) -> None:
    array = pa.array(np.array([1.5, np.nan, 2.0], kind.to_pandas_dtype()))
    assert convert(array, "type: FLOAT") == [[1.5], None, [2.0]]


def test_to_example_batch_tells_numbers_that_hardly_differ() -> None:
    """Of a Julian date, a 32-bit float holds a quarter of a day."""
    rounded: set[str] = set()
    convert(pa.array(2_456_324 + np.arange(24 * 60) / 24), "type: FLOAT", rounded)
    assert rounded == {"x"}


def test_to_example_batch_does_not_tell_noise_of_calculations() -> None:
    rounded: set[str] = set()
    noise = np.tile([0.1 + 0.2, 0.3, 20_000_000.1 + 0.2, 20_000_000.3], 20)
    convert(pa.array(noise + np.repeat(np.arange(20), 4) * 1e6), "type: FLOAT", rounded)
    assert not rounded


def test_to_example_batch_tells_whole_numbers_that_are_rounded() -> None:
    rounded: set[str] = set()
    convert(pa.array([20_000_001, 30_000_003]), "type: FLOAT", rounded)
    assert rounded == {"x"}


@given(
    st.lists(
        st.none()
        | st.integers(-(2**24), 2**24)
        | st.integers(2**24, 2**60).map(lambda number: int(np.float32(number)))
    )
)
def test_to_example_batch_keeps_whole_numbers_that_a_float_holds(values: list[int | None]) -> None:
    rounded: set[str] = set()
    found = convert(pa.array(values, pa.int64()), "type: FLOAT", rounded)
    assert found == [None if value is None else [float(value)] for value in values]
    assert not rounded


@given(st.lists(st.floats(width=64, allow_nan=False, min_value=-1e30, max_value=1e30)))
def test_to_example_batch_rounds_fractions_without_a_word(values: list[float]) -> None:
    fractions = [value for value in values if abs(value) < 2**24 and not 0 < abs(value) < 1e-37]
    rounded: set[str] = set()
    found = convert(pa.array(fractions, pa.float64()), "type: FLOAT", rounded)
    assert found == [[np.float32(value)] for value in fractions]
    assert not rounded


def test_columns_take_a_time_of_any_kind_and_refuse_a_text() -> None:
    columns = columns_of("type: INT", "x")
    for kind in (pa.timestamp("us", "Europe/Berlin"), pa.date32(), pa.int32()):
        columns.check("a", pa.schema([("x", kind)]))
    with pytest.raises(DataError, match="'x' is string; a timestamp, a date or whole seconds"):
        columns.check("a", pa.schema([("x", pa.string())]))


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["x", "x"], "column 'x' is there 2 times"),
        (["x", "X"], "columns 'x' and 'X' differ in capitals alone: rename one"),
        (["x", " "], "column 2 has no name: name it, or leave it out (pandas writes"),
        (["y"], "column 'x' is missing; it has y"),
        (["X"], "column 'x' is missing; it has 'X', which differs in capitals alone: rename it"),
    ],
)
def test_columns_refuse_names_that_cannot_be_told_apart(names: list[str], reason: str) -> None:
    columns = columns_of("type: INT presence { min_count: 1 }")
    with pytest.raises(DataError, match=re.escape(reason)):
        columns.check("a", pa.schema([pa.field(name, pa.int64()) for name in names]))


def test_columns_refuse_an_optional_column_under_another_spelling() -> None:
    """It would be absent in every row."""
    with pytest.raises(DataError, match="it has 'X', which differs in capitals alone"):
        columns_of("type: INT").check("a", pa.schema([pa.field("X", pa.int64())]))
