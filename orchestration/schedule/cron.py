"""When a schedule fires: an expression of a crontab, meant as a crontab means it."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import tzlocal
from cronsim import CronSim, CronSimError

_EXPECTED = "expected are 5 fields: minute, hour, day of the month, month, day of the week"


class Cron:
    """When a schedule fires, as Debian's cron would.

    A time of day that the clock leaves out when it is put forward comes at the first moment after
    the gap; one that comes twice when it is put back counts once.

    Args:
      expression: Minute, hour, day of the month, month, day of the week.
      timezone: Name of a time zone (`Europe/Berlin`); "" for that of this machine.

    Raises:
      ValueError: If the expression or the time zone is wrong, or no time ever fits.
    """

    def __init__(self, expression: str, timezone: str = ""):
        fields = len(expression.split())
        if fields != 5:
            raise ValueError(f"{expression!r} has {fields} fields; {_EXPECTED}")
        try:
            self._zone = ZoneInfo(timezone) if timezone else tzlocal.get_localzone()
        except (ValueError, LookupError, OSError) as error:
            named = repr(timezone) if timezone else f"this machine's ({error})"
            raise ValueError(
                f"the time zone {named} is not known; name one such as Europe/Berlin"
            ) from error
        self._expression = expression
        try:
            self.after(datetime.now(UTC))
        except (CronSimError, ValueError) as error:
            raise ValueError(
                f"{expression!r} is not understood, or never comes ({error}); {_EXPECTED}"
            ) from error
        except StopIteration as error:
            raise ValueError(f"{expression!r} never comes") from error

    def after(self, time: datetime) -> datetime:
        """The first time to fire at that is later than `time`."""
        times = CronSim(self._expression, time.astimezone(self._zone))
        # A time that comes twice is found once more from between the two.
        return next(found for found in times if found.astimezone(UTC) > time)
