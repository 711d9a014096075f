"""What a version is made from: the record from which `reproduce` builds it again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # That of Python 3.11 pydantic does not take.

from orchestration.local.cache_keys import CodeVersion
from pipeline.challenger_config import ChallengerConfig
from pipeline.config import Config, MonitorConfig
from pipeline.kubeflow_config import KubeflowConfig
from pipeline.layers import ConfigError, Layer, merge
from pipeline.model import SAVE_FN, Model
from storage.errors import UserError


class Origin(TypedDict):
    """What a version is made from, besides its data and the libraries.

    Attributes:
      configuration: The settings that a model depends on, without those of serving.
      code: Digest of each module of the project that makes the pipeline or runs in it, by path.
      schema: SHA-256 of the curated schema.
      base_version: The version that was served then; 0 for none.
    """

    __pydantic_config__ = ConfigDict(strict=True)  # type: ignore[misc]

    configuration: dict[str, Any]
    code: dict[str, str]
    schema: str
    base_version: int


def settings_of(config: Config) -> dict[str, Any]:
    """The settings that a model depends on."""
    # Where it would run on Kubeflow, what alarms later and how long it may take change no model.
    other = dataclasses.replace(
        config,
        kubeflow=KubeflowConfig(),
        monitor=MonitorConfig(),
        challenger=ChallengerConfig(),
    )
    settings = dataclasses.asdict(
        dataclasses.replace(other, node_timeout_minutes=0.0, node_timeouts={})
    )
    del settings["keep_runs"]  # Nor does what is kept of old runs.
    return settings


def entry_points(config: Config) -> list[str]:
    """Import paths of what makes the pipeline, and of the functions of the model that it names."""
    return ["pipeline.pipeline", SAVE_FN, *Model.load(config).functions]


def describe_origin(config: Config, code_version: CodeVersion, base_version: int) -> Origin:
    """What a run makes its version from.

    Args:
      config: The configuration, with the month that it is evaluated on.
      code_version: Versions of the project's code.
      base_version: The version that is served; 0 for none.

    Raises:
      UserError: If a module or the schema cannot be read.
    """
    settings = settings_of(config)
    del settings["serving"]  # Places of keys, and what is asked of a server.
    return Origin(  # type: ignore[typeddict-item]  # mypy takes the setting for a key.
        configuration=json.loads(json.dumps(settings)),
        code=code_version.modules(entry_points(config)),
        schema=_digest_file(config.gate.schema),
        base_version=base_version,
    )


def read_origin(value: object, where: str) -> Origin:
    """Checks the `origin` of a provenance record.

    Raises:
      UserError: If it is none that a run writes.
    """
    try:
        return TypeAdapter(Origin).validate_python(value)
    except ValidationError as error:
        first, *_ = error.errors()
        name = ".".join(map(str, ("origin", *first["loc"])))
        raise UserError(f"{where} is no provenance: {name}: {first['msg']}") from error


def read_configuration(origin: Origin, where: str) -> Config:
    """The configuration that an origin records.

    Raises:
      ConfigError: If today's code does not allow it, or reads other settings from it.
    """
    config = merge(Config, [Layer(where, origin["configuration"])])
    settings = settings_of(config)
    del settings["serving"]
    read = json.loads(json.dumps(settings))
    for difference in differences(flatten(origin["configuration"]), flatten(read)):
        raise ConfigError(f"{where}: configuration: {difference}")
    return config


def differences(expected: dict[str, str], found: dict[str, str]) -> list[str]:
    """What differs between two records of digests or versions, a line each."""
    lines = []
    for name in sorted({*expected, *found}):
        before, now = expected.get(name, ""), found.get(name, "")
        if before != now:
            lines.append(f"{name}: expected {_show(before)}, found {_show(now)}")
    return lines


def _show(value: str) -> str:
    """A digest as far as a person compares it; a version as it is."""
    return value[:16] or "none"


def flatten(table: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """The values of nested tables as JSON, by dotted key."""
    found: dict[str, str] = {}
    for name, value in table.items():
        if isinstance(value, dict):
            found |= flatten(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = json.dumps(value)
    return found


def _digest_file(path: str) -> str:
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def schema_lines(origin: Origin, config: Config) -> Iterable[str]:
    """How the schema differs from that of an origin, a line, or none."""
    found = _digest_file(config.gate.schema)
    if found != origin["schema"]:
        expected = origin["schema"]
        yield f"{config.gate.schema}: expected {_show(expected)}, found {_show(found)}"
