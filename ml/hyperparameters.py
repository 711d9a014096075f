"""The settings that the Tuner found, as TFX's artifact `HyperParameters` holds them.

They are named by keys of the configuration: `training.<name>` or `network.<name>`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from tfx import v1 as tfx

from storage.errors import UserError

# The stock Tuner's name. Trainer takes the only file of the folder.
_FILE = "best_hyperparameters.txt"
_TRAINING, _NETWORK = "training", "network"
Value = int | float | str


def write(artifact: tfx.dsl.Artifact, values: Mapping[str, Value]) -> None:
    """Writes settings, by key, in the form of KerasTuner's `HyperParameters.get_config`."""
    fileio = tfx.dsl.io.fileio
    fileio.makedirs(artifact.uri)
    with fileio.open(os.path.join(artifact.uri, _FILE), "w") as file:
        file.write(json.dumps({"space": [], "values": dict(values)}, indent=2) + "\n")


def read(artifact: tfx.dsl.Artifact) -> dict[str, Value]:
    """Reads settings, by key.

    Raises:
      UserError: If the artifact holds something else.
    """
    path = os.path.join(artifact.uri, _FILE)
    try:
        with tfx.dsl.io.fileio.open(path, "r") as file:
            values = json.loads(file.read())["values"]
        if all(type(value) in (int, float, str) for value in values.values()):
            return dict(values)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} holds no hyperparameters: {error}") from error
    raise UserError(f"{path} holds no hyperparameters: numbers and texts are expected")


def apply(custom_config: Mapping[str, Any], values: Mapping[str, Value]) -> dict[str, Any]:
    """Puts settings into what a `run_fn` gets.

    Example:
      >>> given = {"epochs": 5, "network": '{"units": 64}'}
      >>> apply(given, {"training.epochs": 3, "network.units": 32})
      {'epochs': 3, 'network': '{"units": 32}'}

    Args:
      custom_config: The `custom_config` of Trainer, with a key for each setting of `training`, and
        `network` as JSON.
      values: The settings, by key.

    Returns:
      A copy with the settings.

    Raises:
      UserError: If there is no such setting.
    """
    result = dict(custom_config)
    network = json.loads(result.get(_NETWORK) or "{}")
    for key, value in values.items():
        table, _, name = key.partition(".")
        place = {_TRAINING: result, _NETWORK: network}.get(table, {})
        if name not in place:
            raise UserError(f"{key}: Trainer has no such setting")
        place[name] = value
    return {**result, _NETWORK: json.dumps(network)} if network else result
