"""Finds the folders of models, and reads what their teams decided."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from pipeline.layers import ConfigError, Layer, read_toml

# Names the model of commands that are not told one, over the model that says `default = true`.
MODEL_VARIABLE = "FLIGHTDECK_MODEL"
_PROJECT = Path(__file__).parents[1]
_FILE = "config.toml"
_NAME = re.compile(r"[a-z_]\w*(\.[a-z_]\w*)*")


def model_package(name: str) -> str:
    """Package of a model: below `models`, or elsewhere if the name has dots.

    Example:
      >>> model_package("trips"), model_package("tests.trips")
      ('models.trips', 'tests.trips')
    """
    return name if "." in name else f"models.{name}"


def model_names() -> list[str]:
    """The models below `models/`."""
    return sorted(path.parent.name for path in (_PROJECT / "models").glob(f"*/{_FILE}"))


def default_model() -> str:
    """The model of commands that are not told one.

    Raises:
      ConfigError: If none or several could be meant.
    """
    if named := os.environ.get(MODEL_VARIABLE):
        return named
    names = model_names()
    if len(names) > 1:
        names = [
            name for name in names if read_toml(str(_path(name))).values.get("default") is True
        ]
    if len(names) != 1:
        raise ConfigError(
            f"model: which? Say --set model=NAME, or `default = true` in the {_FILE} of one of "
            f"{', '.join(model_names()) or 'models/, where there is no model yet'}"
        )
    return names[0]


def read_model_layer(name: Any, source: str) -> Layer:
    """The settings of a model, `model` among them.

    Args:
      name: Name of the model.
      source: Where the name is from.

    Raises:
      ConfigError: If there is no such model, or its file is not TOML.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name) or not _path(name).is_file():
        raise ConfigError(
            f"model = {name!r}: there is no such folder in {_PROJECT / 'models'}, but "
            f"{', '.join(model_names()) or 'none'} ({source})"
        )
    source = str(_path(name).relative_to(_PROJECT))
    layer = read_toml(str(_path(name)))
    values = {key: value for key, value in layer.values.items() if key != "default"}
    if "model" in values:
        raise ConfigError(f"model = {values['model']!r}: the folder says it ({source})")
    return Layer(source, {**values, "model": name})


def _path(name: str) -> Path:
    return _PROJECT.joinpath(*model_package(name).split("."), _FILE)
