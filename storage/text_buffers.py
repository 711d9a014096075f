"""Writes tables as CSV and JSON lines in memory, as `ParquetBuffer` writes Parquet."""

from __future__ import annotations

import codecs
import gzip
import io
import json
import re
from abc import ABC, abstractmethod

import pyarrow as pa
import pyarrow.compute as pc

from storage.json_files import LINE, parse_object
from storage.row_texts import csv_rows, join_texts, json_members, json_texts, text_bytes

_SHOWN = 60
_PARQUET = "write Parquet, or leave it out"


class TextError(Exception):
    """A text file does not hold a column, or a value; the message names the column."""


class TextBuffer(ABC):
    """A text file of rows that is written in memory.

    Args:
      schema: Its columns.
      encoding: Its characters, such as "utf-8".
      packed: Whether it is gzipped.

    Attributes:
      schema: Its columns.
      rows: Number of rows so far.

    Raises:
      TextError: If a column has a type without a text.
    """

    def __init__(self, schema: pa.Schema, encoding: str = "utf-8", packed: bool = False):
        self.schema = schema
        self.rows = 0
        self._encoding = encoding
        self._encode = codecs.getincrementalencoder(encoding)().encode
        self._out = io.BytesIO()
        # Without a time, so that the same rows are the same bytes.
        self._file = gzip.GzipFile("", "wb", 6, self._out, mtime=0) if packed else self._out
        for field in schema:
            try:
                json_texts(pa.nulls(0, field.type))
            except pa.ArrowNotImplementedError as error:
                raise TextError(
                    f"column {field.name!r} is {field.type}, which text has no form for: {_PARQUET}"
                ) from error

    def add(self, rows: pa.Table) -> None:
        """Adds rows.

        Raises:
          TextError: If a value cannot be written, naming the column.
        """
        for batch in rows.combine_chunks().to_batches():
            try:
                texts = self._texts(batch)
            except pa.ArrowInvalid as error:
                if not (name := _not_text(batch)):
                    raise
                raise TextError(
                    f"column {name!r} has bytes that are no UTF-8 text: {_PARQUET}"
                ) from error
            self._add(texts)
        self.rows += len(rows)

    def close(self) -> bytes:
        """Ends the file, and returns it."""
        if self._file is not self._out:
            self._file.close()
        return self._out.getvalue()

    @abstractmethod
    def _texts(self, batch: pa.RecordBatch) -> pa.Array:
        """Rows without line ends."""

    def _add(self, rows: pa.Array) -> None:
        text = text_bytes(join_texts(rows, "\n")).decode()
        try:
            self._file.write(self._encode(text))
        except UnicodeEncodeError as error:
            found = text[error.start : error.end][:_SHOWN]
            raise TextError(
                f"{found!r} cannot be written as {self._encoding} (data.encoding): write Parquet"
            ) from error


class CsvBuffer(TextBuffer):
    """A CSV file, with the names of the columns in its first row.

    Args:
      schema: Its columns.
      separator: What stands between two values.
      encoding: Its characters.
      packed: Whether it is gzipped.
      empty: How an empty text is written; an absent one is written as nothing.

    Example:
      >>> buffer = CsvBuffer(pa.schema([("x", pa.int8()), ("y", pa.string())]), ";")
      >>> buffer.add(pa.table({"x": pa.array([7], pa.int8()), "y": ["a;b"]}))
      >>> buffer.close()
      b'x;y\\n7;"a;b"\\n'
    """

    def __init__(
        self,
        schema: pa.Schema,
        separator: str,
        encoding: str = "utf-8",
        packed: bool = False,
        empty: str = '""',
    ):
        super().__init__(schema, encoding, packed)
        self._separator, self._empty = separator, empty
        self._add(csv_rows([pa.array([name]) for name in schema.names], separator, empty))

    def _texts(self, batch: pa.RecordBatch) -> pa.Array:
        return csv_rows(batch.columns, self._separator, self._empty)


class JsonLinesBuffer(TextBuffer):
    """A file of JSON lines; rows whose `LINE` is a column begin as that line does.

    Args:
      schema: Its columns.
      encoding: Its characters.
      packed: Whether it is gzipped.

    Example:
      >>> buffer = JsonLinesBuffer(pa.schema([(LINE, pa.string()), ("y", pa.int8())]))
      >>> buffer.add(pa.table({LINE: ['{"x":1.50}'], "y": pa.array([7], pa.int8())}))
      >>> buffer.close()
      b'{"x":1.50, "y": 7}\\n'
    """

    def _texts(self, batch: pa.RecordBatch) -> pa.Array:
        values = dict(zip(batch.schema.names, batch.columns, strict=True))
        lines = values.pop(LINE, None)
        members = json_members([*values], [*values.values()])
        if lines is None:
            return join_texts("{", members, "}")
        _check_new(lines, [*values])
        return _extend(lines.cast(members.type), members)


def _extend(lines: pa.Array, members: pa.Array) -> pa.Array:
    """JSON objects with more members behind their own."""
    own = pc.replace_substring_regex(
        pc.ascii_trim_whitespace(lines), pattern=r"\s*\}$", replacement=""
    )
    none = pc.equal(own, "{")
    between = pc.if_else(none, pa.scalar("", own.type), pa.scalar(", ", own.type))
    return join_texts(own, between, members, "}")


def _check_new(lines: pa.Array, names: list[str]) -> None:
    """Checks that no line has a member of one of these names."""
    quoted = [re.escape(json.dumps(name, ensure_ascii=False)) for name in names]
    # Any character of a name may be written as an escape.
    suspects = pc.match_substring_regex(lines, "|".join([*quoted, r"\\[u/]"]))
    for line in lines.filter(suspects).to_pylist():
        row = parse_object(line)
        if row is None:
            raise TextError(f"{line[:_SHOWN]!r} … is nested too deep: {_PARQUET}")
        for name in names:
            if name in row:
                raise TextError(
                    f"a row has {name!r}, which the first rows do not have, so that it was taken "
                    "for free: rename it"
                )


def _not_text(batch: pa.RecordBatch) -> str:
    """The first column whose bytes are no text; "" if there is none."""
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            json_texts(column)
        except pa.ArrowInvalid:
            return name
    return ""
