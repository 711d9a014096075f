"""Reads JSON lines as a stream of record batches."""

from __future__ import annotations

import codecs
import io
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
from pyarrow import fs
from pyarrow import json as arrow_json

from storage.errors import DataError, one_line
from storage.table_formats import (
    BLOCK_BYTES,
    TextFormat,
    check_names,
    describe_type,
    not_encoded,
)

# A column of rows as they are written. No column of a file can have a blank name.
LINE = " "


def read_json(
    path: str,
    files: fs.FileSystem,
    types: Mapping[str, pa.DataType],
    text: TextFormat,
    columns: list[str] | None,
    left_out: set[str],
    with_lines: bool = False,
) -> Iterator[pa.RecordBatch]:
    """See `storage.tables.iter_batches`.

    The names of columns that are not read are added to `left_out`. A column without a type has that
    of its first values. `with_lines` adds the column `LINE`: the lines, without white space around.
    """
    types = {name: kind for name, kind in types.items() if columns is None or name in columns}
    row = 0
    with files.open_input_stream(path) as stream:
        for block in _blocks(path, stream, text):
            lines = [line for line in map(bytes.strip, block.split(b"\n")) if line]
            # Before pyarrow reads them, which may crash at a `null` before an object.
            if not all(line[:1] == b"{" and line[-1:] == b"}" for line in lines):
                raise _no_object(path, lines, row)
            if not row:
                names = _names_of(path, block)
                left_out |= set(names) - set(names if columns is None else columns)
                if untyped := set(names) - left_out - types.keys():
                    found = _infer(path, block)
                    types |= {name: kind for name, kind in found.items() if name in untyped}
            try:
                table = _parse(block, types, "ignore")
            except pa.ArrowInvalid as error:
                if any(parse_object(line) is None for line in lines):
                    raise _no_object(path, lines, row) from error
                raise DataError(f"{path}: {_explain_json(str(error), row, types)}") from error
            # pyarrow takes objects wherever they begin, and at a comma, a bracket or a NUL between
            # them it ends as if the file did. An object that goes over two lines cannot end the
            # first with `}` and begin the second with `{`: so there are as many lines as rows only
            # if each line is one object, but for what follows the last object in its line.
            if len(lines) != len(table) or (lines and parse_object(lines[-1]) is None):
                raise _no_object(path, lines, row)
            if with_lines:
                table = table.append_column(LINE, pa.array(lines, pa.string()))
            row += len(table)
            yield from table.combine_chunks().to_batches()
    if not row:
        raise DataError(f"{path} is empty: one object in a line is expected")


def _no_object(path: str, lines: list[bytes], rows_before: int) -> DataError:
    """The error for the first line that is no object."""
    wrong = next((n for n, line in enumerate(lines, 1) if parse_object(line) is None), None)
    where = f"row {rows_before + wrong}" if wrong else f"after row {rows_before}"
    return DataError(f"{path}: {where}: one object in a line is expected")


def parse_object(line: bytes | str) -> dict[str, Any] | None:
    """The object of a line, its numbers as texts; None if the line is none, or nested too deep."""
    try:
        found = json.loads(line, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def first_names(path: str, files: fs.FileSystem, text: TextFormat) -> list[str]:
    """The columns of the first rows."""
    with files.open_input_stream(path) as stream:
        for block in _blocks(path, stream, text):
            return _names_of(path, block)
    raise DataError(f"{path} is empty: one object in a line is expected")


def _names_of(path: str, block: bytes) -> list[str]:
    """The columns of the first rows of a block."""
    names: dict[str, None] = {}
    for line in block.split(b"\n", _ROWS_WITH_NAMES)[:_ROWS_WITH_NAMES]:
        try:
            row = json.loads(line) if line.strip() else {}
        except (ValueError, RecursionError):
            break  # pyarrow says what is wrong.
        if isinstance(row, dict):
            names |= dict.fromkeys(row)
    check_names(path, list(names))
    return list(names)


def _infer(path: str, block: bytes) -> dict[str, pa.DataType]:
    """What the values of each column look like."""
    try:
        schema = _parse(block, {}, "infer").schema
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: {_explain_json(str(error), 0, {})}") from error
    return dict(zip(schema.names, schema.types, strict=True))


def _parse(block: bytes, types: Mapping[str, pa.DataType], unexpected: str) -> pa.Table:
    return arrow_json.read_json(
        io.BytesIO(block),
        read_options=arrow_json.ReadOptions(use_threads=False, block_size=len(block) + 1),
        parse_options=arrow_json.ParseOptions(
            explicit_schema=pa.schema(list(types.items())),
            unexpected_field_behavior=unexpected,
        ),
    )


def _blocks(path: str, stream: Any, text: TextFormat) -> Iterator[bytes]:
    """Whole lines of some megabytes, in UTF-8."""
    rest = b""
    while chunk := stream.read(BLOCK_BYTES):
        whole, newline, tail = chunk.rpartition(b"\n")
        if newline:
            yield _utf8(path, rest + whole + newline, text)
            rest = tail
        else:
            rest += chunk
            if len(rest) > 4 * BLOCK_BYTES:
                raise DataError(f"{path}: a line is longer than 16 MiB: is it JSON lines?")
    if rest.strip():
        yield _utf8(path, rest, text)


def _utf8(path: str, block: bytes, text: TextFormat) -> bytes:
    try:
        return block.decode(text.encoding).encode().removeprefix(codecs.BOM_UTF8)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: {not_encoded(block.count(bytes([10]), 0, error.start) + 1, text)}"
        ) from error


# Columns that are not in the schema are looked for in so many rows.
_ROWS_WITH_NAMES = 100
_JSON_ROW = re.compile(r" in row (\d+)")
_CHANGED = re.compile(r"Column\(/(?P<name>.*)\) (?:changed from|was specified to be) (?P<facts>.+)")


def _explain_json(message: str, rows_before: int, types: Mapping[str, pa.DataType]) -> str:
    found = _JSON_ROW.search(message)
    row = f"row {rows_before + int(found[1]) + 1}" if found else f"after row {rows_before}"
    detail = _JSON_ROW.sub("", message.removeprefix("JSON parse error: "))
    if changed := _CHANGED.search(detail):
        expected = describe_type(types[changed["name"]]) if changed["name"] in types else "one type"
        return f"{row}: column {changed['name']!r} is of another type; {expected} is expected"
    return f"{row}: {one_line(detail)}"
