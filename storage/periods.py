"""Numbers of spans: what a span is called, which comes before which, and the time it covers.

A span of a calendar is numbered by its digits: 2013, 201301, 20130116 or 2013011607. Other spans
are counted: 0, 1, 2, and so on.
"""

from __future__ import annotations

import enum
from datetime import UTC, datetime

import numpy as np


class SpanPeriod(enum.Enum):
    """What a span covers.

    Example:
    >>> SpanPeriod.MONTH.before(201302, 3)
    [201211, 201212, 201301]
    >>> SpanPeriod.DAY.is_number(20130229)
    False
    """

    YEAR = "year"
    MONTH = "month"
    DAY = "day"
    HOUR = "hour"
    NUMBER = "number"

    @property
    def form(self) -> str:
        """How its number is written."""
        return "a count" if self is SpanPeriod.NUMBER else _FORMS[self]

    @property
    def expected(self) -> str:
        """What its number is, for messages.

        Example:
          >>> SpanPeriod.HOUR.expected
          'an hour YYYYMMDDHH'
        """
        if self is SpanPeriod.NUMBER:
            return "a number from 0"
        article = "an" if self is SpanPeriod.HOUR else "a"
        return f"{article} {self.value} {_FORMS[self]}"

    def is_number(self, number: int) -> bool:
        """Whether there is such a span."""
        if self is SpanPeriod.NUMBER:
            return number >= 0
        try:
            return self._number(self._begin(number)) == number
        except ValueError:
            return False

    def before(self, number: int, count: int) -> list[int]:
        """The numbers of the `count` spans before one, oldest first; none before the year 1."""
        if self is SpanPeriod.NUMBER:
            return list(range(max(0, number - count), number))
        index = self._index(self._begin(number))
        return [self._at(i) for i in range(max(index - count, self._first), index)]

    def between(self, first: int, last: int) -> list[int]:
        """The numbers from `first` to `last`, both included; none if `last` comes before."""
        if self is SpanPeriod.NUMBER:
            return list(range(first, last + 1))
        begin, end = (self._index(self._begin(number)) for number in (first, last))
        return [self._at(index) for index in range(begin, end + 1)]

    def bounds(self, number: int) -> tuple[int, int]:
        """When a span of the calendar begins and ends in UTC, in seconds since the Unix epoch.

        Raises:
          ValueError: If spans are counted, or there is no such span.
        """
        begin = self._begin(number)
        end = self._begin(self._at(self._index(begin) + 1))
        return int(begin.timestamp()), int(end.timestamp())

    def numbers_of(self, seconds: np.ndarray) -> np.ndarray:
        """The spans in UTC that times belong to.

        Args:
          seconds: int64 seconds since the Unix epoch, any shape.

        Returns:
          int64 numbers of the same shape; 0 everywhere for spans that are counted.
        """
        if self is SpanPeriod.NUMBER:
            return np.zeros_like(seconds)
        times = seconds.astype("datetime64[s]")
        number = times.astype("datetime64[Y]").astype(np.int64) + 1970
        for period, unit, outer, first in _UNITS:
            if self is SpanPeriod.YEAR:
                break
            number = (
                number * 100
                + (
                    times.astype(f"datetime64[{unit}]")
                    - times.astype(f"datetime64[{outer}]").astype(f"datetime64[{unit}]")
                ).astype(np.int64)
                + first
            )
            if self is period:
                break
        return number

    @property
    def _first(self) -> int:
        return self._index(datetime(1, 1, 1, tzinfo=UTC))

    def _begin(self, number: int) -> datetime:
        if self is SpanPeriod.NUMBER:
            raise ValueError("spans that are counted have no time")
        digits = len(_FORMS[self])
        text = f"{number:0{digits}d}"
        if len(text) != digits:
            raise ValueError(f"{number} is no {self.value} {_FORMS[self]}")
        return datetime.strptime(text, _STRPTIME[self]).replace(tzinfo=UTC)

    def _number(self, begin: datetime) -> int:
        return int(begin.strftime(_STRPTIME[self]).zfill(len(_FORMS[self])))

    def _index(self, begin: datetime) -> int:
        """Position among all such spans."""
        if self is SpanPeriod.YEAR:
            return begin.year
        if self is SpanPeriod.MONTH:
            return begin.year * 12 + begin.month - 1
        if self is SpanPeriod.DAY:
            return begin.toordinal()
        return begin.toordinal() * 24 + begin.hour

    def _at(self, index: int) -> int:
        if self is SpanPeriod.YEAR:
            return index
        if self is SpanPeriod.MONTH:
            return index // 12 * 100 + index % 12 + 1
        days, hours = (index, 0) if self is SpanPeriod.DAY else divmod(index, 24)
        day = datetime.fromordinal(days)
        number = (day.year * 100 + day.month) * 100 + day.day
        return number if self is SpanPeriod.DAY else number * 100 + hours


_FORMS = {
    SpanPeriod.YEAR: "YYYY",
    SpanPeriod.MONTH: "YYYYMM",
    SpanPeriod.DAY: "YYYYMMDD",
    SpanPeriod.HOUR: "YYYYMMDDHH",
}
_STRPTIME = {
    SpanPeriod.YEAR: "%Y",
    SpanPeriod.MONTH: "%Y%m",
    SpanPeriod.DAY: "%Y%m%d",
    SpanPeriod.HOUR: "%Y%m%d%H",
}
# What each period adds to the number of the one around it: its unit, that one's, the first value.
_UNITS = (
    (SpanPeriod.MONTH, "M", "Y", 1),
    (SpanPeriod.DAY, "D", "M", 1),
    (SpanPeriod.HOUR, "h", "D", 0),
)
