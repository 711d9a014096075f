"""Reads JSON lines as a stream of record batches."""

from __future__ import annotations

import codecs
import contextlib
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
    check_content,
    check_names,
    describe_type,
    has_zone,
    is_utf8,
    not_encoded,
    types_as_written,
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
    known: dict[str, None] = {}
    row = 0
    with files.open_input_stream(path) as stream:
        for block in _blocks(path, stream, text):
            lines = _lines_of(path, block, row)
            some = _some_rows(lines)
            known |= _names_of(some)
            check_names(path, list(known))
            if columns is not None:
                left_out |= known.keys() - set(columns)
            if not row:
                types = _types_as_written(types, _first_values(some))
                if untyped := known.keys() - left_out - types.keys():
                    found = _infer(path, block, lines)
                    types |= {name: kind for name, kind in found.items() if name in untyped}
            _check_zones(path, some, types)
            try:
                table = _parse(block, types, "ignore")
            except pa.ArrowInvalid as error:
                raise DataError(f"{path}: {_explain_json(error, row, lines, types)}") from error
            # pyarrow takes objects wherever they begin, and at a comma, a bracket or a NUL between
            # them it ends as if the file did. An object that goes over two lines cannot end the
            # first with `}` and begin the second with `{`: so there are as many lines as rows only
            # if each line is one object, but for what follows the last object in its line.
            if len(table) != len(lines) or parse_object(lines[-1]) is None:
                raise _no_object(path, lines, row)
            if with_lines:
                table = table.append_column(LINE, pa.array(lines, pa.string()))
            row += len(table)
            yield from table.combine_chunks().to_batches()
    if not row:
        raise DataError(f"{path} is empty: {_EXPECTED}")


def first_names(path: str, files: fs.FileSystem, text: TextFormat) -> list[str]:
    """The columns of the first rows."""
    with files.open_input_stream(path) as stream:
        for block in _blocks(path, stream, text):
            names = list(_names_of(_some_rows(_lines_of(path, block, 0))))
            check_names(path, names)
            return names
    raise DataError(f"{path} is empty: {_EXPECTED}")


def _lines_of(path: str, block: bytes, before: int) -> list[bytes]:
    """The lines of a block that are not blank; each begins and ends as an object does.

    pyarrow crashes where the first one is null.
    """
    lines = [line for line in map(bytes.strip, block.split(b"\n")) if line]
    if not all(line[:1] == b"{" and line[-1:] == b"}" for line in lines):
        raise _no_object(path, lines, before)
    return lines


def _no_object(path: str, lines: list[bytes], before: int) -> DataError:
    """The error for the first line that is no object."""
    wrong = _first_wrong(lines)
    where = f"row {before + wrong}" if wrong else f"after row {before}"
    return DataError(f"{path}: {where}: {_EXPECTED}")


def _first_wrong(lines: list[bytes]) -> int:
    """Number of the first line that is no object, from 1; 0 if there is none."""
    return next((n for n, line in enumerate(lines, 1) if parse_object(line) is None), 0)


def parse_object(line: bytes | str) -> dict[str, Any] | None:
    """The object of a line, its numbers as texts; None if the line is none, or nested too deep."""
    try:
        found = json.loads(line, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _some_rows(lines: list[bytes]) -> list[dict[str, Any]]:
    """Some rows, from everywhere in a block; those that cannot be read are left to pyarrow."""
    rows = []
    for line in lines[:: -(-len(lines) // _ROWS_WITH_NAMES) or 1]:
        with contextlib.suppress(ValueError, RecursionError):
            rows.append(json.loads(line))
    return rows


def _names_of(rows: list[dict[str, Any]]) -> dict[str, None]:
    """The columns of some rows, in their order."""
    names: dict[str, None] = {}
    for row in rows:
        names |= dict.fromkeys(row)
    return names


def _first_values(rows: list[dict[str, Any]]) -> dict[str, str]:
    """The first value of each column that is there, as CSV would have it."""
    values: dict[str, str] = {}
    for row in rows:
        for name, value in row.items():
            if value is not None and name not in values:
                values[name] = value if isinstance(value, str) else json.dumps(value)
    return values


def _types_as_written(
    types: Mapping[str, pa.DataType], values: Mapping[str, str]
) -> dict[str, pa.DataType]:
    """The same as for CSV, but that pyarrow reads no number as true or false."""
    found = types_as_written(types, values)
    switches = [name for name, kind in found.items() if pa.types.is_boolean(kind)]
    return found | {name: pa.int64() for name in switches if values.get(name, "").isdecimal()}


def _check_zones(path: str, rows: list[dict[str, Any]], types: Mapping[str, pa.DataType]) -> None:
    """Refuses times of which some say their zone and others do not."""
    for name in [name for name, kind in types.items() if pa.types.is_timestamp(kind)]:
        times = [row[name] for row in rows if isinstance(row.get(name), str)]
        if len({has_zone(time) for time in times}) > 1:
            raise DataError(
                f"{path}: column {name!r} has times with a time zone and times without one"
            )


def _infer(path: str, block: bytes, lines: list[bytes]) -> dict[str, pa.DataType]:
    """What the values of each column look like."""
    try:
        schema = _parse(block, {}, "infer").schema
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: {_explain_json(error, 0, lines, {})}") from error
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
    """Whole lines of some megabytes, in UTF-8, none of them without a row."""
    rest = b""
    first = True
    while chunk := stream.read(BLOCK_BYTES):
        if first:
            check_content(path, chunk, text)
            chunk = chunk.removeprefix(codecs.BOM_UTF8) if is_utf8(text) else chunk
            first = False
        whole, newline, tail = chunk.rpartition(b"\n")
        if newline:
            block, rest = rest + whole + newline, tail
            if not block.isspace():
                yield _utf8(path, block, text)
        else:
            rest += chunk
            if len(rest) > 4 * BLOCK_BYTES:
                raise DataError(f"{path}: a line is longer than 16 MiB: is it JSON lines?")
    if rest.strip():
        yield _utf8(path, rest, text)


def _utf8(path: str, block: bytes, text: TextFormat) -> bytes:
    try:
        return block.decode(text.encoding).encode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: {not_encoded(block.count(bytes([10]), 0, error.start) + 1, text)}"
        ) from error


_EXPECTED = "one object in a line is expected"
# Names of columns are looked for in so many rows of a block.
_ROWS_WITH_NAMES = 1000
_JSON_ROW = re.compile(r" in row (\d+)")
_CHANGED = re.compile(r"Column\(/(?P<name>.*)\) (?:changed from|was specified to be) (?P<facts>.+)")
_NO_NUMBER = re.compile(r"couldn't parse:(?P<number>.+)", re.DOTALL)


def _explain_json(
    error: Exception, rows_before: int, lines: list[bytes], types: Mapping[str, pa.DataType]
) -> str:
    """What pyarrow found in a block, in terms of the file."""
    message = str(error)
    found = _JSON_ROW.search(message)
    row = f"row {rows_before + int(found[1]) + 1}" if found else f"after row {rows_before}"
    detail = _JSON_ROW.sub("", message.removeprefix("JSON parse error: "))
    if wrong := _first_wrong(lines):
        return f"row {rows_before + wrong}: {_EXPECTED} ({one_line(detail).rstrip('.')})"
    if changed := _CHANGED.search(detail):
        # Behind its name are the places inside it.
        name = changed["name"] if changed["name"] in types else changed["name"].partition("/")[0]
        expected = describe_type(types[name]) if name in types else "one type"
        return f"{row}: column {name!r} is of another type; {expected} is expected"
    if number := _NO_NUMBER.search(detail):
        return _explain_number(number["number"], rows_before, lines, types) or f"{row}: {detail}"
    return f"{row}: {one_line(detail)}"


def _explain_number(
    number: str, rows_before: int, lines: list[bytes], types: Mapping[str, pa.DataType]
) -> str:
    """Where a number is that is none of its column's type; "" if it is not found."""
    for place, line in enumerate(lines, rows_before + 1):
        for name, value in json.loads(line, parse_int=str, parse_float=str).items():
            if value == number and pa.types.is_integer(types.get(name, pa.null())):
                return f"row {place}: column {name!r} is {number}; a whole number is expected"
    return ""
