"""How predictions are written: in which format, and which columns of the input are with them."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pyarrow as pa

from components.batch_predictor.input_files import Table
from ml.text_columns import TextColumns
from storage.csv_files import separator_of
from storage.json_files import LINE
from storage.parquet import ParquetBuffer
from storage.table_formats import Format, TextFormat
from storage.text_buffers import CsvBuffer, JsonLinesBuffer, TextBuffer

_ENDING = re.compile(r"\.[a-z]+(\.gz)?$", re.IGNORECASE)

TableBuffer = ParquetBuffer | TextBuffer


@dataclass(frozen=True)
class OutputFormat:
    """The format of the files of predictions, and of rows without one.

    Attributes:
      format: The format.
      ending: How the names of the files end, such as ".csv.gz".
      text: How text files are written.
      as_written: Whether the rows of a text file are written as they are, and not as the values
        that they were read as.
    """

    format: Format
    ending: str
    text: TextFormat
    as_written: bool

    @classmethod
    def of(cls, table: Table, wanted: Format | None) -> OutputFormat:
        """The format for the predictions of a table: the wanted one, by default that of the table.

        Files in the format of the table end as its first file does.
        """
        if wanted in (None, table.format):
            ending = _ENDING.search(table.files[0].name)
            assert ending  # It has told the format.
            as_written = table.format is not Format.PARQUET
            return cls(table.format, ending[0].lower(), table.text, as_written)
        return cls(wanted, f".{wanted.value}", table.text, False)

    @property
    def keeps_lines(self) -> bool:
        """Whether the lines of a file of JSON lines are needed."""
        return self.as_written and self.format is Format.JSONL

    def columns(self, found: pa.Schema, text: TextColumns | None) -> pa.Schema:
        """The columns of the input that are written.

        Args:
          found: The columns as they are read.
          text: The types of those of a CSV file; None for other formats.
        """
        if self.keeps_lines:
            return pa.schema([found.field(LINE)])
        return found if self.as_written or text is None else text.schema(found)

    def rows(self, read: pa.RecordBatch, typed: pa.RecordBatch) -> pa.RecordBatch:
        """Those columns of some rows, which are given as they are read and with their types."""
        if self.keeps_lines:
            place = read.schema.get_field_index(LINE)
            return pa.RecordBatch.from_arrays([read.column(place)], [LINE])
        return read if self.as_written else typed

    def open(self, schema: pa.Schema) -> TableBuffer:
        """Begins a file.

        Args:
          schema: Its columns.

        Raises:
          TextError: If the format does not hold a column.
        """
        packed = self.ending.endswith(".gz")
        if self.format is Format.PARQUET:
            return ParquetBuffer(schema)
        if self.format is Format.JSONL:
            return JsonLinesBuffer(schema, self.text.encoding, packed)
        separator = separator_of(f"x{self.ending}", self.text)
        # What is absent in a CSV file is an empty text for those who read it as texts.
        empty = "" if self.as_written else '""'
        return CsvBuffer(schema, separator, self.text.encoding, packed, empty)
