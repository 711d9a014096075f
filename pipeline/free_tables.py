"""Prepares the tables of layers of settings whose keys a model chooses: network and space."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any

from pipeline.layers import COMMAND_LINE, ConfigError, Layer, TableValue


def join_space(layer: Layer) -> Layer:
    """Joins the keys of nested tables in `tuning.space`, as `--set`, and TOML without quotes, have.

    Example:
      >>> space = {"training": {"l2": {"low": 0.0}}, "network.units": {"choices": [32, 64]}}
      >>> join_space(Layer("--set", {"tuning": {"space": space}})).values["tuning"]["space"]
      {'training.l2': {'low': 0.0}, 'network.units': {'choices': [32, 64]}}
    """
    space = _space_of(layer)
    return layer if space is None else _with_space(layer, type(space)(_leaves(space)))


def _space_of(layer: Layer) -> dict[str, Any] | None:
    """The table `tuning.space` of a layer, if it has one."""
    tuning = layer.values.get("tuning")
    space = tuning.get("space") if isinstance(tuning, Mapping) else None
    return space if isinstance(space, dict) else None


def _with_space(layer: Layer, space: Mapping[str, Any]) -> Layer:
    tuning = {**layer.values["tuning"], "space": space}
    return dataclasses.replace(layer, values={**layer.values, "tuning": tuning})


def _leaves(space: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The ranges by the key of their setting, which has one dot."""
    for name, value in space.items():
        if "." in name or not isinstance(value, Mapping) or not value:
            yield name, value
        else:
            yield from ((f"{name}.{inner}", given) for inner, given in value.items())


def lay_space(layers: Sequence[Layer], known: Sequence[str]) -> list[Layer]:
    """Takes from each layer the ranges of `tuning.space` that a later one replaces or removes.

    A range is replaced as a whole, and an empty one removes it. `--set` may also change a single
    key of a range, as in `tuning.space.training.epochs.high=30`; a key of the other kind, choices
    in place of ends or the reverse, begins a new range.

    Args:
      layers: The layers, whose ranges are joined.
      known: The settings that can be tried.

    Raises:
      ConfigError: If a range is no table, or one is removed that can be none.
    """
    laid: list[Layer] = []
    touched = set()
    for layer in layers:
        space = _space_of(layer)
        if space is None:
            laid.append(layer)
            continue
        if isinstance(space, TableValue):
            laid = [_without_ranges(other, None) for other in laid]
        for key, given in space.items():
            _check_range(key, given, known, layer.source)
            if not _edits(layer, given) or (key not in touched and _is_new(given, key, laid)):
                laid = [_without_ranges(other, [key]) for other in laid]
            if layer.source == COMMAND_LINE:
                touched.add(key)
        laid.append(_without_ranges(layer, [key for key, given in space.items() if not given]))
    return laid


def _check_range(key: str, given: Any, known: Sequence[str], source: str) -> None:
    """Checks that a range is a table, and that one which removes a range may be there."""
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"tuning.space.{key} = {given!r}: a table is expected, as in {{ low = 1, high = 9 }}, "
            f"{{ choices = [1, 2] }} or, to try the setting no more, {{ }} ({source})"
        )
    if not given and key not in known:
        raise ConfigError(
            f"tuning.space.{key}: no setting to try; they are {', '.join(known)} ({source})"
        )


def _without_ranges(layer: Layer, keys: Container[str] | None) -> Layer:
    """The layer without some ranges; without all for None."""
    space = _space_of(layer)
    if space is None:
        return layer
    kept = {} if keys is None else {key: space[key] for key in space if key not in keys}
    return _with_space(layer, kept)


def _edits(layer: Layer, given: Mapping[str, Any]) -> bool:
    """Whether a range of a layer is a single key of it."""
    return layer.source == COMMAND_LINE and not isinstance(given, TableValue)


def _is_new(given: Mapping[str, Any], key: str, before: Sequence[Layer]) -> bool:
    """Whether a key of a range is not of the kind of those that layers before it have."""
    found = [space[key] for layer in before if key in (space := _space_of(layer) or {})]
    return bool(found) and ("choices" in given) != ("choices" in found[-1])


def type_network(layer: Layer, model: Layer) -> Layer:
    """Gives the values of `network` in a layer the types that the model's own have.

    Args:
      layer: A layer over that of the model.
      model: The model's layer, whose table `network` has all settings.

    Raises:
      ConfigError: If there is no such setting, or the value is not of its type.
    """
    given, known = layer.values.get("network"), model.values.get("network", {})
    if not isinstance(given, Mapping) or not isinstance(known, Mapping):
        return layer
    typed = {}
    for name, value in given.items():
        if name not in known:
            raise ConfigError(
                f"network.{name}: no such key; the model's network has "
                f"{', '.join(known) or 'no settings'} ({layer.source})"
            )
        try:
            typed[name] = like(known[name], value)
        except ValueError as error:
            raise ConfigError(f"network.{name} = {value!r}: {error} ({layer.source})") from error
    return dataclasses.replace(layer, values={**layer.values, "network": typed})


def like(default: Any, value: Any) -> Any:
    """A value in the type of a default: a whole number, a number, or a text.

    Example:
      >>> like(64, "128"), like(0.3, 1), like("relu", "tanh")
      (128, 1.0, 'tanh')

    Raises:
      ValueError: If it is of another type; the message says what is expected.
    """
    if isinstance(default, str):
        if not isinstance(value, str):
            raise ValueError("a text is expected")
        return value
    expected = "a whole number" if isinstance(default, int) else "a number"
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{expected} is expected") from None
    if isinstance(value, bool) or not math.isfinite(number):
        raise ValueError(f"{expected} is expected")
    if not isinstance(default, int):
        return number
    if not number.is_integer():
        raise ValueError(f"{expected} is expected")
    return int(number)
