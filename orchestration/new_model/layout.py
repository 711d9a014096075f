"""Recognizes how data are laid out: which part of their paths tells the period of the rows."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace

from pyarrow import fs

from storage.errors import DataError
from storage.spans import DataSource, filesystem, find_spans, is_skipped
from storage.table_formats import Format

# Parts of names that are periods, the longest first.
_PERIODS = (
    (r"(?<!\d)\d{4}-\d{2}-\d{2}(?!\d)", "{YYYY}-{MM}-{DD}"),
    (r"(?<!\d)\d{4}_\d{2}_\d{2}(?!\d)", "{YYYY}_{MM}_{DD}"),
    (r"(?<!\d)(?:19|20)\d{6}(?!\d)", "{YYYY}{MM}{DD}"),
    (r"(?<!\d)\d{4}-\d{2}(?!\d)", "{YYYY}-{MM}"),
    (r"(?<!\d)\d{4}_\d{2}(?!\d)", "{YYYY}_{MM}"),
    (r"(?<!\d)(?:19|20)\d{4}(?!\d)", "{YYYY}{MM}"),
    (r"(?<!\d)(?:19|20)\d{2}(?!\d)", "{YYYY}"),
    (r"(?<!\d)\d+(?!\d)", "{SPAN}"),
)
_HIVE = (
    (r"(?<=year=)\d{4}$", "{YYYY}"),
    (r"(?<=month=)\d{1,2}$", "{MM}"),
    (r"(?<=day=)\d{1,2}$", "{DD}"),
    (r"(?<=hour=)\d{1,2}$", "{HH}"),
)
_VERSION = re.compile(r"((?:v|ver|version)[-_.=]?)\d+", re.IGNORECASE)
_DEEPEST = 4
_LEAST_SPANS = 2


def recognize(source: DataSource) -> DataSource:
    """Adds to a source the pattern of its spans, if its paths have one.

    Args:
      source: Where the data are; with a pattern it is returned as it is.

    Returns:
      The source with the first pattern by which everything below it falls into two or more spans;
      else as it was.

    Raises:
      DataError: If there are no data, or they cannot be read.
    """
    files, root = filesystem(source.uri)
    if files.get_file_info(root).type == fs.FileType.NotFound:
        raise DataError(f"--data {source.uri}: there is no such file or folder")
    if source.pattern or files.get_file_info(root).type == fs.FileType.File:
        find_spans(source)
        return source
    names = next(_tables(files, root, ()), None)
    reason = None
    for pattern in _patterns(names or ()):
        candidate = replace(source, pattern=pattern)
        try:
            if len(find_spans(candidate)) >= _LEAST_SPANS:
                return candidate
        except DataError as error:
            reason = reason or error
    try:
        find_spans(source)
    except DataError as error:
        # What is wrong with folders that look like spans says more.
        raise reason or error from error
    return source


def _tables(files: fs.FileSystem, folder: str, names: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The paths of tables below a folder, by level."""
    infos = sorted(files.get_file_info(fs.FileSelector(folder)), key=lambda info: info.path)
    for info in infos:
        if is_skipped(info.base_name):
            continue
        path = (*names, info.base_name)
        if info.type == fs.FileType.File and Format.of(info.base_name):
            yield path
        elif info.type == fs.FileType.Directory and len(path) < _DEEPEST:
            yield from _tables(files, os.path.join(folder, info.base_name), path)


def _patterns(names: tuple[str, ...]) -> Iterator[str]:
    """Patterns that the path of one table may follow."""
    hive = [_replace_first(name, _HIVE) for name in names]
    if any(name != old for name, old in zip(hive, names, strict=True)):
        last = max(i for i, (new, old) in enumerate(zip(hive, names, strict=True)) if new != old)
        yield "/".join(hive[: last + 1])
    for level, name in enumerate(names):
        for expression, placeholder in _PERIODS:
            if re.search(expression, name):
                new = re.sub(expression, lambda _: placeholder, name, count=1)  # noqa: B023
                if version := _VERSION.fullmatch(names[level + 1]) if names[level + 1 :] else None:
                    yield "/".join([*names[:level], new, f"{version[1]}{{VERSION}}"])
                yield "/".join([*names[:level], new])


def _replace_first(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for expression, placeholder in rules:
        new = re.sub(expression, placeholder, name)
        if new != name:
            return new
    return name
