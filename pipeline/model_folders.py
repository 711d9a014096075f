"""Finds the folders of models, and reads their settings."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from ml.model_card.team_text import LARGEST_BYTES, read_team_text
from pipeline.layers import ConfigError, Layer, read_toml
from storage.errors import SurroundingsError

# Names the default model; overrides `default = true` in a model's file.
MODEL_VARIABLE = "FLIGHTDECK_MODEL"
_PROJECT = Path(__file__).parents[1]
_FILE = "config.toml"
_CARD = "card.md"
_NAME = re.compile(r"[a-z_]\w*(\.[a-z_]\w*)*")


def model_package(name: str) -> str:
    """The package of a model: below `models`, or elsewhere if the name has dots.

    Example:
      >>> model_package("trips"), model_package("tests.trips")
      ('models.trips', 'tests.trips')
    """
    return name if "." in name else f"models.{name}"


def model_names() -> list[str]:
    """The models below `models/`."""
    return sorted(path.parent.name for path in (_PROJECT / "models").glob(f"*/{_FILE}"))


def default_model() -> str:
    """The default model.

    Raises:
      ConfigError: If there is no default, or several.
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
            f"model: there is no single default; use --model NAME, or set `default = true` "
            f"in the {_FILE} of one of "
            f"{', '.join(model_names()) or 'models/, where there is no model yet'}"
        )
    return names[0]


def served_name(name: str) -> str:
    """The `model_name` in the file of a model; "" if there is none that can be read."""
    try:
        found = read_model_layer(name, "").values.get("model_name")
    except ConfigError:
        return ""
    return found if isinstance(found, str) else ""


def check_single_name(model: str, model_name: str) -> None:
    """Checks that no other model below `models/` has the same name in the Serving directory.

    Raises:
      SurroundingsError: If one has. It is no `ConfigError`: what has to change may be the other
        model, which the run key does not know.
    """
    for other in model_names():
        if other != model and served_name(other) == model_name:
            raise SurroundingsError(
                f"model_name = {model_name!r}: the models {model} and {other} have the same name "
                "in the Serving directory; give one of them another model_name"
            )


def check_model(name: Any, source: str) -> None:
    """Checks that there is a folder of a model.

    Args:
      name: Name of the model.
      source: Where the name is from.

    Raises:
      ConfigError: If there is none.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name) or not _path(name).is_file():
        place = _PROJECT if "." in str(name) else _PROJECT / "models"
        raise ConfigError(
            f"model = {name!r}: there is no such folder in {place}, but "
            f"{', '.join(model_names()) or 'none'} ({source})"
        )


def read_model_layer(name: Any, source: str) -> Layer:
    """Reads the settings of a model, including `model`.

    Args:
      name: Name of the model.
      source: Where the name is from.

    Raises:
      ConfigError: If there is no such model, or its file is not TOML.
    """
    check_model(name, source)
    source = str(_path(name).relative_to(_PROJECT))
    layer = read_toml(str(_path(name)))
    values = {key: value for key, value in layer.values.items() if key != "default"}
    if "model" in values:
        raise ConfigError(f"model = {values['model']!r}: the folder sets the name ({source})")
    return Layer(source, {**values, "model": name})


def read_card(name: str) -> str:
    """The text of a model's `card.md`, as `read_team_text` cleans it; "" if it has none.

    Raises:
      ConfigError: If it cannot be read; see `read_team_text`.
    """
    path = _path(name).with_name(_CARD)
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST_BYTES + 1).decode("utf-8-sig")
        return read_team_text(text).text
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{path.relative_to(_PROJECT)}: {reason}") from error


def _path(name: str) -> Path:
    return _PROJECT.joinpath(*model_package(name).split("."), _FILE)
