"""Reads text as values of other kinds, as far as its format lets them be written as text."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from orchestration.new_model.columns import Kind
from storage.table_formats import Format

_TIMES = tuple(
    (Kind.TIME, pa.timestamp(unit, zone)) for unit in ("us", "ns") for zone in (None, "UTC")
)
# In this order text of a format is tried as values of another kind. That of Parquet says its type.
_PARSED = {
    Format.CSV: (
        (Kind.INTEGER, pa.int64()),
        (Kind.NUMBER, pa.float64()),
        (Kind.BOOLEAN, pa.bool_()),
        *_TIMES,
    ),
    Format.JSONL: _TIMES,
}


def text_kinds(path: str) -> set[Kind]:
    """The kinds of values that text of a file may be."""
    return {Kind.TEXT, *(kind for kind, _ in _PARSED.get(_format(path), ()))}


def parse_text(path: str, array: pa.Array, likely: Kind = Kind.NOTHING) -> tuple[Kind, pa.Array]:
    """Text as values of the first kind that all of it is; numbers with leading zeros are text.

    Args:
      path: Its file, whose format says what text may be.
      array: Text.
      likely: The kind that is tried first.
    """
    leading_zero = pc.any(pc.match_substring_regex(array, r"^[+-]?0[0-9]")).as_py()
    kinds = _PARSED.get(_format(path), ())
    for kind, dtype in sorted(kinds, key=lambda parsed: parsed[0] is not likely):
        if leading_zero and kind in (Kind.INTEGER, Kind.NUMBER):
            continue
        try:
            found = array.cast(dtype)
        except pa.ArrowInvalid:
            continue
        if kind is Kind.TIME:
            found = found.cast(pa.timestamp("s", dtype.tz), safe=False)
        return kind, found
    return Kind.TEXT, array


def _format(path: str) -> Format:
    return Format.of(path) or Format.PARQUET
