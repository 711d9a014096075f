"""Reads a table once: facts about its columns, and a sample of its rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from tensorflow_metadata.proto.v0 import schema_pb2

from ml.example_columns import convert_values
from orchestration.new_model.columns import Facts, Kind
from orchestration.new_model.text_kinds import parse_text, text_kinds
from storage.errors import DataError, one_line
from storage.spans import DataSource, filesystem, find_spans
from storage.tables import TIME_EXPECTED, iter_batches, read_schema, seconds_of

SAMPLE_ROWS = 100_000
_SAMPLE_CELLS = 8_000_000
_SHOWN_VALUES = 1000
_LARGEST_EXACT = 2**24  # Of whole numbers in 32-bit floats.
# Types that are taken as they are.
_PLAIN = (pa.types.is_null, pa.types.is_string, pa.types.is_boolean)
# Seconds from 1970 to 2261, and back to 1678: pandas counts nanoseconds in 64 bits.
_LATEST_TIME = 9.2e9
# pandas 2 would take the format of the first time for all; pandas 1 knows no such argument.
_ANY_ISO_FORMAT = {} if pd.__version__.startswith("1.") else {"format": "ISO8601"}
_LARGEST_FLOAT = float(np.finfo(np.float32).max)
# Column of the sample with the number of the row's span.
SPAN = "\0span"
_ORDER = "\0order"


@dataclass(frozen=True)
class Look:
    """What a look at a table found.

    Attributes:
      source: Where the data are.
      rows: Rows of each span, by its number.
      facts: Facts by column.
      sample: A row per sampled row, in the order of the data: the columns but vectors, and `SPAN`.
    """

    source: DataSource
    rows: dict[int, int]
    facts: dict[str, Facts]
    sample: pd.DataFrame

    @property
    def count(self) -> int:
        """Rows of the table."""
        return sum(self.rows.values())


@dataclass
class _State:
    """What is known of a column so far."""

    kind: Kind = Kind.NOTHING
    missing: int = 0
    minimum: float | None = None
    maximum: float | None = None
    length: int = 1
    whole: bool = True
    integral: bool = True
    zone: bool = True


def look(source: DataSource) -> Look:
    """Reads a table.

    Args:
      source: Where the data are.

    Raises:
      DataError: If it cannot be read, has no row, or its files do not have the same columns.
    """
    states: dict[str, _State] = {}
    rows: Counter[int] = Counter()
    parts: list[pd.DataFrame] = []
    share, seen = 1.0, 0
    for number, path, batch in _batches(source):
        if not states:
            states = {name: _State() for name in batch.schema.names}
            limit = min(SAMPLE_ROWS, max(1000, _SAMPLE_CELLS // len(states)))
        _check_same(path, states, batch)
        arrays = {
            name: _plain(path, name, batch.column(i)) for i, name in enumerate(batch.schema.names)
        }
        for name, array in arrays.items():
            _update(path, name, states[name], array)
        spans = _spans(source, number, path, arrays, batch.num_rows)
        rows.update(dict(zip(*np.unique(spans, return_counts=True), strict=True)))
        order = _uniform(seen, batch.num_rows)
        seen += batch.num_rows
        parts.append(_part(arrays, spans, order, share))
        while sum(map(len, parts)) > limit:
            share /= 2
            whole = pd.concat(parts)
            parts = [whole[whole[_ORDER] < share]]
    if not seen:
        raise DataError(f"{source.uri}: there is no row")
    sampled = pd.concat(parts, ignore_index=True).drop(columns=_ORDER)
    # All at once: pandas takes milliseconds to replace a column among many.
    sample = pd.DataFrame(
        {
            name: _typed(column, states[name].kind) if name in states else column
            for name, column in sampled.items()
        }
    )
    facts = {name: _facts(name, state, seen, sample) for name, state in states.items()}
    return Look(source, {int(number): count for number, count in rows.items()}, facts, sample)


def seconds_of_sample(found: Look) -> np.ndarray:
    """The times of the sampled rows, int64 seconds since the Unix epoch, [rows].

    Raises:
      DataError: If the time column has no times, or lacks one.
    """
    name = found.source.time_column
    facts = found.facts[name]
    if facts.kind not in (Kind.TIME, Kind.INTEGER):
        raise DataError(f"--time {name}: the column is {facts.kind.value}; {TIME_EXPECTED}")
    if facts.missing:
        raise DataError(
            f"--time {name}: {facts.missing:,} of {facts.rows:,} rows have no value; every row "
            "needs a time"
        )
    values = found.sample[name].astype("int64").to_numpy()
    return values if facts.kind is Kind.INTEGER else values // 10**9


def nearly_numbers(values: pd.Series) -> str:
    """A value that makes a column text although nearly all others are numbers; "" for none."""
    present = values.dropna().astype(str)
    numbers = pd.to_numeric(present, errors="coerce")
    if not len(present) or not 0.8 < numbers.notna().mean() < 1:
        return ""
    return str(present[numbers.isna()].iloc[0])


def _batches(source: DataSource) -> Iterator[tuple[int | None, str, pa.RecordBatch]]:
    """The rows of all files, with the number of their span if the path tells it."""
    files, _ = filesystem(source.uri)
    done: set[str] = set()
    for span in find_spans(source):
        number = None if span.within else span.number
        for path in span.files:
            if path in done:
                continue
            done.add(path)
            read_schema(path, files, source.text)  # Refuses names that cannot be told apart.
            for batch in iter_batches(path, files, {}, source.text):
                yield number, path, batch


def _check_same(path: str, states: Mapping[str, _State], batch: pa.RecordBatch) -> None:
    names = set(batch.schema.names)
    for name in sorted(names ^ states.keys()):
        found = "has column {!r}, and others do not" if name in names else "lacks column {!r}"
        raise DataError(f"{path} {found.format(name)}: all files need the same columns")


def _plain(path: str, name: str, array: pa.Array) -> pa.Array:
    """A column as text, int64, float64, booleans, times in seconds, or a list of numbers.

    Raises:
      DataError: If a model cannot take such values.
    """
    try:
        return _converted(array)
    except pa.ArrowException as error:
        reason = one_line(error)
        raise DataError(
            f"{path}: column {name!r} is {array.type} and cannot be taken ({reason}): leave it out "
            "of the data"
        ) from error


def _converted(array: pa.Array) -> pa.Array:
    kind = array.type
    if pa.types.is_dictionary(kind):
        array = array.dictionary_decode()
        kind = array.type
    if pa.types.is_large_string(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return array.cast(pa.string())
    if pa.types.is_date(kind):
        return array.cast(pa.timestamp("s"))
    if pa.types.is_timestamp(kind):
        return array.cast(pa.timestamp("s", kind.tz), safe=False)
    if pa.types.is_decimal(kind) or pa.types.is_float16(kind):
        return pa.array(array.to_pandas().astype(np.float64), from_pandas=True)
    if pa.types.is_uint64(kind) and (pc.max(array).as_py() or 0) >= 2**63:
        return array.cast(pa.float64(), safe=False)
    if pa.types.is_integer(kind):
        return array.cast(pa.int64())
    if pa.types.is_floating(kind):
        values = array.cast(pa.float64())
        return pc.if_else(pc.is_nan(values), pa.scalar(None, pa.float64()), values)
    if _is_vector(kind):
        return array.cast(pa.list_(kind.value_type)) if pa.types.is_large_list(kind) else array
    if any(check(kind) for check in _PLAIN):
        return array
    raise pa.ArrowNotImplementedError("text, numbers, times, and lists of numbers are taken")


def _kind(kind: pa.DataType) -> Kind:
    """The kind of a plain column."""
    for is_kind, found in (
        (pa.types.is_null, Kind.NOTHING),
        (pa.types.is_string, Kind.TEXT),
        (pa.types.is_int64, Kind.INTEGER),
        (pa.types.is_float64, Kind.NUMBER),
        (pa.types.is_boolean, Kind.BOOLEAN),
        (pa.types.is_timestamp, Kind.TIME),
    ):
        if is_kind(kind):
            return found
    return Kind.VECTOR


def _is_vector(kind: pa.DataType) -> bool:
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if not any(check(kind) for check in lists):
        return False
    return bool(pa.types.is_integer(kind.value_type) or pa.types.is_floating(kind.value_type))


def _update(path: str, name: str, state: _State, array: pa.Array) -> None:
    """Adds a batch to what is known of a column.

    Raises:
      DataError: If it has a time that cannot be calculated with.
    """
    state.missing += array.null_count
    if array.null_count == len(array):
        return
    kind = _kind(array.type)
    texts = text_kinds(path)
    if kind is Kind.TEXT and state.kind is not Kind.TEXT:
        kind, array = parse_text(path, array, state.kind)
    if state.kind is Kind.NOTHING or state.kind is kind:
        state.kind = kind
    elif {state.kind, kind} == {Kind.INTEGER, Kind.NUMBER}:
        state.kind = Kind.NUMBER
    elif state.kind in texts and kind in texts:
        state.kind = Kind.TEXT
    else:
        raise DataError(
            f"{path}: column {name!r} is {kind.value}, and {state.kind.value} in other files or "
            "rows: give it one type"
        )
    if kind is Kind.VECTOR:
        array = _update_vector(state, array)
    if kind is Kind.TIME:
        state.zone = array.type.tz is not None
        array = array.cast(pa.int64())
    if kind in (Kind.INTEGER, Kind.NUMBER, Kind.TIME, Kind.VECTOR):
        found = pc.min_max(array)
        if found["min"].as_py() is None:
            return
        lowest, highest = float(found["min"].as_py()), float(found["max"].as_py())
        if kind is Kind.TIME and max(-lowest, highest) > _LATEST_TIME:
            raise DataError(
                f"{path}: column {name!r} has times outside the years 1678 to 2261: mend them, or "
                "leave it out of the data"
            )
        state.minimum = lowest if state.minimum is None else min(state.minimum, lowest)
        state.maximum = highest if state.maximum is None else max(state.maximum, highest)


def _update_vector(state: _State, array: pa.Array) -> pa.Array:
    """Adds a batch of vectors; returns all their values that are there, float64."""
    lengths = pc.min_max(pc.list_value_length(array))
    shortest, longest = lengths["min"].as_py(), lengths["max"].as_py()
    first = state.minimum is None
    values = pc.list_flatten(array).cast(pa.float64(), safe=False)
    finite = bool(pc.all(pc.is_finite(values), min_count=0).as_py())
    state.whole &= shortest == longest and (first or longest == state.length)
    state.whole &= finite and not values.null_count and _holds(values)
    state.integral &= bool(pc.all(pc.equal(pc.floor(values), values), min_count=0).as_py())
    state.length = longest if first else max(longest, state.length)
    return values


def _spans(
    source: DataSource, number: int | None, path: str, arrays: Mapping[str, pa.Array], rows: int
) -> np.ndarray:
    """The span of each row, int64 [rows]."""
    if number is not None or not source.time_column:
        return np.full(rows, number or 0)
    times = arrays[source.time_column]
    if pa.types.is_string(times.type):
        _, times = parse_text(path, times)
    return source.period.numbers_of(seconds_of(path, times, source.time_column))


def _uniform(start: int, count: int) -> np.ndarray:
    """Numbers in [0, 1) that depend on the place of a row alone (Fibonacci hashing), [count]."""
    hashed = np.arange(start, start + count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    hashed ^= hashed >> np.uint64(29)
    return (hashed * np.uint64(0xBF58476D1CE4E5B9) >> np.uint64(11)) / float(2**53)


def _part(
    arrays: Mapping[str, pa.Array], spans: np.ndarray, order: np.ndarray, share: float
) -> pd.DataFrame:
    """The sampled rows of a batch."""
    chosen = order < share
    kept = pa.array(chosen)
    columns = {
        name: array.filter(kept).to_pandas()
        for name, array in arrays.items()
        if not _is_vector(array.type)
    }
    return pd.DataFrame({**columns, SPAN: spans[chosen], _ORDER: order[chosen]})


def _typed(values: pd.Series, kind: Kind) -> pd.Series:
    """A column of the sample, as its kind."""
    if kind in (Kind.INTEGER, Kind.NUMBER):
        return pd.to_numeric(values)
    if kind is Kind.TIME:
        # pandas 2 would keep the unit of the data, such as seconds.
        return pd.to_datetime(values, utc=True, **_ANY_ISO_FORMAT).astype("datetime64[ns, UTC]")
    if kind is Kind.BOOLEAN:
        text = values.astype("string").str.lower()
        return text.map({"true": 1.0, "false": 0.0, "1": 1.0, "0": 0.0}).astype(float)
    return values


def _facts(name: str, state: _State, rows: int, sample: pd.DataFrame) -> Facts:
    extremes = [v for v in (state.minimum, state.maximum) if v is not None]
    largest = max(map(abs, extremes), default=0.0)
    facts = Facts(
        name=name,
        kind=state.kind,
        rows=rows,
        missing=state.missing,
        sampled=0,
        distinct=0,
        minimum=state.minimum,
        maximum=state.maximum,
        length=state.length,
        exact=state.whole
        and largest <= (_LARGEST_EXACT if state.kind is Kind.INTEGER else _LARGEST_FLOAT)
        and _are_told_apart(name, state, sample),
        integral=state.kind is Kind.VECTOR and state.integral,
        zone=state.zone,
    )
    if name not in sample:
        return facts
    values = sample[name].dropna()
    counts = values.value_counts()
    shown = counts.head(_SHOWN_VALUES)
    texts = values.astype(str) if state.kind is Kind.TEXT else pd.Series(dtype=str)
    numeric = state.kind in (Kind.INTEGER, Kind.NUMBER)
    return replace(
        facts,
        sampled=len(values),
        distinct=len(counts),
        values=tuple((_show(v, state.kind), int(n)) for v, n in shown.items()),
        skewness=float(np.nan_to_num(values.skew())) if numeric and len(values) > 2 else 0.0,
        words=float(texts.str.count(r"\S+").mean()) if len(texts) else 0.0,
    )


def _are_told_apart(name: str, state: _State, sample: pd.DataFrame) -> bool:
    """Whether a feature of 32-bit floats, if it becomes one, has different values of a column."""
    is_float = state.kind is Kind.NUMBER or (state.kind is Kind.TIME and state.missing)
    if not is_float or name not in sample:
        return True
    values = sample[name].dropna()
    if state.kind is Kind.TIME:
        values = values.astype("int64") // 10**9
    return _holds(pa.array(values.to_numpy()))


def _holds(numbers: pa.Array) -> bool:
    """Whether 32-bit floats hold numbers, as SpanExampleGen requires."""
    try:
        convert_values("", numbers, schema_pb2.FLOAT, set())
    except DataError:
        return False
    return True


def _show(value: Any, kind: Kind) -> str:
    if kind is Kind.BOOLEAN:
        return str(bool(value)).lower()
    if kind is Kind.INTEGER:
        return str(int(value))
    return str(value)
