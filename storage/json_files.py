"""Reads JSON lines as a stream of record batches."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
from pyarrow import fs
from pyarrow import json as arrow_json

from storage.errors import DataError
from storage.table_formats import (
    BLOCK_BYTES,
    LONGEST_REASON,
    TextFormat,
    check_names,
    describe_type,
    not_encoded,
)


def read_json(
    path: str,
    files: fs.FileSystem,
    types: Mapping[str, pa.DataType],
    text: TextFormat,
    columns: list[str] | None,
    left_out: set[str],
) -> Iterator[pa.RecordBatch]:
    """See `storage.tables.iter_batches`.

    The names of columns that are not read are added to `left_out`. A column without a type has that
    of its first values.
    """
    types = {name: kind for name, kind in types.items() if columns is None or name in columns}
    row = 0
    with files.open_input_stream(path) as stream:
        for block in _blocks(path, stream, text):
            table = _parse(path, block, row, types, left_out)
            check_names(path, table.column_names)
            if columns is not None:
                left_out |= set(table.column_names) - set(columns)
                table = table.select([name for name in table.column_names if name in columns])
            if not row:
                types |= dict(zip(table.schema.names, table.schema.types, strict=True))
            elif extra := set(table.column_names) - set(types):
                raise DataError(
                    f"{path}: column {min(extra)!r} is first there after row {row}: a column that "
                    "is not in the schema has to be in the first rows"
                )
            row += len(table)
            yield from table.combine_chunks().to_batches()
    if not row:
        raise DataError(f"{path} is empty: one object in a line is expected")


def first_names(path: str, files: fs.FileSystem, text: TextFormat) -> list[str]:
    """The columns of the first rows."""
    with files.open_input_stream(path) as stream:
        for block in _blocks(path, stream, text):
            left_out: set[str] = set()
            names = _parse(path, block, 0, {}, left_out).column_names
            return sorted({*names, *left_out})
    raise DataError(f"{path} is empty: one object in a line is expected")


def _parse(
    path: str, block: bytes, row: int, types: Mapping[str, pa.DataType], left_out: set[str]
) -> pa.Table:
    """The rows of a block; columns without a type are left out if they have several."""
    try:
        return _parse_as(block, types, "infer")
    except pa.ArrowInvalid as error:
        changed = _CHANGED.search(str(error))
        if changed and changed["name"].split("/")[0] not in types:
            left_out.add(changed["name"].split("/")[0])
            try:
                return _parse_as(block, types, "ignore")
            except pa.ArrowInvalid as again:
                error = again
        raise DataError(f"{path}: {_explain_json(str(error), row, types)}") from error


def _parse_as(block: bytes, types: Mapping[str, pa.DataType], unexpected: str) -> pa.Table:
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
        return block.decode(text.encoding).encode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: {not_encoded(block.count(bytes([10]), 0, error.start) + 1, text)}"
        ) from error


_JSON_ROW = re.compile(r" in row (\d+)")
_CHANGED = re.compile(r"Column\(/(?P<name>.*)\) (?:changed from|was specified to be) (?P<facts>.+)")


def _explain_json(message: str, rows_before: int, types: Mapping[str, pa.DataType]) -> str:
    found = _JSON_ROW.search(message)
    row = f"row {rows_before + int(found[1]) + 1}" if found else f"after row {rows_before}"
    detail = _JSON_ROW.sub("", message.removeprefix("JSON parse error: "))
    if changed := _CHANGED.search(detail):
        expected = describe_type(types[changed["name"]]) if changed["name"] in types else "one type"
        return f"{row}: column {changed['name']!r} is of another type; {expected} is expected"
    return f"{row}: {' '.join(detail.split())[:LONGEST_REASON]}"
