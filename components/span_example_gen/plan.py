"""Cuts a window of spans into shards: which rows become which file of which split."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from components.span_example_gen.row_order import RowOrder, within
from components.span_example_gen.source_files import SourceFiles
from storage.errors import DataError
from storage.periods import SpanPeriod
from storage.span_store import ShardName
from storage.spans import DataSource, Span, Window

SPLITS = ("train", "eval", "test")
ROWS_PER_SHARD = 16_384
# Version of the format of kept files; others are not used.
_ENCODING = 5
_DAY = 24 * 3600


@dataclass(frozen=True)
class Shares:
    """How much of the data is held out.

    Attributes:
      eval_days: Days at the end of the window that become `eval`, where rows have a time.
      eval_share: Share of the window's rows that become `eval`, where they have none.
      test_share: Share of all rows that become `test`, where nothing divides them into spans.
    """

    eval_days: int
    eval_share: float
    test_share: float


@dataclass(frozen=True)
class Shard:
    """Row groups of one Parquet file that become one TFRecord file of one split.

    Attributes:
      split: Name of the split.
      name: Name of the TFRecord file.
      path: The file.
      row_groups: Indices of the row groups to read.
      after: Rows at or before this place in the `RowOrder` are left out; None for no bound.
      until: Rows after this place are left out; None for no bound.
      rows: Number of rows left.
    """

    split: str
    name: ShardName
    path: str
    row_groups: tuple[int, ...]
    after: int | None
    until: int | None
    rows: int


@dataclass(frozen=True)
class _Piece:
    """Rows of a span that are in one split.

    Attributes:
      split: Name of the split.
      after: See `Shard`.
      until: See `Shard`.
    """

    split: str
    after: int | None
    until: int | None


# The places of the rows of each row group, by file.
_Places = dict[str, list[np.ndarray]]


def plan_shards(
    window: Window, files: SourceFiles, shares: Shares
) -> tuple[list[Shard], dict[str, int]]:
    """Cuts a window into shards.

    Of the files, it reads what decides on the split: the time column, the key, or all columns.

    Args:
      window: The spans to read.
      files: Their files.
      shares: How much is held out.

    Returns:
      The shards, and the number of rows of each split.

    Raises:
      DataError: If a file cannot be read, has the wrong columns or rows of another span, or if a
        span or split has no row.
    """
    places = {span.number: _read_places(span, files) for span in window.spans}
    shards: list[Shard] = []
    rows = dict.fromkeys(SPLITS, 0)
    cut = _cut_by_time if files.source.time_column else _cut_by_hash
    for span, pieces in cut(files.source, window, places, shares):
        index = 0
        for number, piece in enumerate(pieces):
            for (path, groups), version in zip(
                places[span.number].items(), span.versions, strict=True
            ):
                counts = [int(within(g, piece.after, piece.until).sum()) for g in groups]
                rows[piece.split] += sum(counts)
                for portion in _portions(counts):
                    bounds = piece.after, piece.until
                    if span.within:  # Other rows of its files may change.
                        facts: tuple[object, ...] = (
                            files.digest(span, path, version, portion, *bounds),
                        )
                    else:
                        facts = (version, path, portion, *bounds)
                    key = _key(facts, files)
                    shards.append(
                        Shard(
                            piece.split,
                            ShardName(span.number, number, index, key[:16]),
                            path,
                            portion,
                            *bounds,
                            sum(counts[group] for group in portion),
                        )
                    )
                    index += 1
    for split in SPLITS:
        if not rows[split]:
            hint = "" if files.source.time_column else "; rows with the same hash are in one split"
            raise DataError(
                f"the {split} split has no row; the window has {len(window.train)} span(s) with "
                f"{sum(rows.values()):,} rows{hint}"
            )
    return shards, rows


def _cut_by_time(
    source: DataSource, window: Window, places: dict[int, _Places], shares: Shares
) -> Iterator[tuple[Span, list[_Piece]]]:
    """The last days of the window are `eval`.

    Every span is cut where its own last days begin, so that it consists of the same files whatever
    split they are in.
    """
    seconds = shares.eval_days * _DAY
    bounds = {span.number: _bounds(source, span, places[span.number]) for span in window.spans}
    cutoff = max(bounds[span.number][1] for span in window.train) - seconds
    for span in window.spans:
        first, last = bounds[span.number]
        begin, end = _range(source, span)
        cuts = sorted({last - seconds, cutoff} if first <= cutoff < last else {last - seconds})
        pieces = []
        for after, until in zip([begin, *cuts], [*cuts, end], strict=True):
            split = "train" if (last if until is None else until) <= cutoff else "eval"
            pieces.append(_Piece("test" if span == window.test else split, after, until))
        yield span, pieces


def _cut_by_hash(
    source: DataSource, window: Window, places: dict[int, _Places], shares: Shares
) -> Iterator[tuple[Span, list[_Piece]]]:
    """A share of the rows is `eval`; where all is one span, another share is `test`."""
    if window.test in window.train:
        test = RowOrder.BUCKETS - round(shares.test_share * RowOrder.BUCKETS) - 1
        evaluation = test - round(shares.eval_share * RowOrder.BUCKETS)
        yield (
            window.test,
            [
                _Piece("train", None, evaluation),
                _Piece("eval", evaluation, test),
                _Piece("test", test, None),
            ],
        )
        return
    cut = RowOrder.BUCKETS - round(shares.eval_share * RowOrder.BUCKETS) - 1
    for span in window.spans:
        splits = ("test", "test") if span == window.test else ("train", "eval")
        yield span, [_Piece(splits[0], None, cut), _Piece(splits[1], cut, None)]


def _range(source: DataSource, span: Span) -> tuple[int | None, int | None]:
    """The bounds of a span's own rows, if its files have others too; see `Shard`."""
    if not span.within:
        return None, None
    begin, end = source.numbering.bounds(span.number)
    return begin - 1, end - 1


def _bounds(source: DataSource, span: Span, places: _Places) -> tuple[int, int]:
    """The first and the last time of a span's rows, in seconds since the epoch."""
    seconds = np.concatenate([group for groups in places.values() for group in groups])
    seconds = seconds[within(seconds, *_range(source, span))]
    return int(seconds.min()), int(seconds.max())


def _portions(counts: Sequence[int]) -> Iterator[tuple[int, ...]]:
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


def _key(facts: tuple[object, ...], files: SourceFiles) -> str:
    """Digest of all that the content of a shard depends on."""
    everything = (_ENCODING, *facts, files.columns.key, files.order, files.source.text)
    return hashlib.sha256(repr(everything).encode()).hexdigest()


def _read_places(span: Span, files: SourceFiles) -> _Places:
    """Checks the columns of a span, and reads the places of the rows of each row group."""
    source, places = files.source, {}
    for path, version in zip(span.files, span.versions, strict=True):
        places[path] = files.read_rows(span, path, version)
        if source.time_column and not span.within:
            _check_period(source, path, span.number, places[path])
    if not any(len(group) for groups in places.values() for group in groups):
        raise DataError(f"{source.name(span.number)} has no row: {', '.join(span.files)}")
    return places


def _check_period(source: DataSource, path: str, number: int, times: Sequence[np.ndarray]) -> None:
    """Checks that the rows of a file are of its span, within a day to allow for time zones."""
    if source.numbering is SpanPeriod.NUMBER:
        return
    begin, end = source.numbering.bounds(number)
    seconds = np.concatenate([np.empty(0, np.int64), *times])
    outside = seconds[(seconds < begin - _DAY) | (seconds >= end + _DAY)]
    if len(outside):
        first, last = np.array([outside.min(), outside.max()]).astype("datetime64[s]")
        raise DataError(
            f"{path}: {len(outside):,} of {len(seconds):,} rows are not of the "
            f"{source.numbering.value} {number}: their {source.time_column!r} is {first} to "
            f"{last}, UTC"
        )
