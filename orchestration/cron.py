"""When a schedule fires: an expression of a crontab, meant as a crontab means it."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from apscheduler.triggers.combining import OrTrigger
from apscheduler.triggers.cron import CronTrigger

_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")


class Cron:
    """When a schedule fires, as in a crontab; the days of the week are 0 to 7, Sunday is both.

    Args:
      expression: Minute, hour, day of the month, month, day of the week.
      timezone: Name of a time zone (`Europe/Berlin`); "" for that of this machine.

    Raises:
      ValueError: If the expression or the time zone is wrong, or no time ever fits.
    """

    def __init__(self, expression: str, timezone: str = ""):
        fields = expression.split()
        if len(fields) != 5:
            raise ValueError(
                f"{expression!r} has {len(fields)} fields; expected are 5: minute, hour, day of "
                "the month, month, day of the week"
            )
        minute, hour, day, month, weekday = fields
        try:
            zone = ZoneInfo(timezone) if timezone else None
        except (ValueError, LookupError, OSError) as error:
            raise ValueError(f"{timezone!r} is no time zone; Europe/Berlin is one") from error
        try:
            at = {"minute": minute, "hour": hour, "month": month, "timezone": zone}
            days = {"day": day, "day_of_week": _weekdays(weekday)}
            if day.startswith("*") or weekday.startswith("*"):
                self._trigger = CronTrigger(**at, **days)
            else:  # As in a crontab, one that fits is enough.
                either = [CronTrigger(**at, **{name: value}) for name, value in days.items()]
                self._trigger = OrTrigger(either)
        except (ValueError, LookupError) as error:
            raise ValueError(f"{expression!r}: {error}") from error
        if self._trigger.get_next_fire_time(None, datetime.now(UTC)) is None:
            raise ValueError(f"{expression!r} never fits")

    def after(self, time: datetime) -> datetime:
        """The first time to fire at that is later than `time`."""
        # In UTC: a local time that comes twice is the first of the two once something is added.
        soonest = time.astimezone(UTC) + timedelta(microseconds=1)
        found: datetime = self._trigger.get_next_fire_time(None, soonest)
        return found


def _weekdays(text: str) -> str:
    """Days of the week by name: APScheduler 3 counts from Monday, a crontab from Sunday."""

    def name(number: re.Match[str]) -> str:
        if int(number[0]) > 7:
            raise ValueError(f"{number[0]} is no day of the week: 0 to 7 are, or sun to sat")
        return _WEEKDAYS[int(number[0]) % 7]

    parts = []
    for part in text.lower().split(","):
        days, slash, step = part.partition("/")
        named = re.sub(r"\d+", name, "0-6" if slash and days == "*" else days)
        first, dash, last = named.partition("-")
        if (dash or slash) and first in _WEEKDAYS and (last or "sat") in _WEEKDAYS:
            begin, end = _WEEKDAYS.index(first), _WEEKDAYS.index(last or "sat")
            end += 7 * (end < begin or (end == begin and days.endswith("7")))
            if slash and not (step.isdigit() and int(step)):
                raise ValueError(f"{part!r}: the step must be 1 or more")
            parts += [_WEEKDAYS[day % 7] for day in range(begin, end + 1, int(step or 1))]
        else:
            parts.append(named + slash + step)
    return ",".join(parts)
