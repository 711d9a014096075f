"""Reads CSV files as a stream of record batches."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
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
    check_content,
    check_names,
    describe_type,
    is_utf8,
    not_encoded,
    types_as_written,
)

_SHOWN = 60
_OTHER_SEPARATORS = ";\t|,"
# The first value of a column is looked for in so many rows.
_ROWS_WITH_VALUES = 1000
_NO_ROW = "Empty CSV file"


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
    read = names if columns is None else [name for name in names if name in columns]
    types = dict.fromkeys(names, pa.string()) | types_as_written(
        {name: types[name] for name in names if name in types}, first
    )
    for name in read:
        if pa.types.is_list(types[name]):
            raise DataError(
                f"{path}: column {name!r} is a list in the schema, which no CSV file holds: use "
                "Parquet or JSON lines"
            )
    quotes = _Quotes(path, files.open_input_stream(path), separator_of(path, text))
    reader = None
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
                    include_columns=read,
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
                yield _no_row([(field.name, field.type) for field in reader.schema])
        except pa.ArrowInvalid as error:
            if _NO_ROW in str(error):  # A header without a line break.
                yield _no_row([(name, types[name]) for name in read])
                return
            raise DataError(f"{path}: {_explain_csv(str(error), names, types, text)}") from error
        finally:
            # pyarrow's threads read ahead; one that does so when Python ends aborts the process.
            quotes.end()
            with contextlib.suppress(pa.ArrowException):
                for _ in reader or ():
                    pass
    if quotes.odd and last is not None and _ends_in_line_break(last):
        raise DataError(f'{path}: a quotation mark (") is not closed before the end of the file')


def _no_row(fields: list[tuple[str, pa.DataType]]) -> pa.RecordBatch:
    arrays = [pa.array([], kind) for _, kind in fields]
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))


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
    """A stream of a CSV file, whose quotation marks are counted, and refused behind a backslash."""

    def __init__(self, path: str, stream: Any, separator: str):
        self._path = path
        self._stream = stream
        # At the end of a value, the backslash is a part of it; as a separator it is no escape.
        ends = re.escape(f'"\r\n{separator}')
        self._escaped = None if separator == "\\" else re.compile(rf'\\"[^{ends}]'.encode())
        self.odd = False
        self._ended = False

    def end(self) -> None:
        """Makes it end here for whoever reads on."""
        self._ended = True

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if self._ended:
            return b""
        chunk: bytes = self._stream.read(None if size < 0 else size)
        self.odd ^= bool(chunk.count(b'"') % 2)
        if self._escaped and b'\\"' in chunk and (found := self._escaped.search(chunk)):
            start = max(0, found.start() - _SHOWN // 2)
            value = chunk[start : found.end()].decode("utf-8", "replace")
            raise DataError(
                f'{self._path}: a quotation mark in a value is doubled (""), not written behind a '
                f"backslash as in {value!r}"
            )
        return chunk

    def close(self) -> None:
        self._stream.close()
        super().close()


def first_rows(
    path: str, files: fs.FileSystem, text: TextFormat
) -> tuple[list[str], dict[str, str]]:
    """The names in the first row of a CSV file, and the first value of each column."""
    with files.open_input_stream(path) as stream:
        start = stream.read(BLOCK_BYTES)
    check_content(path, start, text)
    if not start.strip():
        raise DataError(f"{path} is empty: a first row with the names of the columns is expected")
    if b"\0" in start:
        raise DataError(f"{path}: it is no text, but has NUL characters")
    if b"\r" in start and b"\n" not in start:
        raise DataError(f"{path}: it is no CSV: its lines end in CR alone; LF or CR LF is expected")
    encoding = "utf-8-sig" if is_utf8(text) else text.encoding
    try:
        decoded = start.decode(encoding, "ignore" if len(start) == BLOCK_BYTES else "strict")
    except UnicodeDecodeError as error:
        line = start.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}: {not_encoded(line, text)}") from error
    separator = separator_of(path, text)
    rows = (row for row in csv.reader(io.StringIO(decoded), delimiter=separator) if row)
    try:
        names, *some = itertools.islice(rows, _ROWS_WITH_VALUES)
    except csv.Error as error:
        raise DataError(f"{path}: its first rows are no CSV: {error}") from error
    others = [other for other in _OTHER_SEPARATORS if other != separator and other in names[0]]
    if len(names) == 1 and others:
        raise DataError(
            f"{path}: its only column is {names[0][:_SHOWN]!r}: if another character separates "
            f"columns, say which, as in data.separator = {json.dumps(others[0])}"
        )
    first: dict[str, str] = {}
    for row in some:
        for name, value in zip(names, row, strict=False):
            if value not in text.null_values:
                first.setdefault(name, value)
    return names, first


def separator_of(path: str, text: TextFormat) -> str:
    """What stands between two values of a CSV file of this name."""
    return "\t" if re.search(r"\.tsv(\.gz)?$", path, re.IGNORECASE) else text.separator


_ROW = re.compile(r"(?:In CSV column #(?P<column>\d+): )?(?:CSV parse error: )?Row #(?P<row>\d+): ")
_VALUE = re.compile(
    r"CSV conversion error to (?P<type>.+?): invalid value '(?P<value>.*)'", re.DOTALL
)
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
