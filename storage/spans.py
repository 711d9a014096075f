"""Finds monthly spans (`span-YYYYMM/*.parquet`) and the window that a run trains on.

Whatever lies under a data directory is read or refused by name, so that no part of a month is left
out unseen. Skipped are names that begin with `_` or `.` or end in `.crc`, as Spark and Hadoop have
it, and texts and scripts (`.md`, `.txt`, `.in`, `.py`) beside the spans.

Imports nothing of TFX or TensorFlow, so that a scheduler can look for new data at no cost.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pyarrow import fs

from storage.errors import DataError
from storage.uris import open_uri

_SPAN_FOLDER = re.compile(r"span-([0-9]{4})(0[1-9]|1[0-2])")
_SKIPPED = re.compile(r"[_.].*|.*\.crc", re.DOTALL)
_BESIDE = re.compile(r".*\.(md|txt|in|py)", re.DOTALL | re.IGNORECASE)
_PARQUET = re.compile(r".*\.(parquet|pq)", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True)
class Span:
    """One month of data.

    Attributes:
      month: The month as an integer YYYYMM, for instance 201312.
      files: Paths of its Parquet files, sorted.
      fingerprint: Changes whenever a file is added, removed, resized or rewritten.
    """

    month: int
    files: tuple[str, ...]
    fingerprint: str


@dataclass(frozen=True)
class Window:
    """The months to train on, and the month after them to evaluate on."""

    train: tuple[Span, ...]
    test: Span

    @property
    def fingerprint(self) -> str:
        """Identifies the content of all spans of the window and their roles."""
        roles = [f"train {s.month} {s.fingerprint}" for s in self.train]
        roles.append(f"test {self.test.month} {self.test.fingerprint}")
        return hashlib.sha256("\n".join(roles).encode()).hexdigest()


def filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    """Returns the file system of `uri` (a local path or `gs://`, `s3://`) and the path there.

    Raises:
      DataError: If no file system is known for the URI.
    """
    try:
        return open_uri(uri)
    except (ValueError, OSError) as error:
        raise DataError(f"data directory {uri!r} cannot be opened: {error}") from error


def find_spans(uri: str) -> list[Span]:
    """Lists the spans under `uri`, oldest first.

    Example:
      >>> import pathlib, tempfile
      >>> with tempfile.TemporaryDirectory() as data:
      ...     for month in (201312, 201311):
      ...         folder = pathlib.Path(data, f"span-{month}")
      ...         folder.mkdir()
      ...         (folder / "rows.parquet").touch()
      ...     [span.month for span in find_spans(data)]
      [201311, 201312]

    Args:
      uri: Directory that holds one folder `span-YYYYMM` per month.

    Returns:
      The spans, at least one.

    Raises:
      DataError: If the directory is missing or may not be read, holds no span or something besides
        spans, or a span holds no Parquet file or something besides them.
    """
    files, root = filesystem(uri)
    try:
        return _list_spans(files, root, uri)
    except (OSError, UnicodeError) as error:
        raise DataError(f"data directory {uri!r} cannot be read: {error}") from error


def _list_spans(files: fs.FileSystem, root: str, uri: str) -> list[Span]:
    if files.get_file_info(root).type != fs.FileType.Directory:
        raise DataError(f"data directory {uri!r} does not exist or is not a directory")
    spans = []
    for info in _entries(files, root):
        match = _SPAN_FOLDER.fullmatch(info.base_name)
        if info.type == fs.FileType.Directory and match:
            spans.append(_read_span(files, info.path, int("".join(match.groups()))))
        elif not (info.type == fs.FileType.File and _BESIDE.fullmatch(info.base_name)):
            raise DataError(
                f"{info.path!r} is {_describe(info)} and no span, so it would not be read: move "
                "data into folders span-YYYYMM, and what is not data elsewhere (a name that begins "
                "with _ is skipped)"
            )
    if not spans:
        raise DataError(f"data directory {uri!r} holds no span; expected folders span-YYYYMM")
    return sorted(spans, key=lambda span: span.month)


def resolve_window(uri: str, as_of: int, window: int) -> Window:
    """Chooses the spans of a run.

    Example:
      >>> import pathlib, tempfile
      >>> with tempfile.TemporaryDirectory() as data:
      ...     for month in (201310, 201311, 201312):
      ...         folder = pathlib.Path(data, f"span-{month}")
      ...         folder.mkdir()
      ...         (folder / "rows.parquet").touch()
      ...     window = resolve_window(data, as_of=0, window=2)
      >>> [span.month for span in window.train], window.test.month
      ([201310, 201311], 201312)

    Args:
      uri: Directory that holds the spans.
      as_of: The month to evaluate on, YYYYMM; 0 means the newest there is.
      window: Number of months before `as_of` to train on; fewer if the data begins later.

    Returns:
      The window.

    Raises:
      DataError: If `as_of` or a month inside the window is missing, or nothing precedes `as_of`.
    """
    spans = {span.month: span for span in find_spans(uri)}
    first, newest = min(spans), max(spans)
    as_of = as_of or newest
    if as_of not in spans:
        raise DataError(
            f"span-{as_of} is not in {uri!r}; it has span-{first} to span-{newest}, "
            f"{len(spans)} in all"
        )
    wanted = [m for m in _months_before(as_of, window) if m >= first]
    if not wanted:
        raise DataError(
            f"nothing to train on: {uri!r} has no span before span-{as_of}; "
            f"choose a later month than its first, span-{first}"
        )
    missing = [f"span-{month}" for month in wanted if month not in spans]
    if missing:
        raise DataError(
            f"the {window} months before span-{as_of} lack {', '.join(missing)} in {uri!r}"
        )
    return Window(train=tuple(spans[month] for month in wanted), test=spans[as_of])


def months_between(first: int, last: int) -> list[int]:
    """All months YYYYMM from `first` to `last`; none if `last` comes before."""
    count = last // 100 * 12 + last % 100 - first // 100 * 12 - first % 100
    return [*_months_before(last, count), last] if count >= 0 else []


def month_bounds(month: int) -> tuple[int, int]:
    """The bounds of a month in any time zone, since spans follow a local calendar.

    Args:
      month: The month, YYYYMM.

    Returns:
      Seconds since the Unix epoch: a day before the month begins in UTC, and a day after it ends.
    """
    year, number = divmod(month, 100)
    begin = datetime(year, number, 1, tzinfo=UTC)
    end = datetime(year + number // 12, number % 12 + 1, 1, tzinfo=UTC)
    day = timedelta(days=1)
    return int((begin - day).timestamp()), int((end + day).timestamp())


def _read_span(files: fs.FileSystem, folder: str, month: int) -> Span:
    infos = _entries(files, folder)
    for info in infos:
        if info.type != fs.FileType.File or not _PARQUET.fullmatch(info.base_name):
            raise DataError(
                f"{info.path!r} is {_describe(info)} and no Parquet file (.parquet, .pq), so it "
                f"would not be read: put the month's Parquet files into {folder!r} itself, and "
                "what is not data elsewhere (a name that begins with _ is skipped)"
            )
    if not infos:
        raise DataError(f"{folder} holds no .parquet file")
    infos.sort(key=lambda info: info.path)
    facts = "\n".join(f"{i.base_name} {i.size} {i.mtime_ns}" for i in infos)
    return Span(
        month=month,
        files=tuple(info.path for info in infos),
        fingerprint=hashlib.sha256(facts.encode()).hexdigest(),
    )


def _entries(files: fs.FileSystem, folder: str) -> list[fs.FileInfo]:
    """The content of a folder without skipped names."""
    if isinstance(files, fs.LocalFileSystem):
        # A selector would pass over links to nothing.
        names = [os.path.join(folder, name) for name in sorted(os.listdir(folder))]
        found = files.get_file_info(names)
    else:
        found = files.get_file_info(fs.FileSelector(folder))
    return [info for info in found if not _SKIPPED.fullmatch(info.base_name)]


def _describe(info: fs.FileInfo) -> str:
    return {
        fs.FileType.File: "a file",
        fs.FileType.Directory: "a folder",
        fs.FileType.NotFound: "a link to nothing",
    }.get(info.type, "neither a file nor a folder")


def _months_before(month: int, count: int) -> list[int]:
    """The `count` months before `month`, oldest first."""
    index = month // 100 * 12 + month % 100 - 1
    return [(i // 12) * 100 + i % 12 + 1 for i in range(index - count, index)]
