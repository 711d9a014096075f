"""Cron expressions as Kubeflow Pipelines reads them."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from cronsim import CronSim, CronSimError

from orchestration.kubeflow.errors import KubeflowError

_CRON_HELP = (
    "allowed are 5 fields, minute hour day month weekday, such as '0 6 1 * *' (6:00 on the first "
    "of a month), or 6 with seconds before them; a field is *, numbers, ranges 1-5, steps */15 or "
    "lists 1,15; weekdays are 0 (Sunday) to 6 or sun to sat, months 1 to 12 or jan to dec"
)
_FIELDS = ("second", "minute", "hour", "day", "month", "weekday")
# What the server takes of what CronSim does: no L, W or #, and no 7 for Sunday.
_ITEM = r"(?:[*?]|(?:{0})(?:-(?:{0}))?)(?:/\d+)?"
_NUMBER, _WEEKDAY = r"\d+|[a-z]{3}", r"[0-6]|[a-z]{3}"


def six_fields(cron: str) -> str:
    """Checks a cron expression, and writes it as Kubeflow Pipelines takes it.

    Kubeflow reads six fields, seconds first. Given five it takes the weekday for the one left out:
    it would run '0 6 1 * *' every day at 1:06. An expression that no day fits, such as the 30th of
    February, it accepts, and its controller then looks for the next time without end.

    Args:
      cron: Five fields, or six with seconds first.

    Returns:
      Six fields, separated by single spaces.

    Raises:
      KubeflowError: If it is not such an expression, or never comes true; says what is allowed.
    """
    fields = cron.split()
    if len(fields) == len(_FIELDS) - 1:
        fields.insert(0, "0")
    if len(fields) != len(_FIELDS):
        raise KubeflowError(f"'{cron}' has {len(fields)} fields: {_CRON_HELP}.")
    for field, name in zip(fields, _FIELDS, strict=True):
        item = _ITEM.format(_WEEKDAY if name == "weekday" else _NUMBER)
        if not re.fullmatch(rf"{item}(?:,{item})*", field, re.ASCII | re.IGNORECASE):
            raise KubeflowError(f"'{cron}': the {name} '{field}' is not understood: {_CRON_HELP}.")
    try:
        CronSim(" ".join(fields).replace("?", "*"), datetime.now(UTC))
    except (CronSimError, ValueError) as error:  # ValueError: of a number without end.
        raise KubeflowError(
            f"'{cron}' is not understood, or never comes ({error}): {_CRON_HELP}."
        ) from error
    return " ".join(fields)
