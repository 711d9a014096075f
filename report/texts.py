"""Shows numbers and texts to people."""

from __future__ import annotations

import math
import re
from datetime import datetime
from typing import Any

from markupsafe import Markup

# Control characters, and those that change the direction of what follows.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
_LONGEST = 2000
_NONE = "-"


def clean(text: Any) -> Any:
    """A text without characters that no one sees; anything but a text as it is.

    Markup is what this program made itself, and stays as it is; all else is escaped afterwards.

    Example:
      >>> clean("a\\x00b"), clean(None), clean(3)
      ('a\ufffdb', '', 3)
    """
    if text is None:
        return ""
    if not isinstance(text, str) or isinstance(text, Markup):
        return text
    text = _UNSEEN.sub("\ufffd", text)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def clip(text: Any, length: int = 40) -> str:
    """A text that is no longer than this.

    Example:
      >>> clip("a long name", 7)
      'a long…'
    """
    text = str(clean(str(text)))
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def number(value: Any, digits: int = 4) -> str:
    """A number with so many significant digits, if it has a fraction; "-" for none.

    Example:
      >>> number(0.69698), number(27020.0), number(1e-7), number(None), number(float("nan"))
      ('0.6970', '27,020', '1.00e-07', '-', '-')
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return _NONE
    if value == int(value) and abs(value) < 1e15:
        return f"{value:,.0f}"
    if abs(value) >= 1e15 or abs(value) < 1e-5:
        return f"{value:.{max(digits - 2, 0)}e}"
    places = max(digits - 1 - math.floor(math.log10(abs(value))), 0)
    return f"{value:,.{places}f}"


def plain(value: Any) -> str:
    """A number as a person wrote it, such as a limit.

    Example:
      >>> plain(0.62), plain(2.0)
      ('0.62', '2')
    """
    return _NONE if number(value) == _NONE else f"{value:g}"


def signed(value: Any, digits: int = 3) -> str:
    """A number with its sign.

    Example:
      >>> signed(0.0031), signed(-2)
      ('+0.00310', '-2')
    """
    text = number(value, digits)
    return text if text in ("0", _NONE) or text.startswith("-") else f"+{text}"


def percent(value: Any, places: int = 1) -> str:
    """A share in percent.

    Example:
      >>> percent(0.9216), percent(None)
      ('92.2%', '-')
    """
    return _NONE if number(value) == _NONE else f"{value:.{places}%}"


def size(count: Any) -> str:
    """A number of bytes.

    Example:
      >>> size(32480), size(2500000)
      ('32.5 kB', '2.50 MB')
    """
    if number(count) == _NONE:
        return _NONE
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def duration(seconds: Any) -> str:
    """A time span.

    Example:
      >>> duration(7.26), duration(161), duration(7300)
      ('7.3 s', '2 min 41 s', '2 h 1 min')
    """
    if number(seconds) == _NONE or seconds < 0:
        return _NONE
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def moment(text: Any) -> str:
    """A time of ISO 8601, in UTC; any other text as it is.

    Example:
      >>> moment("2026-11-27T06:52:11+00:00")
      '2026-11-27 06:52 UTC'
    """
    try:
        return f"{datetime.fromisoformat(str(text)):%Y-%m-%d %H:%M} UTC"
    except ValueError:
        return str(text)


def spans(numbers: Any) -> str:
    """Numbers of spans, in short.

    Example:
      >>> spans([201306, 201307, 201308]), spans([201312])
      ('201306 to 201308', '201312')
    """
    found = [str(number) for number in numbers or ()]
    if not found:
        return "none"
    return found[0] if len(found) == 1 else f"{found[0]} to {found[-1]}"


def width(share: Any) -> str:
    """A share as a CSS length between 0% and 100%.

    Example:
      >>> width(0.5), width(7), width(float("nan"))
      ('50.0%', '100.0%', '0.0%')
    """
    if number(share) == _NONE:
        return "0.0%"
    return f"{100 * min(max(share, 0.0), 1.0):.1f}%"
