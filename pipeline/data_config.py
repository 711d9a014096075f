"""Settings of a run's data: meaning, defaults for any model, and allowed values."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator
from pydantic.dataclasses import dataclass

from pipeline.setting_types import CHECKED, Count, OptionalColumn, RunParameter, Text
from storage.errors import DataError
from storage.periods import SpanPeriod
from storage.span_pattern import SpanPattern
from storage.spans import DataSource
from storage.table_formats import TextFormat


def _check_pattern(text: str) -> str:
    try:
        if text:
            SpanPattern.parse(text)
    except DataError as error:
        raise ValueError(str(error)) from error
    return text


def _check_encoding(name: str) -> str:
    try:
        " ".encode(name)
    except LookupError as error:
        raise ValueError('an encoding is expected, such as "utf-8" or "latin-1"') from error
    return name


@dataclass(frozen=True, config=CHECKED)
class DataConfig:
    """The data of a run, and how they are split.

    The newest span, or the span `as_of`, is the split `test`; the spans before it are `train` and,
    at their end, `eval`. Data without spans are divided by `time_column`; if there is none, rows
    are split by a hash. See [Your data](data.md).

    Attributes:
      uri: Directory of the data, or its one file: Parquet, CSV or JSON lines.
      spans: Pattern of the paths of spans below it: `span-{YYYY}{MM}`, `year={YYYY}/month={MM}`,
        `{YYYY}-{MM}-{DD}`, `span-{SPAN}/version-{VERSION}`; "" if paths do not tell the time.
      time_column: Time of a row; "" if rows have none.
      period: What a span covers if rows are divided by `time_column` alone, in UTC.
      window: Spans before `as_of` to train on.
      as_of: Span to evaluate on, as YYYYMM, YYYYMMDD or its number; 0 for the newest.
      eval_days: Days at the end of the window held out for early stopping, if rows have a time.
      eval_share: Share of the rows held out for early stopping, if they have none.
      test_share: Share of the rows to evaluate on, if there are no spans.
      key_columns: Columns by whose values rows without a time are split: rows with equal values
        are in one split; an empty list means all columns.
      separator: Character between two values of a CSV file.
      encoding: Encoding of text files, such as "utf-8" or "latin-1".
      null_values: Texts that stand for an absent value in a CSV file.
    """

    uri: RunParameter[Text]
    spans: Annotated[str, AfterValidator(_check_pattern)] = ""
    time_column: OptionalColumn = ""
    period: Literal["year", "month", "day", "hour"] = "month"
    window: RunParameter[Annotated[int, Field(ge=1, le=1000)]] = 6
    as_of: RunParameter[Count] = 0
    eval_days: RunParameter[Annotated[int, Field(ge=1, le=90)]] = 7
    eval_share: Annotated[float, Field(gt=0, le=0.5)] = 0.1
    test_share: Annotated[float, Field(gt=0, le=0.5)] = 0.2
    key_columns: tuple[str, ...] = ()
    separator: Annotated[str, Field(min_length=1, max_length=1, pattern=r'^[^"\r\n]$')] = ","
    encoding: Annotated[Text, AfterValidator(_check_encoding)] = "utf-8"
    null_values: tuple[str, ...] = TextFormat().null_values

    @field_validator("as_of")
    @classmethod
    def _check_as_of(cls, number: int, info: ValidationInfo) -> int:
        given = info.data
        if number and {"spans", "time_column", "period"} <= given.keys():
            period = SpanPeriod(given["period"])
            source = DataSource("", given["spans"], given["time_column"], period)
            if not source.numbering.is_number(number):
                expected = source.numbering.expected
                raise ValueError(f"{expected} is expected, or 0 for the newest")
        return number

    @property
    def source(self) -> DataSource:
        """Where the data are, and what divides them into spans."""
        text = TextFormat(self.separator, self.encoding, self.null_values)
        return DataSource(self.uri, self.spans, self.time_column, SpanPeriod(self.period), text)
