"""Cuts a window of spans into shards: which rows become which file of which split."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import pyarrow as pa

from components.span_example_gen.parquet import open_parquet, read_times
from ml.example_columns import Columns
from storage import spans
from storage.errors import DataError
from storage.span_store import ShardName

SPLITS = ("train", "eval", "test")
ROWS_PER_SHARD = 16_384
# Version of the format: files that were kept in another one are not used.
_ENCODING = 1


@dataclass(frozen=True)
class Shard:
    """Row groups of one Parquet file that become one TFRecord file of one split.

    Attributes:
      split: Name of the split.
      name: Name of the TFRecord file.
      path: The Parquet file.
      row_groups: Indices of the row groups to read.
      after: Seconds since the epoch; rows at or before it are left out. None: no such bound.
      until: Seconds since the epoch; rows after it are left out. None: no such bound.
      rows: How many rows that leaves.
    """

    split: str
    name: ShardName
    path: str
    row_groups: tuple[int, ...]
    after: int | None
    until: int | None
    rows: int


def plan_shards(
    data_uri: str, window: spans.Window, columns: Columns, eval_span: timedelta
) -> tuple[list[Shard], dict[str, int]]:
    """Cuts a window into shards, having looked at footers and the time column alone.

    Args:
      data_uri: Directory that holds the spans.
      window: The spans to read.
      columns: What every file must have.
      eval_span: How much time at the end of the window becomes `eval`.

    Returns:
      The shards, and the number of rows of each split.

    Raises:
      DataError: If a file cannot be read, has the wrong columns or rows of another month, or if a
        span or split has no row.
    """
    files, _ = spans.filesystem(data_uri)
    seconds = int(eval_span.total_seconds())
    times = {
        span.month: _read_span_times(files, span, columns) for span in (*window.train, window.test)
    }
    cutoff = max(_bounds(times[span.month])[1] for span in window.train) - seconds
    shards: list[Shard] = []
    rows = dict.fromkeys(SPLITS, 0)
    for span in (*window.train, window.test):
        of_span = times[span.month]
        first, last = _bounds(of_span)
        cuts = sorted({last - seconds, cutoff} if first <= cutoff < last else {last - seconds})
        index = 0
        for piece, (after, until) in enumerate(zip([None, *cuts], [*cuts, None], strict=True)):
            split = "train" if (last if until is None else until) <= cutoff else "eval"
            split = "test" if span == window.test else split
            for path, groups in of_span.items():
                counts = [_count(group, after, until) for group in groups]
                rows[split] += sum(counts)
                for portion in _portions(counts):
                    count = sum(counts[group] for group in portion)
                    facts = (_ENCODING, span.fingerprint, path, portion, after, until, columns.key)
                    key = hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
                    name = ShardName(span.month, piece, index, key)
                    shards.append(Shard(split, name, path, portion, after, until, count))
                    index += 1
    for split in SPLITS:
        if not rows[split]:
            raise DataError(
                f"the {split} split has no row; the window has {len(window.train)} month(s)"
            )
    return shards, rows


def within(seconds: np.ndarray, after: int | None, until: int | None) -> np.ndarray:
    """Which times are after the one bound and not after the other, shape [rows]; see `Shard`."""
    keep = np.ones(len(seconds), bool)
    if after is not None:
        keep &= seconds > after
    if until is not None:
        keep &= seconds <= until
    return keep


def _bounds(times: dict[str, list[np.ndarray]]) -> tuple[int, int]:
    """The first and the last time of a span, in seconds since the epoch."""
    seconds = np.concatenate([group for groups in times.values() for group in groups])
    return int(seconds.min()), int(seconds.max())


def _count(seconds: np.ndarray, after: int | None, until: int | None) -> int:
    return int(within(seconds, after, until).sum())


def _portions(counts: list[int]) -> Iterator[tuple[int, ...]]:
    """Groups the row groups that have rows into portions of about one shard."""
    portion: list[int] = []
    size = 0
    for group, count in enumerate(counts):
        if not count:
            continue
        portion.append(group)
        size += count
        if size >= ROWS_PER_SHARD:
            yield tuple(portion)
            portion, size = [], 0
    if portion:
        yield tuple(portion)


def _read_span_times(
    files: pa.fs.FileSystem, span: spans.Span, columns: Columns
) -> dict[str, list[np.ndarray]]:
    """The times of each row group of each file of a span, after the columns were checked."""
    times = {}
    for path in span.files:
        with open_parquet(files, path) as parquet:
            columns.check(path, parquet.schema_arrow)
            times[path] = [
                read_times(parquet, path, g, columns.time) for g in range(parquet.num_row_groups)
            ]
        _check_month(path, span.month, times[path], columns.time)
    if not any(len(group) for groups in times.values() for group in groups):
        raise DataError(f"span-{span.month} has no row: {', '.join(span.files)}")
    return times


def _check_month(path: str, month: int, times: list[np.ndarray], column: str) -> None:
    """Checks that the rows of a file are of its span's month, give or take a day for time zones."""
    begin, end = spans.month_bounds(month)
    seconds = np.concatenate([np.empty(0, np.int64), *times])
    outside = seconds[(seconds < begin) | (seconds >= end)]
    if len(outside):
        first, last = np.array([outside.min(), outside.max()]).astype("datetime64[s]")
        raise DataError(
            f"{path}: {len(outside):,} of {len(seconds):,} rows are not of the month {month}: "
            f"their {column!r} is {first} to {last}, UTC"
        )
