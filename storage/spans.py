"""Finds the spans of a data directory, and the window that a run trains on.

A span is a folder or file whose path tells the time of its rows (`data.spans`), or the rows of one
period by their time (`data.time_column`); data without either are one span. Whatever lies under a
data directory is read or refused by name, so that no part of a span is left out unseen. Skipped are
names that begin with `_` or `.` or end in `.crc`, as Spark and Hadoop have it, and texts and
scripts (`.md`, `.txt`, `.in`, `.py`) beside the spans.

Imports nothing of TFX or TensorFlow, so that a scheduler can look for new data at no cost.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

import numpy as np
from pyarrow import fs

from storage.errors import DataError
from storage.periods import SpanPeriod
from storage.span_pattern import SpanPattern
from storage.table_formats import ENDINGS, Format, TextFormat
from storage.tables import read_times
from storage.uris import open_uri

_SKIPPED = re.compile(r"[_.].*|.*\.crc", re.DOTALL)
_BESIDE = re.compile(r".*\.(md|txt|in|py)", re.DOTALL | re.IGNORECASE)
_WHOLE = "all"


@dataclass(frozen=True)
class DataSource:
    """Where a model's data are, and what divides them into spans.

    Attributes:
      uri: A directory, or a file: a path, `gs://...` or `s3://...`.
      pattern: Path of a span below it, see `SpanPattern`; "" where paths say nothing of it.
      time_column: Time of a row; "" where rows have none.
      period: What a span covers if rows are divided by their time alone.
      text: How text files are written.

    Example:
      >>> DataSource("data/shop", "span-{YYYY}{MM}", "time").name(201301)
      'span-201301'
    """

    uri: str
    pattern: str = ""
    time_column: str = ""
    period: SpanPeriod = SpanPeriod.MONTH
    text: TextFormat = field(default_factory=TextFormat)

    @classmethod
    def of(cls, uri: str, layout: str) -> DataSource:
        """The source at a URI that is laid out as another one; see `layout`."""
        facts = json.loads(layout)
        text = TextFormat(facts["separator"], facts["encoding"], tuple(facts["null_values"]))
        period = SpanPeriod(facts["period"])
        return cls(uri, facts["spans"], facts["time_column"], period, text)

    @property
    def layout(self) -> str:
        """All of it but the URI, as JSON."""
        facts = {"spans": self.pattern, "time_column": self.time_column}
        return json.dumps(facts | {"period": self.period.value} | asdict(self.text))

    @property
    def has_spans(self) -> bool:
        """Whether the data are divided by their paths or their time."""
        return bool(self.pattern or self.time_column)

    @property
    def numbering(self) -> SpanPeriod:
        """How spans are numbered."""
        if self.pattern:
            return SpanPattern.parse(self.pattern).period
        return self.period if self.time_column else SpanPeriod.NUMBER

    def name(self, number: int) -> str:
        """What a span is called in messages."""
        if self.pattern:
            return SpanPattern.parse(self.pattern).name(number)
        return f"{self.period.value} {number}" if self.time_column else _WHOLE


@dataclass(frozen=True)
class Span:
    """The rows of one period.

    Attributes:
      number: Which period: YYYY, YYYYMM, YYYYMMDD or YYYYMMDDHH, or a count.
      files: Paths of its files, sorted, in the file system of the data directory.
      versions: Size and time of change of each.
      within: Whether of those files only the rows of that period are its own.
    """

    number: int
    files: tuple[str, ...]
    versions: tuple[str, ...]
    within: bool = False

    @property
    def fingerprint(self) -> str:
        """Changes with the name, size or time of change of any of the files."""
        names = [path.rpartition("/")[2] for path in self.files]
        facts = (f"{name} {version}" for name, version in zip(names, self.versions, strict=True))
        return hashlib.sha256("\n".join(facts).encode()).hexdigest()


@dataclass(frozen=True)
class Window:
    """The spans to train on, and the one after them to evaluate on.

    If the data are one span, `train` and `test` are that one.
    """

    train: tuple[Span, ...]
    test: Span

    @property
    def spans(self) -> tuple[Span, ...]:
        """All of its spans, oldest first."""
        return tuple(dict.fromkeys((*self.train, self.test)))

    @property
    def fingerprint(self) -> str:
        """Identifies the content of all spans of the window and their roles."""
        roles = [f"train {s.number} {s.fingerprint}" for s in self.train]
        roles.append(f"test {self.test.number} {self.test.fingerprint}")
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


def find_spans(source: DataSource) -> list[Span]:
    """Lists the spans of a source, oldest first.

    Example:
      >>> import pathlib, tempfile
      >>> with tempfile.TemporaryDirectory() as data:
      ...     for month in (201312, 201311):
      ...         folder = pathlib.Path(data, f"span-{month}")
      ...         folder.mkdir()
      ...         (folder / "rows.parquet").touch()
      ...     [span.number for span in find_spans(DataSource(data, "span-{YYYY}{MM}"))]
      [201311, 201312]

    Args:
      source: The data.

    Returns:
      The spans, at least one.

    Raises:
      DataError: If the directory is missing or may not be read, holds no span or something besides
        spans, or a span holds no file of rows, something besides them, or several formats.
    """
    files, root = filesystem(source.uri)
    try:
        if source.pattern:
            return _spans_of_paths(files, root, source)
        found = _files_of_folder(files, root, source.uri)
        if not source.time_column:
            return [_make_span(0, found)]
        return _spans_of_times(files, found, source)
    except (OSError, UnicodeError) as error:
        raise DataError(f"data directory {source.uri!r} cannot be read: {error}") from error


def resolve_window(source: DataSource, as_of: int, window: int) -> Window:
    """Chooses the spans of a run.

    Example:
      >>> import pathlib, tempfile
      >>> with tempfile.TemporaryDirectory() as data:
      ...     for month in (201310, 201311, 201312):
      ...         folder = pathlib.Path(data, f"span-{month}")
      ...         folder.mkdir()
      ...         (folder / "rows.parquet").touch()
      ...     window = resolve_window(DataSource(data, "span-{YYYY}{MM}"), as_of=0, window=2)
      >>> [span.number for span in window.train], window.test.number
      ([201310, 201311], 201312)

    Args:
      source: The data.
      as_of: The span to evaluate on; 0 means the newest there is.
      window: Number of spans before `as_of` to train on; fewer if the data begins later.

    Returns:
      The window.

    Raises:
      DataError: If `as_of` or a span inside the window is missing, or nothing precedes `as_of`.
    """
    spans = {span.number: span for span in find_spans(source)}
    if not source.has_spans:
        return Window(train=(spans[0],), test=spans[0])
    first, newest = min(spans), max(spans)
    as_of = as_of or newest
    if as_of not in spans:
        raise DataError(
            f"{source.name(as_of)} is not in {source.uri!r}; it has {source.name(first)} to "
            f"{source.name(newest)}, {len(spans)} in all"
        )
    wanted = [n for n in source.numbering.before(as_of, window) if n >= first]
    if not wanted:
        raise DataError(
            f"nothing to train on: {source.uri!r} has no span before {source.name(as_of)}; "
            f"choose a later one than its first, {source.name(first)}"
        )
    missing = [source.name(number) for number in wanted if number not in spans]
    if missing:
        raise DataError(
            f"the {window} spans before {source.name(as_of)} lack {', '.join(missing)} in "
            f"{source.uri!r}"
        )
    return Window(train=tuple(spans[number] for number in wanted), test=spans[as_of])


def _spans_of_paths(files: fs.FileSystem, root: str, source: DataSource) -> list[Span]:
    """The spans that a pattern finds."""
    if files.get_file_info(root).type != fs.FileType.Directory:
        raise DataError(f"data directory {source.uri!r} does not exist or is not a directory")
    pattern = SpanPattern.parse(source.pattern)
    found: dict[int, dict[int, list[fs.FileInfo]]] = {}
    for groups, info in _walk(files, root, pattern, 0):
        number = pattern.number(groups)
        if number is None:
            raise _no_span(info, pattern)
        found.setdefault(number, {}).setdefault(pattern.version(groups), []).append(info)
    if not found:
        raise DataError(
            f"data directory {source.uri!r} holds no span; {pattern.text} is expected (data.spans)"
        )
    spans = []
    for number, versions in sorted(found.items()):
        infos = versions[max(versions)]
        if len({info.type for info in infos}) > 1:
            raise DataError(
                f"{source.name(number)} is a folder and a file: {infos[0].path!r} and "
                f"{infos[1].path!r}"
            )
        if infos[0].type == fs.FileType.Directory:
            infos = [i for folder in infos for i in _files_of_folder(files, folder.path, "")]
        spans.append(_make_span(number, infos))
    return spans


def _walk(
    files: fs.FileSystem, folder: str, pattern: SpanPattern, level: int
) -> Iterator[tuple[dict[str, str], fs.FileInfo]]:
    """What matches a pattern from a level on, with the values of its placeholders."""
    last = level + 1 == len(pattern.levels)
    for info in _entries(files, folder):
        match = pattern.levels[level].fullmatch(info.base_name)
        is_folder = info.type == fs.FileType.Directory
        if match and is_folder and not last:
            for groups, found in _walk(files, info.path, pattern, level + 1):
                yield match.groupdict() | groups, found
        elif match and last and (is_folder or Format.of(info.base_name)):
            yield match.groupdict(), info
        elif not (info.type == fs.FileType.File and _BESIDE.fullmatch(info.base_name)):
            raise _no_span(info, pattern)


def _no_span(info: fs.FileInfo, pattern: SpanPattern) -> DataError:
    return DataError(
        f"{info.path!r} is {_describe(info)} and no span, so it would not be read: spans are "
        f"{pattern.text} (data.spans); move what is not data elsewhere (a name that begins with _ "
        "is skipped)"
    )


def _files_of_folder(files: fs.FileSystem, folder: str, uri: str) -> list[fs.FileInfo]:
    """The files of rows in a folder, or the one that is named in place of a folder.

    Args:
      files: The file system.
      folder: The folder.
      uri: The data directory, if the folder is it; "" if it is a span's.
    """
    here = files.get_file_info(folder)
    if here.type == fs.FileType.NotFound:
        raise DataError(f"data directory {uri!r} does not exist")
    if here.type == fs.FileType.File and not Format.of(here.base_name):
        raise DataError(f"{folder!r} is no file of rows ({ENDINGS})")
    infos = [here] if here.type == fs.FileType.File else _entries(files, folder)
    kept = []
    for info in infos:
        if info.type == fs.FileType.File and Format.of(info.base_name):
            kept.append(info)
        elif uri and info.type == fs.FileType.Directory:
            raise DataError(
                f"{info.path!r} is a folder, so it would not be read: say how the paths of spans "
                "are written, as in data.spans = 'span-{YYYY}{MM}' or 'year={YYYY}/month={MM}'"
            )
        elif not (uri and _BESIDE.fullmatch(info.base_name)):
            raise DataError(
                f"{info.path!r} is {_describe(info)} and no file of rows ({ENDINGS}), so it would "
                f"not be read: put the span's files into {folder!r} itself, and what is not data "
                "elsewhere (a name that begins with _ is skipped)"
            )
    if not kept:
        raise DataError(f"{folder} holds no file of rows ({ENDINGS})")
    return kept


def _make_span(number: int, infos: list[fs.FileInfo], within: bool = False) -> Span:
    infos = sorted(infos, key=lambda info: info.path)
    by_format = {Format.of(info.base_name): info.path for info in infos}
    if len(by_format) > 1:
        raise DataError(f"{' and '.join(by_format.values())} differ in format; a table has one")
    return Span(
        number=number,
        files=tuple(info.path for info in infos),
        versions=tuple(f"{info.size} {info.mtime_ns}" for info in infos),
        within=within,
    )


def _spans_of_times(
    files: fs.FileSystem, infos: list[fs.FileInfo], source: DataSource
) -> list[Span]:
    """The spans into which the times of rows fall."""
    spans: dict[int, list[fs.FileInfo]] = {}
    for info in infos:
        for number in _numbers_of_file(source, info.path, info.size, info.mtime_ns):
            spans.setdefault(number, []).append(info)
    if not spans:
        raise DataError(f"{source.uri!r} has no row")
    return [_make_span(number, spans[number], within=True) for number in sorted(spans)]


@functools.lru_cache(maxsize=4096)
def _numbers_of_file(source: DataSource, path: str, size: int, mtime_ns: int) -> tuple[int, ...]:
    """The spans that a file has rows of; a schedule asks again and again."""
    files, _ = filesystem(source.uri)
    seconds = np.concatenate(read_times(path, files, source.time_column, source.text))
    return tuple(np.unique(source.period.numbers_of(seconds)).tolist())


def is_skipped(name: str) -> bool:
    """Whether files and folders of this name are no data, wherever they are.

    Example:
    >>> [is_skipped(name) for name in ("_SUCCESS", ".a.csv.crc", "a.csv")]
    [True, True, False]
    """
    return bool(_SKIPPED.fullmatch(name))


def _entries(files: fs.FileSystem, folder: str) -> list[fs.FileInfo]:
    """The content of a folder without skipped names."""
    if isinstance(files, fs.LocalFileSystem):
        # A selector would pass over links to nothing.
        names = [os.path.join(folder, name) for name in sorted(os.listdir(folder))]
        found = files.get_file_info(names)
    else:
        found = files.get_file_info(fs.FileSelector(folder))
    return [info for info in found if not is_skipped(info.base_name)]


def _describe(info: fs.FileInfo) -> str:
    return {
        fs.FileType.File: "a file",
        fs.FileType.Directory: "a folder",
        fs.FileType.NotFound: "a link to nothing",
    }.get(info.type, "neither a file nor a folder")
