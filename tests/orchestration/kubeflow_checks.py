"""Parameters and cron expressions, checked as the API server of Kubeflow Pipelines does."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

Json = dict[str, Any]


def check_parameters(spec: Json, values: Json) -> None:
    """Checks values as `validatePipelineJobInputs` does.

    Raises:
      ValueError: If one is missing, unknown, or of another kind.
    """
    wanted = spec["root"].get("inputDefinitions", {}).get("parameters", {})
    kinds: dict[str, tuple[tuple[type, ...], str]] = {
        "NUMBER_INTEGER": (
            (int, float),
            "double or integer, but the parameter value is not of number value",
        ),
        "NUMBER_DOUBLE": (
            (int, float),
            "double or integer, but the parameter value is not of number value",
        ),
        "STRING": ((str,), "string, but the input parameter is not of string value"),
        "BOOLEAN": ((bool,), "bool, but the input parameter is not of bool value"),
    }
    for name, parameter in wanted.items():
        if name not in values:
            if not parameter.get("isOptional") and "defaultValue" not in parameter:
                raise ValueError(
                    f"parameter {name} is not optional, yet has neither default value nor user "
                    "provided value"
                )
            continue
        types, words = kinds[parameter["parameterType"]]
        value = values[name]
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            raise ValueError(f"input parameter {name} requires type {words} type")
    if extra := sorted(set(values) - set(wanted)):
        raise ValueError(f"parameter(s) provided are not required by pipeline: {', '.join(extra)}")


_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_WEEKDAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
_BOUNDS: list[tuple[int, int, dict[str, int]]] = [
    (0, 59, {}),
    (0, 59, {}),
    (0, 23, {}),
    (1, 31, {}),
    (1, 12, {name: number for number, name in enumerate(_MONTHS, 1)}),
    (0, 6, {name: number for number, name in enumerate(_WEEKDAYS)}),
]


def check_cron(cron: str) -> None:
    """Parses a cron expression as github.com/robfig/cron 1.2.0 does.

    Five fields pass: the weekday is the one that may be left out, not the second.

    Raises:
      ValueError: If it would not parse.
    """
    if not cron:
        raise ValueError("Empty spec string")
    if cron.startswith("@"):
        if cron[1:] not in (
            "yearly",
            "annually",
            "monthly",
            "weekly",
            "daily",
            "midnight",
            "hourly",
        ):
            raise ValueError(f"Unrecognized descriptor: {cron}")
        return
    fields = cron.split()
    if not 5 <= len(fields) <= 6:
        raise ValueError(f"Expected 5 to 6 fields, found {len(fields)}: {cron}")
    for text, (low, high, names) in zip(fields, _BOUNDS, strict=False):
        for item in filter(None, text.split(",")):
            _check_range(item, low, high, names)


def _check_range(item: str, low: int, high: int, names: Mapping[str, int]) -> None:
    bounds, *steps = item.split("/")
    first, *last = bounds.split("-")
    if len(steps) > 1:
        raise ValueError(f"Too many slashes: {item}")
    if first in ("*", "?"):
        start, end = low, high
    else:
        if len(last) > 1:
            raise ValueError(f"Too many hyphens: {item}")
        start = _number(first, names)
        end = _number(last[0], names) if last else start
    step = _number(steps[0], {}) if steps else 1
    if steps and not last:
        end = high
    if start < low:
        raise ValueError(f"Beginning of range ({start}) below minimum ({low}): {item}")
    if end > high:
        raise ValueError(f"End of range ({end}) above maximum ({high}): {item}")
    if start > end:
        raise ValueError(f"Beginning of range ({start}) beyond end of range ({end}): {item}")
    if step == 0:
        raise ValueError(f"Step of range should be a positive number: {item}")


def _number(text: str, names: Mapping[str, int]) -> int:
    if text.lower() in names:
        return names[text.lower()]
    if not re.fullmatch(r"\d+", text, re.ASCII):
        raise ValueError(f"Failed to parse int from {text}")
    return int(text)
