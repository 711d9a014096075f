"""Prepares the tables of a layer of settings whose keys a model chooses: network and space."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.layers import ConfigError, Layer


def join_space(layer: Layer) -> Layer:
    """Joins the keys of nested tables in `tuning.space`, as `--set`, and TOML without quotes, have.

    Example:
      >>> space = {"training": {"l2": {"low": 0.0}}, "network.units": {"choices": [32, 64]}}
      >>> join_space(Layer("--set", {"tuning": {"space": space}})).values["tuning"]["space"]
      {'training.l2': {'low': 0.0}, 'network.units': {'choices': [32, 64]}}
    """
    tuning = layer.values.get("tuning")
    if not isinstance(tuning, Mapping) or not isinstance(space := tuning.get("space"), Mapping):
        return layer
    joined = {"tuning": {**tuning, "space": dict(_leaves(space))}}
    return dataclasses.replace(layer, values={**layer.values, **joined})


def _leaves(space: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The ranges by the key of their setting, which has one dot."""
    for name, value in space.items():
        if "." in name or not isinstance(value, Mapping):
            yield name, value
        else:
            yield from ((f"{name}.{inner}", given) for inner, given in value.items())


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
