"""Cron expressions as Kubeflow Pipelines reads them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from orchestration.kubeflow.errors import KubeflowError

_CRON_HELP = (
    "allowed are 5 fields, minute hour day month weekday, such as '0 6 1 * *' (6:00 on the first "
    "of a month), or 6 with seconds before them; a field is *, numbers, ranges 1-5, steps */15 or "
    "lists 1,15; weekdays are 0 (Sunday) to 6 or sun to sat, months 1 to 12 or jan to dec"
)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_LONGEST_MONTHS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_CRON_FIELDS: tuple[tuple[str, int, int, Mapping[str, int]], ...] = (
    ("second", 0, 59, {}),
    ("minute", 0, 59, {}),
    ("hour", 0, 23, {}),
    ("day", 1, 31, {}),
    ("month", 1, 12, {name: number for number, name in enumerate(_MONTHS, 1)}),
    ("weekday", 0, 6, {name: number for number, name in enumerate(_WEEKDAYS)}),
)


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
    if len(fields) == len(_CRON_FIELDS) - 1:
        fields.insert(0, "0")
    if len(fields) != len(_CRON_FIELDS):
        raise KubeflowError(f"'{cron}' has {len(fields)} fields: {_CRON_HELP}.")
    allowed = []
    for field, (name, low, high, names) in zip(fields, _CRON_FIELDS, strict=True):
        try:
            allowed.append(_cron_numbers(field, low, high, names))
        except ValueError as error:
            raise KubeflowError(f"'{cron}': the {name} '{field}' {error}: {_CRON_HELP}.") from error
    days, months = allowed[3], allowed[4]
    any_weekday = fields[5][0] in "*?"
    if any_weekday and min(days) > max(_LONGEST_MONTHS[month - 1] for month in months):
        raise KubeflowError(f"'{cron}' never comes: none of its months has a day {min(days)}.")
    return " ".join(fields)


def _cron_numbers(field: str, low: int, high: int, names: Mapping[str, int]) -> set[int]:
    numbers: set[int] = set()
    for item in field.lower().split(","):
        found = re.fullmatch(r"(?:[*?]|(\w+)(?:-(\w+))?)(?:/(\d+))?", item, re.ASCII)
        if not found:
            raise ValueError("is not understood")
        first, last, step = found.groups()
        start = _cron_number(first, names) if first else low
        # As the server has it, 5/15 means from 5 on.
        end = _cron_number(last, names) if last else start if first and not step else high
        if not low <= start <= end <= high:
            raise ValueError(f"is not within {low} to {high}")
        if step and not int(step):
            raise ValueError("has a step of 0")
        numbers.update(range(start, end + 1, int(step or 1)))
    return numbers


def _cron_number(text: str, names: Mapping[str, int]) -> int:
    if text in names:
        return names[text]
    if not text.isdecimal():
        raise ValueError("is not understood")
    return int(text)
