"""Reads tables as people have them: Parquet, CSV and JSON lines, the last two also gzipped.

Text is read in a stream, with the types that the caller names, and becomes Parquet first: all that
comes after it reads row groups.
"""

from __future__ import annotations

import csv
import enum
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv
from pyarrow import fs
from pyarrow import json as arrow_json

from storage.errors import DataError
from storage.parquet import open_file, write_row_groups

ROWS_PER_GROUP = 16_384
_TIME = pa.timestamp("us")
_BLOCK_BYTES = 4 << 20
_SHOWN = 60
_LONGEST_REASON = 500
_OTHER_SEPARATORS = ";\t|,"
_FORMATS = re.compile(
    r".*\.(?:(?P<parquet>parquet|pq)|(?P<csv>csv|tsv)(?:\.gz)?|(?P<jsonl>jsonl|ndjson)(?:\.gz)?)",
    re.DOTALL | re.IGNORECASE,
)


class Format(enum.Enum):
    """How a file of rows is written."""

    PARQUET = "parquet"
    CSV = "csv"
    JSONL = "jsonl"

    @classmethod
    def of(cls, name: str) -> Format | None:
        """The format that the ending of a name says; None if it is no table's.

        Example:
        >>> Format.of("part-1.csv.gz")
        <Format.CSV: 'csv'>
        """
        match = _FORMATS.fullmatch(name)
        return cls(match.lastgroup) if match and match.lastgroup else None


ENDINGS = ".parquet, .pq, .csv, .tsv, .jsonl or .ndjson, the texts also .gz"


@dataclass(frozen=True)
class TextFormat:
    """How text files are written.

    Attributes:
      separator: What stands between two values of a CSV file; a tab in .tsv files.
      encoding: Its characters, such as "utf-8" or "latin-1".
      null_values: Texts that stand for an absent value.
    """

    separator: str = ","
    encoding: str = "utf-8"
    null_values: tuple[str, ...] = ("", "NA", "N/A", "NaN", "nan", "NULL", "null", "None")


def read_schema(path: str, files: fs.FileSystem, text: TextFormat) -> list[str]:
    """The names of a file's columns, of which the rows are not read.

    Raises:
      DataError: If it cannot be read, or two columns have the same name but for capitals.
    """
    kind = Format.of(path)
    with _readable(path):
        if kind is Format.PARQUET:
            with open_file(path, files) as parquet:
                names = list(parquet.schema_arrow.names)
        elif kind is Format.CSV:
            names, _ = _first_rows(path, files, text)
        else:
            names = next(_read_json(path, files, {}, text, None)).schema.names
    check_names(path, names)
    return names


def check_names(path: str, names: list[str]) -> None:
    """Checks that columns can be told apart.

    Raises:
      DataError: If two names are equal but for capitals, or one is empty.
    """
    if any(not name.strip() for name in names):
        raise DataError(f"{path}: column {names.index('') + 1 if '' in names else 1} has no name")
    for name, count in Counter(names).items():
        if count > 1:
            raise DataError(f"{path}: column {name!r} is there {count} times")
    folded: dict[str, str] = {}
    for name in names:
        if other := folded.get(name.casefold()):
            raise DataError(
                f"{path}: columns {other!r} and {name!r} differ in capitals alone: rename one"
            )
        folded[name.casefold()] = name


def read_times(path: str, files: fs.FileSystem, column: str, text: TextFormat) -> list[np.ndarray]:
    """The times of a file's rows.

    Returns:
      For each row group, as the file has them or `as_parquet` makes them, int64 seconds since the
      Unix epoch, shape [rows].

    Raises:
      DataError: If the column is not there, is no time, or a row has none.
    """
    names = read_schema(path, files, text)
    if column not in names:
        raise DataError(f"{path}: column {column!r} is missing; it has {', '.join(names)}")
    with _readable(path):
        if Format.of(path) is Format.PARQUET:
            with open_file(path, files) as parquet:
                return [
                    _seconds(path, parquet.read_row_group(group, columns=[column])[column], column)
                    for group in range(parquet.num_row_groups)
                ]
        batches = iter_batches(path, files, {column: _TIME}, text, [column])
        seconds = np.concatenate([_seconds(path, batch.column(0), column) for batch in batches])
        return np.split(seconds, range(ROWS_PER_GROUP, len(seconds), ROWS_PER_GROUP))


def _seconds(path: str, values: pa.Array | pa.ChunkedArray, column: str) -> np.ndarray:
    """Times as int64 seconds since the Unix epoch, shape [rows]."""
    if not (pa.types.is_timestamp(values.type) or pa.types.is_date(values.type)):
        raise DataError(f"{path}: column {column!r} is {values.type}; a timestamp is expected")
    if values.null_count:
        raise DataError(
            f"{path}: column {column!r} is null in {values.null_count} rows; every row needs a time"
        )
    zone = getattr(values.type, "tz", None)
    return values.cast(pa.timestamp("s", zone), safe=False).cast(pa.int64()).to_numpy()


def as_parquet(
    path: str,
    files: fs.FileSystem,
    target: str,
    types: Mapping[str, pa.DataType],
    text: TextFormat,
) -> None:
    """Writes a text file as Parquet, in row groups of `ROWS_PER_GROUP` rows.

    Args:
      path: The text file.
      files: Its file system, and that of `target`.
      target: The Parquet file.
      types: Type of each column that matters; the others stay as they are (CSV: strings).
      text: How text is written.

    Raises:
      DataError: If it cannot be read as that, naming the row and the column.
    """
    with _readable(path):
        batches = iter_batches(path, files, types, text)
        with files.open_output_stream(target) as out:
            write_row_groups(batches, out, ROWS_PER_GROUP)


def iter_batches(
    path: str,
    files: fs.FileSystem,
    types: Mapping[str, pa.DataType],
    text: TextFormat,
    columns: list[str] | None = None,
) -> Iterator[pa.RecordBatch]:
    """The rows of a text file, some thousand at a time.

    Args:
      path: The file.
      files: Its file system.
      types: Type of each column that matters.
      text: How text is written.
      columns: Which to read; None for all.

    Raises:
      DataError: If it cannot be read as that, naming the row and the column.
    """
    with _readable(path):
        if Format.of(path) is Format.CSV:
            yield from _read_csv(path, files, types, text, columns)
        else:
            yield from _read_json(path, files, types, text, columns)


def _read_csv(
    path: str,
    files: fs.FileSystem,
    types: Mapping[str, pa.DataType],
    text: TextFormat,
    columns: list[str] | None,
) -> Iterator[pa.RecordBatch]:
    names, first = _first_rows(path, files, text)
    check_names(path, names)
    types = {name: types.get(name, pa.string()) for name in names}
    for name, value in zip(names, first, strict=False):
        if pa.types.is_timestamp(types[name]):
            types[name] = pa.timestamp(types[name].unit, "UTC" if _ZONE.search(value) else None)
    quotes = _Quotes(files.open_input_stream(path))
    with quotes:
        try:
            reader = arrow_csv.open_csv(
                quotes,
                read_options=arrow_csv.ReadOptions(
                    use_threads=False, block_size=_BLOCK_BYTES, encoding=text.encoding
                ),
                parse_options=arrow_csv.ParseOptions(
                    delimiter=_separator(path, text), newlines_in_values=True
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


def _refuse_repeated_header(path: str, batch: pa.RecordBatch, row: int) -> None:
    """Refuses rows that repeat the names of the columns, as of files that were put together."""
    names = [
        name
        for name, column in zip(batch.schema.names, batch.columns, strict=True)
        if pa.types.is_string(column.type)
    ]
    repeats = None
    for name in names:
        same = pc.equal(batch.column(batch.schema.get_field_index(name)), name)
        repeats = same if repeats is None else pc.and_(repeats, same)
    if repeats is None:
        return
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


def _first_rows(path: str, files: fs.FileSystem, text: TextFormat) -> tuple[list[str], list[str]]:
    """The names in the first row of a CSV file, and the values of the second."""
    with files.open_input_stream(path) as stream:
        start = stream.read(_BLOCK_BYTES)
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{path}: it is UTF-16: save it as UTF-8")
    if not start.strip():
        raise DataError(f"{path} is empty: a first row with the names of the columns is expected")
    if b"\0" in start:
        raise DataError(f"{path}: it is no text, but has NUL characters")
    encoding = "utf-8-sig" if text.encoding.lower().replace("-", "") == "utf8" else text.encoding
    try:
        decoded = start.decode(encoding, "ignore" if len(start) == _BLOCK_BYTES else "strict")
    except UnicodeDecodeError as error:
        line = start.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}: {_not_encoded(line, text)}") from error
    separator = _separator(path, text)
    rows = csv.reader(io.StringIO(decoded), delimiter=separator)
    names = next(rows)
    others = [other for other in _OTHER_SEPARATORS if other != separator and other in names[0]]
    if len(names) == 1 and others:
        raise DataError(
            f"{path}: its only column is {names[0][:_SHOWN]!r}: if another character separates "
            f"columns, say which, as in data.separator = {json.dumps(others[0])}"
        )
    return names, next(rows, [])


def _separator(path: str, text: TextFormat) -> str:
    return "\t" if re.search(r"\.tsv(\.gz)?$", path, re.IGNORECASE) else text.separator


def _not_encoded(line: int, text: TextFormat) -> str:
    return (
        f"row {line} is not {text.encoding}: save it as UTF-8, or say what it is, as in "
        'data.encoding = "latin-1"'
    )


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
        return _not_encoded(int(row), text)
    if count := _COUNT.search(message):
        return f"row {row} has {count['got']} values; {count['expected']} are expected"
    if value := _VALUE.search(message):
        expected = describe_type(types.get(name, pa.string()))
        return f"row {row}: column {name!r} is {value['value'][:_SHOWN]!r}; {expected} is expected"
    if "straddl" in message:
        return "a row is longer than 4 MiB: is a quotation mark not closed?"
    return " ".join(message.split())[:_LONGEST_REASON]


def describe_type(kind: pa.DataType) -> str:
    """A type in words, with its article."""
    if pa.types.is_integer(kind):
        return "a whole number"
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "a number"
    if pa.types.is_boolean(kind):
        return "true or false"
    if pa.types.is_timestamp(kind):
        return f"a time as 2013-01-31 23:59:00{'Z' if kind.tz else ''}"
    return f"a {kind}"


def _read_json(
    path: str,
    files: fs.FileSystem,
    types: Mapping[str, pa.DataType],
    text: TextFormat,
    columns: list[str] | None,
) -> Iterator[pa.RecordBatch]:
    types = {name: kind for name, kind in types.items() if columns is None or name in columns}
    unexpected = "infer" if columns is None else "ignore"
    row = 0
    with files.open_input_stream(path) as stream:
        for block in _blocks(path, stream, text):
            try:
                table = arrow_json.read_json(
                    io.BytesIO(block),
                    read_options=arrow_json.ReadOptions(
                        use_threads=False, block_size=len(block) + 1
                    ),
                    parse_options=arrow_json.ParseOptions(
                        explicit_schema=pa.schema(list(types.items())),
                        unexpected_field_behavior=unexpected,
                    ),
                )
            except pa.ArrowInvalid as error:
                raise DataError(f"{path}: {_explain_json(str(error), row, types)}") from error
            if unexpected == "infer":  # What the first rows have, all have.
                check_names(path, table.column_names)
                types = dict(zip(table.schema.names, table.schema.types, strict=True))
                unexpected = "error"
            row += len(table)
            yield from table.combine_chunks().to_batches()
    if not row:
        raise DataError(f"{path} is empty: one object in a line is expected")


def _blocks(path: str, stream: Any, text: TextFormat) -> Iterator[bytes]:
    """Whole lines of some megabytes, in UTF-8."""
    rest = b""
    while chunk := stream.read(_BLOCK_BYTES):
        whole, newline, tail = chunk.rpartition(b"\n")
        if newline:
            yield _utf8(path, rest + whole + newline, text)
            rest = tail
        else:
            rest += chunk
            if len(rest) > 4 * _BLOCK_BYTES:
                raise DataError(f"{path}: a line is longer than 16 MiB: is it JSON lines?")
    if rest.strip():
        yield _utf8(path, rest, text)


def _utf8(path: str, block: bytes, text: TextFormat) -> bytes:
    try:
        return block.decode(text.encoding).encode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: {_not_encoded(block.count(bytes([10]), 0, error.start) + 1, text)}"
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
    return f"{row}: {' '.join(detail.split())[:_LONGEST_REASON]}"


@contextmanager
def _readable(path: str) -> Iterator[None]:
    """Tells an error of reading by the file's name."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError, EOFError) as error:
        reason = " ".join(str(error).split())[:_LONGEST_REASON]
        raise DataError(f"{path} cannot be read: {reason}") from error
