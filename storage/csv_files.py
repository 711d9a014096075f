"""Reads CSV files as a stream of record batches."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv
from pyarrow import fs

from storage.errors import DataError, one_line
from storage.table_formats import (
    BLOCK_BYTES,
    TextFormat,
    check_names,
    describe_type,
    not_encoded,
)

_SHOWN = 60
_OTHER_SEPARATORS = ";\t|,"


def read_csv(
    path: str,
    files: fs.FileSystem,
    types: Mapping[str, pa.DataType],
    text: TextFormat,
    columns: list[str] | None,
) -> Iterator[pa.RecordBatch]:
    """See `storage.tables.iter_batches`."""
    names, first = first_rows(path, files, text)
    check_names(path, names)
    types = dict.fromkeys(names, pa.string()) | times_as_written(names, first, types)
    quotes = _Quotes(files.open_input_stream(path))
    with quotes:
        try:
            reader = arrow_csv.open_csv(
                quotes,
                read_options=arrow_csv.ReadOptions(
                    use_threads=False, block_size=BLOCK_BYTES, encoding=text.encoding
                ),
                parse_options=arrow_csv.ParseOptions(
                    delimiter=separator_of(path, text), newlines_in_values=True
                ),
                convert_options=arrow_csv.ConvertOptions(
                    column_types=types,
                    null_values=list(text.null_values),
                    strings_can_be_null=True,
                    include_columns=columns,
                    true_values=["true", "True", "TRUE", "1", "yes", "t"],
                    false_values=["false", "False", "FALSE", "0", "no", "f"],
                ),
            )
            row = 1
            last = None
            for last in reader:
                _refuse_repeated_header(path, last, row)
                row += last.num_rows
                yield last
            if last is None:
                yield pa.RecordBatch.from_arrays(
                    [pa.array([], field.type) for field in reader.schema], schema=reader.schema
                )
        except pa.ArrowInvalid as error:
            raise DataError(f"{path}: {_explain_csv(str(error), names, types, text)}") from error
    if quotes.odd and last is not None and _ends_in_line_break(last):
        raise DataError(f'{path}: a quotation mark (") is not closed before the end of the file')


def times_as_written(
    names: list[str], first: list[str], types: Mapping[str, pa.DataType]
) -> dict[str, pa.DataType]:
    """The types of a file's columns, where a time may be written in three ways.

    Args:
      names: The columns.
      first: The values of the first row.
      types: Types of columns; others are left out.

    Returns:
      Types by column: times are whole seconds, or timestamps with a zone or without one.
    """
    found = {name: types[name] for name in names if name in types}
    for name, value in zip(names, first, strict=False):
        kind = found.get(name)
        if kind is None or not pa.types.is_timestamp(kind):
            continue
        zone = "UTC" if _ZONE.search(value) else None
        found[name] = pa.int64() if value.strip().isdecimal() else pa.timestamp(kind.unit, zone)
    return found


def _refuse_repeated_header(path: str, batch: pa.RecordBatch, row: int) -> None:
    """Refuses rows that repeat the names of the columns, as of files that were put together."""
    if not all(map(pa.types.is_string, batch.schema.types)):
        return  # pyarrow has refused the name of a column of another type.
    repeats = pa.array([True] * batch.num_rows, pa.bool_())
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        repeats = pc.and_(repeats, pc.equal(column, name))
    index = pc.index(repeats, True).as_py()
    if index >= 0:
        raise DataError(f"{path}: row {row + index + 1} is a header again")


def _ends_in_line_break(batch: pa.RecordBatch) -> bool:
    """Whether a value of the last row has a line break."""
    if not batch.num_rows:
        return False
    return any(
        isinstance(value, str) and "\n" in value
        for value in batch.slice(batch.num_rows - 1).to_pylist()[0].values()
    )


class _Quotes(io.RawIOBase):
    """A stream of a CSV file, whose quotation marks are counted."""

    def __init__(self, stream: Any):
        self._stream = stream
        self.odd = False

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        chunk: bytes = self._stream.read(None if size < 0 else size)
        self.odd ^= bool(chunk.count(b'"') % 2)
        return chunk

    def close(self) -> None:
        self._stream.close()
        super().close()


def first_rows(path: str, files: fs.FileSystem, text: TextFormat) -> tuple[list[str], list[str]]:
    """The names in the first row of a CSV file, and the values of the second."""
    with files.open_input_stream(path) as stream:
        start = stream.read(BLOCK_BYTES)
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{path}: it is UTF-16: save it as UTF-8")
    if not start.strip():
        raise DataError(f"{path} is empty: a first row with the names of the columns is expected")
    if b"\0" in start:
        raise DataError(f"{path}: it is no text, but has NUL characters")
    encoding = "utf-8-sig" if text.encoding.lower().replace("-", "") == "utf8" else text.encoding
    try:
        decoded = start.decode(encoding, "ignore" if len(start) == BLOCK_BYTES else "strict")
    except UnicodeDecodeError as error:
        line = start.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}: {not_encoded(line, text)}") from error
    separator = separator_of(path, text)
    rows = csv.reader(io.StringIO(decoded), delimiter=separator)
    try:
        names, second = next(rows), next(rows, [])
    except csv.Error as error:
        raise DataError(f"{path}: its first rows are no CSV: {error}") from error
    others = [other for other in _OTHER_SEPARATORS if other != separator and other in names[0]]
    if len(names) == 1 and others:
        raise DataError(
            f"{path}: its only column is {names[0][:_SHOWN]!r}: if another character separates "
            f"columns, say which, as in data.separator = {json.dumps(others[0])}"
        )
    return names, second


def separator_of(path: str, text: TextFormat) -> str:
    """What stands between two values of a CSV file of this name."""
    return "\t" if re.search(r"\.tsv(\.gz)?$", path, re.IGNORECASE) else text.separator


_ROW = re.compile(r"(?:In CSV column #(?P<column>\d+): )?(?:CSV parse error: )?Row #(?P<row>\d+): ")
_VALUE = re.compile(
    r"CSV conversion error to (?P<type>.+?): invalid value '(?P<value>.*)'", re.DOTALL
)
_ZONE = re.compile(r":\d\d(\.\d+)?(Z|[+-]\d\d(:?\d\d)?)$")
_COUNT = re.compile(r"Expected (?P<expected>\d+) columns, got (?P<got>\d+)")


def _explain_csv(
    message: str, names: list[str], types: Mapping[str, pa.DataType], text: TextFormat
) -> str:
    """What pyarrow found in a CSV file, in terms of it."""
    where = _ROW.search(message)
    row = where["row"] if where else "?"
    name = names[int(where["column"])] if where and where["column"] else ""
    if "zone offset" in message:
        return f"row {row}: column {name!r} has times with a time zone and times without one"
    if "invalid UTF8" in message:
        return not_encoded(int(row), text)
    if count := _COUNT.search(message):
        return f"row {row} has {count['got']} values; {count['expected']} are expected"
    if value := _VALUE.search(message):
        if value["value"] == name:
            return f"row {row} is a header again"
        expected = describe_type(types.get(name, pa.string()))
        return (
            f"row {row}: column {name!r} is {value['value'][:_SHOWN]!r}; {expected} is expected "
            "(a text that stands for an absent value belongs into data.null_values)"
        )
    if "straddl" in message:
        return "a row is longer than 4 MiB: is a quotation mark not closed?"
    return one_line(message)
