"""What text files of rows have in common: formats by their endings, characters, errors in words."""

from __future__ import annotations

import codecs
import enum
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from storage.errors import DataError, UserError

BLOCK_BYTES = 4 << 20
_SHOWN = 60
_FORMATS = re.compile(
    r".*\.(?:(?P<parquet>parquet|pq)|(?P<csv>csv|tsv)(?:\.gz)?|(?P<jsonl>jsonl|ndjson)(?:\.gz)?)",
    re.DOTALL | re.IGNORECASE,
)


# What files begin with that are no text.
_OTHER_FILES = {
    b"PAR1": "it is a Parquet file: name it .parquet",
    b"\x1f\x8b": "it is gzipped: add .gz to its name",
    b"PK\x03\x04": "it is a zip archive, or a workbook of a spreadsheet: save it as CSV",
    codecs.BOM_UTF16_LE: "it is UTF-16: save it as UTF-8",
    codecs.BOM_UTF16_BE: "it is UTF-16: save it as UTF-8",
}


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
      DataError: If two names are equal but for capitals or the way in which accents are written,
        or one is empty.
    """
    for number, name in enumerate(names, 1):
        if not name.strip():
            raise DataError(
                f"{path}: column {number} has no name: name it, or leave it out (pandas writes its "
                f"index so, but for index=False); the names are {', '.join(names)[:_SHOWN]!r}"
            )
    for name, count in Counter(names).items():
        if count > 1:
            raise DataError(f"{path}: column {name!r} is there {count} times")
    folded: dict[str, str] = {}
    for name in names:
        if other := folded.get(fold_name(name)):
            raise DataError(
                f"{path}: columns {other!r} and {name!r} differ in {difference(other, name)} "
                "alone: rename one"
            )
        folded[fold_name(name)] = name


def fold_name(name: str) -> str:
    """A name without what a person may not see: capitals, and how an accent is written."""
    return unicodedata.normalize("NFC", name).casefold()


def difference(name: str, other: str) -> str:
    """In what two names differ that `fold_name` makes one."""
    same = unicodedata.normalize("NFC", name) == unicodedata.normalize("NFC", other)
    return "how an accent is written" if same else "capitals"


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
    if pa.types.is_list(kind):
        return "a list of numbers"
    return f"a {kind}"


# The second form of a time is its zone.
_ZONE = re.compile(r":\d\d(\.\d+)?(Z|[+-]\d\d(:?\d\d)?)$")
_TIME = re.compile(r"\d{4}-\d\d-\d\d([ T]\d\d:\d\d.*)?", re.DOTALL)
_NANOSECONDS = re.compile(r"\.\d{7,9}(?!\d)")
_WHOLE = re.compile(r"[+-]?\d+", re.ASCII)
_BOOLEANS = ("true", "false")


def types_as_written(
    types: Mapping[str, pa.DataType], values: Mapping[str, str]
) -> dict[str, pa.DataType]:
    """The types of a file's columns, where numbers and times may be written in several ways.

    Numbers may be written as true and false, or as times; times as whole seconds, or as timestamps
    with a zone or without one.

    Example:
    >>> types_as_written({"at": pa.int64(), "n": pa.int64()}, {"at": "2013-01-31", "n": "7"})
    {'at': TimestampType(timestamp[us]), 'n': DataType(int64)}

    Args:
      types: The types that the schema says.
      values: The first value of each column that is there.
    """
    found = dict(types)
    for name, value in values.items():
        if kind := found.get(name):
            found[name] = _type_as_written(kind, value.strip())
    return found


def _type_as_written(kind: pa.DataType, value: str) -> pa.DataType:
    is_number = kind in (pa.int64(), pa.float64())
    if is_number and value.lower() in _BOOLEANS:
        return pa.bool_()
    if pa.types.is_timestamp(kind) and _WHOLE.fullmatch(value):
        return pa.int64()
    if pa.types.is_timestamp(kind) or (is_number and _TIME.fullmatch(value)):
        unit = "ns" if _NANOSECONDS.search(value) else "us"
        return pa.timestamp(unit, "UTC" if has_zone(value) else None)
    return kind


def has_zone(time: str) -> bool:
    """Whether a time says its zone."""
    return bool(_ZONE.search(time))


def check_content(path: str, start: bytes, text: TextFormat) -> None:
    """Checks that a file begins as text does.

    Args:
      path: Its name, for messages.
      start: Its first bytes, unpacked if its name says that it is gzipped.
      text: How it should be written.

    Raises:
      DataError: If it is another kind of file, or in another encoding.
    """
    for magic, reason in _OTHER_FILES.items():
        if start.startswith(magic):
            raise DataError(f"{path}: {reason}")
    try:
        " ".encode(text.encoding)
    except LookupError as error:
        raise DataError(f"data.encoding = {text.encoding!r}: there is no such encoding") from error
    if start.startswith(codecs.BOM_UTF8) and not is_utf8(text):
        raise DataError(f"{path}: it begins as UTF-8 does, and data.encoding is {text.encoding!r}")


def is_utf8(text: TextFormat) -> bool:
    """Whether text is UTF-8, by the name of its encoding."""
    return text.encoding.lower().replace("-", "").replace("_", "") in ("utf8", "utf8sig")


def not_encoded(row: int, text: TextFormat) -> str:
    """Says that a row has other characters than it should have."""
    return (
        f"row {row} is not {text.encoding}: save it as UTF-8, or say what it is, as in "
        'data.encoding = "latin-1"'
    )
