"""Patterns of the paths of spans, as TFX's ExampleGens and Hive write them.

`span-{YYYY}{MM}`, `{YYYY}-{MM}-{DD}`, `year={YYYY}/month={MM}`, `span-{SPAN}/version-{VERSION}`,
`sales-{YYYY}-{MM}.csv`. A `*` stands for any text in one name. Hive's months, days and hours may
have one digit.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from storage.errors import DataError
from storage.periods import SpanPeriod

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}|(\*)")
_WIDTHS = {"YYYY": 4, "MM": 2, "DD": 2, "HH": 2}
_PERIODS = {
    (): None,
    ("YYYY",): SpanPeriod.YEAR,
    ("YYYY", "MM"): SpanPeriod.MONTH,
    ("YYYY", "MM", "DD"): SpanPeriod.DAY,
    ("YYYY", "MM", "DD", "HH"): SpanPeriod.HOUR,
}
_EXAMPLES = "span-{YYYY}{MM}, year={YYYY}/month={MM}, {YYYY}-{MM}-{DD} or span-{SPAN}"
# TFX reads such numbers as well: those of a calendar are days since 1970 there, which no name has.
_COUNTED, _VERSION = "SPAN", "VERSION"


@dataclass(frozen=True)
class SpanPattern:
    """The path of a span below the data directory.

    Attributes:
      text: The pattern as it was written.
      period: What a span covers.
      levels: What the name at each level of folders must match; its groups are the placeholders.

    Example:
    >>> pattern = SpanPattern.parse("year={YYYY}/month={MM}")
    >>> pattern.period
    <SpanPeriod.MONTH: 'month'>
    >>> pattern.number({"YYYY": "2013", "MM": "01"})
    201301
    """

    text: str
    period: SpanPeriod
    levels: tuple[re.Pattern[str], ...]

    @classmethod
    def parse(cls, text: str) -> SpanPattern:
        """Reads a pattern.

        Raises:
          DataError: If it is none, with what is expected.
        """
        found: list[str] = []
        levels = tuple(_level(text, name, found) for name in text.split("/"))
        dates = tuple(name for name in _WIDTHS if name in found)
        period = _PERIODS.get(dates)
        if _COUNTED in found:
            period = None if dates else SpanPeriod.NUMBER
        if period is None:
            raise DataError(
                f"{{SPAN}} alone is expected, or {{YYYY}} with {{MM}}, "
                f"{{DD}} and {{HH}} as far as the names go, as in {_EXAMPLES}"
            )
        return cls(text, period, levels)

    def number(self, groups: dict[str, str]) -> int | None:
        """The number of the span with these values of the placeholders; None if there is none."""
        if self.period is SpanPeriod.NUMBER:
            return int(groups[_COUNTED])
        parts = (groups[name].zfill(width) for name, width in _WIDTHS.items() if name in groups)
        number = int("".join(parts))
        return number if self.period.is_number(number) else None

    @staticmethod
    def version(groups: dict[str, str]) -> int:
        """The version of a span, of which the highest is read; -1 if its name has none."""
        return int(groups.get(_VERSION, -1))

    def name(self, number: int) -> str:
        """The path of a span, for messages."""
        digits = str(number).zfill(len(self.period.form))
        values = {"YYYY": digits[:4], "MM": digits[4:6], "DD": digits[6:8], "HH": digits[8:]}
        values |= {_COUNTED: str(number), _VERSION: "*"}
        return _PLACEHOLDER.sub(
            lambda m: "*" if m[2] else values[m[1].partition(":")[0]], self.text
        )


def _level(text: str, name: str, found: list[str]) -> re.Pattern[str]:
    """The regular expression of one level; the placeholders are added to `found`."""
    if name in ("", ".", ".."):
        raise DataError(
            f"{name!r} is no name of a folder or file; a path below "
            f"data.uri is expected, as {_EXAMPLES}"
        )
    expression, end = "", 0
    for match in _PLACEHOLDER.finditer(name):
        expression += re.escape(name[end : match.start()])
        end = match.end()
        if match[2]:
            expression += ".*"
            continue
        placeholder, colon, width = match[1].partition(":")
        if placeholder in _WIDTHS and not colon:
            digits = f"[0-9]{{{_WIDTHS[placeholder]}}}"
            if name[: match.start()].endswith("=") and end == len(name) and placeholder != "YYYY":
                digits = "[0-9]{1,2}"  # Spark writes month=1.
        elif placeholder in (_COUNTED, _VERSION) and re.fullmatch("[1-9]?", width):
            digits = f"[0-9]{{{width}}}" if width else "[0-9]{1,18}"
        else:
            raise DataError(
                f"{{{match[1]}}} is no placeholder; they are {{YYYY}}, "
                "{MM}, {DD}, {HH}, {SPAN} and {VERSION}, the last two also with a width as in "
                "{SPAN:3}"
            )
        if placeholder in found:
            raise DataError(f"{{{placeholder}}} is there twice")
        found.append(placeholder)
        expression += f"(?P<{placeholder}>{digits})"
    return re.compile(expression + re.escape(name[end:]), re.DOTALL)
