"""Layers of settings: reads, checks and merges them; later layers override earlier ones."""

from __future__ import annotations

import codecs
import dataclasses
import difflib
import functools
import json
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from storage.errors import UserError

_T = TypeVar("_T")
# Cached, because annotations that are strings take long to evaluate.
_hints: Callable[[Any], dict[str, Any]] = functools.cache(get_type_hints)


# What the settings of AUC are called since there are other metrics.
_RENAMED = {
    "evaluation.min_auc": "evaluation.thresholds.auc",
    "evaluation.min_slice_auc": "evaluation.slice_thresholds.auc",
    "evaluation.min_calibration": "evaluation.thresholds.calibration",
    "evaluation.max_calibration": "evaluation.thresholds.calibration",
    "evaluation.max_auc_loss": "evaluation.max_loss",
    "compression.max_auc_loss": "compression.max_loss",
    "compression.max_slice_auc_loss": "compression.max_slice_loss",
    "monitor.min_auc": "monitor.thresholds.auc",
    "monitor.min_slice_auc": "monitor.slice_thresholds.auc",
    "monitor.max_calibration": "monitor.thresholds.calibration",
}


class ConfigError(UserError):
    """A configuration key that does not exist, or a value that is not allowed."""


# The source of a setting of the command line.
COMMAND_LINE = "--set"


class TableValue(dict[str, Any]):
    """A table that a setting of the command line gives as one value, not key by key."""


@dataclass(frozen=True)
class Layer:
    """Settings from one source.

    Attributes:
      source: A file, or `COMMAND_LINE`.
      values: The values by name; those of a table in a dictionary.
    """

    source: str
    values: Mapping[str, Any]


def read_toml(path: str) -> Layer:
    """Reads a TOML file.

    Raises:
      ConfigError: If it cannot be read, or is not TOML in UTF-8.
    """
    try:
        content = Path(path).read_bytes()
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise ValueError("it is UTF-16: save it as UTF-8")
        # Some editors begin a file with a byte order mark.
        return Layer(path, tomllib.loads(content.decode("utf-8-sig")))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"configuration file {path}: line {line} is not UTF-8: save it as UTF-8"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"configuration file {path}: {error}") from error


def parse_setting(setting: str) -> Layer:
    """Reads one setting of the command line.

    Example:
      >>> parse_setting("training.epochs=3").values
      {'training': {'epochs': '3'}}

    A list is written as JSON, and a table as in TOML, `{ low = 1, high = 3 }`, or JSON.

    Raises:
      ConfigError: If it is not `key=value`, or a list is not JSON.
    """
    key, equals, text = (part.strip() for part in setting.partition("="))
    if not equals:
        raise ConfigError(f"--set {setting!r}: expected key=value, as in training.epochs=3")
    value: Any = _parse_list(key, text) if text.startswith("[") else _parse_table(text)
    for name in reversed(key.split(".")):
        value = {name: value}
    return Layer(COMMAND_LINE, value)


def _parse_table(text: str) -> Any:
    """A table; the text itself if it is none, as `{YYYY}-{MM}` is."""
    if not text.startswith("{"):
        return text
    for parse in (lambda: tomllib.loads(f"table = {text}"), lambda: {"table": json.loads(text)}):
        try:
            # One value: another key on a line behind the table would be ignored.
            (value,) = parse().values()
            return _as_one_value(value)
        except (ValueError, RecursionError):
            continue
    return text


def _as_one_value(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return TableValue({name: _as_one_value(inner) for name, inner in value.items()})


def _parse_list(key: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{key} = {text!r}: not a JSON list: {error}") from error


def merge(kind: type[_T], layers: Sequence[Layer]) -> _T:
    """Merges layers into a configuration; later layers override earlier ones.

    Args:
      kind: Frozen pydantic dataclass, whose own defaults are below all layers.
      layers: The layers.

    Raises:
      ConfigError: If a value is not allowed; the message has key, value, what is allowed, and
        source of each.
    """
    # With empty tables for those without a default, so that errors name the missing keys.
    hints = _hints(kind)
    values: dict[str, Any] = {n: {} for n in hints if dataclasses.is_dataclass(hints[n])}
    sources: dict[str, str] = {}
    for layer in layers:
        _check_keys(layer.values, kind, kind, layer.source)
        _put(values, sources, layer)
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        refusals = [_explain(e, sources, layers[0].source) for e in error.errors()]
        raise ConfigError("; ".join(refusals)) from error


def list_keys(kind: Any, prefix: str = "") -> list[str]:
    """All dotted keys of a configuration; <name> stands for a key of your choice."""
    if get_origin(kind) is dict:
        return list_keys(get_args(kind)[1], f"{prefix}.<name>")
    if not dataclasses.is_dataclass(kind):
        return [prefix]
    dot = "." if prefix else ""
    hints = _hints(kind)
    return [key for name in hints for key in list_keys(hints[name], f"{prefix}{dot}{name}")]


def _check_keys(
    values: Mapping[str, Any], kind: Any, root: type, source: str, prefix: str = ""
) -> None:
    """Refuses unknown keys, values in place of tables, and tables in place of values."""
    hints = _hints(kind) if dataclasses.is_dataclass(kind) else {}
    for name, value in values.items():
        key = prefix + name
        hint = hints.get(name) if hints else get_args(kind)[1]
        if hint is None:
            known = list_keys(root)
            near = [_RENAMED[key]] if key in _RENAMED else []
            near += difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            guess = f"did you mean {near[0]}? " if near else ""
            raise ConfigError(
                f"{key}: no such key; {guess}the keys are {', '.join(known)} ({source})"
            )
        if dataclasses.is_dataclass(hint) or get_origin(hint) is dict:
            if not isinstance(value, Mapping):
                raise ConfigError(
                    f"{key} = {value!r}: a table is expected, as in {key}.name=value ({source})"
                )
            _check_keys(value, hint, root, source, f"{key}.")
        elif isinstance(value, Mapping):
            inner = next(iter(value), "<name>")
            raise ConfigError(f"{key}.{inner}: {key} is not a table ({source})")
            continue
        items = value if isinstance(value, list) else [value]
        if hint is not bool and any(isinstance(item, bool) for item in items):
            # pydantic takes it for 0 or 1.
            raise ConfigError(f"{key} = {value!r}: true and false are not allowed here ({source})")
        if any("\0" in str(item) for item in items):
            # Not allowed in paths and arguments.
            raise ConfigError(f"{key} = {value!r}: NUL characters are not allowed ({source})")


def _put(values: dict[str, Any], sources: dict[str, str], layer: Layer, prefix: str = "") -> None:
    """Merges the values of a layer into others, and records their source by key."""
    for name, value in layer.values.items():
        key = prefix + name
        sources[key] = layer.source
        if isinstance(value, Mapping):
            inner = values.setdefault(name, {})
            _put(inner, sources, Layer(layer.source, value), f"{key}.")
        else:
            values[name] = value


def _explain(error: Mapping[str, Any], sources: Mapping[str, str], model: str) -> str:
    """Describes pydantic's error in one line."""
    message = error["msg"].removeprefix("Value error, ")
    # A check of several settings has no place; its message begins with a key.
    place = error["loc"] or re.split("[ :]", message)[0].split(".")
    parts = [str(part) for part in place]
    key = ".".join(parts)
    if error["type"] == "missing":
        return f"{key}: a value is missing; set it in {model}"
    message = error["msg"].removeprefix("Value error, ")
    if not parts:  # Of several settings together; the message starts with one of them.
        key = re.split(r"[^\w.]", message, maxsplit=1)[0]
        return f"{message} ({sources.get(key, model)})"
    tables = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
    source = next((sources[table] for table in tables if table in sources), "the engine's default")
    if not error["loc"]:
        return f"{message} ({source})"
    given = error["input"]
    shown = f" = {given!r}" if not isinstance(given, Mapping) else ""
    return f"{key}{shown}: {message} ({source})"
