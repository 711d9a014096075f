"""What text files of rows have in common: formats by their endings, characters, errors in words."""

from __future__ import annotations

import enum
import re
from collections import Counter
from dataclasses import dataclass

import pyarrow as pa

from storage.errors import DataError, UserError

BLOCK_BYTES = 4 << 20
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

    @classmethod
    def named(cls, name: str) -> Format | None:
        """The format of this name; None for "".

        Raises:
          UserError: If there is none.
        """
        known = {format.value: format for format in cls} | {"": None}
        if name not in known:
            raise UserError(
                f"{name!r} is no format of a table; it is one of {', '.join(cls.names())}"
            )
        return known[name]

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The names of all formats."""
        return tuple(format.value for format in cls)


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


def check_separator(separator: str) -> str:
    """Returns a separator that CSV files can have.

    Raises:
      ValueError: If it is none.
    """
    if len(separator) != 1 or not separator.isascii() or separator in '\0"\r\n':
        raise ValueError("an ASCII character is expected that is no quotation mark or line break")
    return separator


def check_encoding(name: str) -> str:
    """Returns the name of an encoding of texts.

    Raises:
      ValueError: If there is no such encoding.
    """
    try:
        "".encode(name)
    except (LookupError, ValueError) as error:
        raise ValueError("there is no such encoding") from error
    return name


def check_names(path: str, names: list[str]) -> None:
    """Checks that columns can be told apart.

    Raises:
      DataError: If two names are equal but for capitals, or one is empty.
    """
    for number, name in enumerate(names, 1):
        if not name.strip():
            raise DataError(
                f"{path}: column {number} has no name: name it, or leave it out (pandas writes its "
                "index so, but for index=False)"
            )
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


def not_encoded(row: int, text: TextFormat) -> str:
    """Says that a row has other characters than it should have."""
    return (
        f"row {row} is not {text.encoding}: save it as UTF-8, or say what it is, as in "
        'data.encoding = "latin-1"'
    )
