"""What a person can vary in a run: frozen dataclasses, a TOML file and `key=value` over them."""

from __future__ import annotations

import dataclasses
import difflib
import json
import tomllib
import types
from collections.abc import Iterable, Mapping
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from components.errors import UserError

_CHECKED = ConfigDict(extra="forbid", validate_default=True)


def _check_month(month: int) -> int:
    if month and not (190001 <= month <= 299912 and 1 <= month % 100 <= 12):
        raise ValueError("a month YYYYMM is expected, or 0 for the newest")
    return month


Share = Annotated[float, Field(ge=0, le=1)]


class ConfigError(UserError):
    """A configuration key that does not exist, or a value that is not allowed."""


@dataclass(frozen=True, config=_CHECKED)
class DataConfig:
    """Which data a run reads.

    Attributes:
      uri: Directory that holds one folder `span-YYYYMM` per month.
      time_column: Timestamp column by which the last days of the window are held out.
      as_of: Month that the Evaluator judges on, YYYYMM; 0 means the newest there is.
      window: Months before `as_of` to learn from.
      eval_days: Days at the end of the window held out for early stopping.
    """

    uri: str = "data/flights"
    time_column: str = "time_hour"
    as_of: Annotated[int, AfterValidator(_check_month)] = 0
    window: Annotated[int, Field(ge=1, le=120)] = 6
    eval_days: Annotated[int, Field(ge=1, le=90)] = 7


@dataclass(frozen=True, config=_CHECKED)
class GateConfig:
    """Which anomalies stop a run: all that TFDV calls errors, but for `warn_only`.

    Attributes:
      schema: Path of the curated schema.
      warn_only: Types of anomaly (of TFMD's `AnomalyInfo`) that do not stop the run, or
        `feature:TYPE`.
    """

    schema: str = "schema/schema.pbtxt"
    warn_only: tuple[str, ...] = ()


@dataclass(frozen=True, config=_CHECKED)
class TrainingConfig:
    """How the network learns.

    Attributes:
      epochs: Most passes over the split `train`.
      batch_size: Rows per step.
      learning_rate: Adam's learning rate at the start, from which it falls along a cosine to 0.
      dropout: Share of each dense layer's inputs that are dropped while learning.
      l2: Weight of the L2 penalty on the dense kernels.
      patience: Epochs without a lower log loss on `eval` before learning stops.
      seed: Seed of all random choices.
    """

    epochs: Annotated[int, Field(ge=1, le=1000)] = 5
    batch_size: Annotated[int, Field(ge=1)] = 1024
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-3
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    l2: Annotated[float, Field(ge=0)] = 1e-3
    patience: Annotated[int, Field(ge=1)] = 2
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 7


@dataclass(frozen=True, config=_CHECKED)
class EvaluationConfig:
    """What a model must reach on the month `as_of` to be blessed.

    Attributes:
      min_auc: Lowest AUC overall.
      min_slice_auc: Lowest AUC of every slice (one carrier, one origin) that is large enough.
      min_slice_examples: Slices with fewer rows are reported, not judged.
      min_calibration: Lowest ratio of mean prediction to label rate.
      max_calibration: Highest such ratio.
      max_auc_loss: How much lower the AUC may be than that of the model being served.
    """

    min_auc: Share = 0.62
    min_slice_auc: Share = 0.55
    min_slice_examples: Annotated[int, Field(ge=1)] = 500
    min_calibration: Annotated[float, Field(ge=0)] = 0.4
    max_calibration: Annotated[float, Field(gt=0)] = 2.5
    max_auc_loss: Share = 0.005


@dataclass(frozen=True, config=_CHECKED)
class Config:
    """All of it.

    Attributes:
      model_name: Name of the model in the Serving directory and to its clients.
      beam_args: Arguments of the Beam nodes (`--runner=...`).
    """

    model_name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")] = "flight_delay"
    beam_args: tuple[str, ...] = (
        # Named in full: Beam's default DirectRunner first tries to download another runner.
        "--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner",
        # What remote workers install; without it TFX packages itself anew for every Beam node.
        "--setup_file=./setup.py",
    )
    data: DataConfig = field(default_factory=DataConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)


def load_config(path: str | None = None, settings: Iterable[str] = ()) -> Config:
    """Reads a configuration.

    Args:
      path: TOML file with the keys of `Config`; None for the defaults.
      settings: `key=value` each, over the file; a key inside a table is dotted, as in
        `training.epochs=3`, and a list is written as JSON.

    Returns:
      The configuration.

    Raises:
      ConfigError: Naming the key, the value and what is allowed.
    """
    values = _read_toml(path) if path else {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise ConfigError(f"--set {setting!r}: expected key=value, as in training.epochs=3")
        _put(values, key.strip(), value.strip())
    _check_keys(values, Config)
    try:
        return TypeAdapter(Config).validate_python(values)
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(e) for e in error.errors())) from error


def config_keys(kind: Any = Config, prefix: str = "") -> list[str]:
    """All dotted keys of the configuration."""
    keys: list[str] = []
    for name, hint in get_type_hints(kind).items():
        nested = dataclasses.is_dataclass(hint)
        keys += config_keys(hint, f"{prefix}{name}.") if nested else [prefix + name]
    return keys


def _read_toml(path: str) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"configuration file {path}: {error}") from error


def _put(values: dict[str, Any], key: str, text: str) -> None:
    *tables, name = key.split(".")
    for table in tables:
        inner = values.setdefault(table, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"{key}: {table} is not a table")
        values = inner
    values[name] = _parse_list(key, text) if text.startswith("[") else text


def _parse_list(key: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{key} = {text!r}: not a JSON list: {error}") from error


def _check_keys(values: Mapping[str, Any], kind: Any, prefix: str = "") -> None:
    hints = get_type_hints(kind)
    for name, value in values.items():
        key = prefix + name
        if name not in hints:
            near = difflib.get_close_matches(key, config_keys(), n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ConfigError(f"{key}: no such key; {hint}the keys are {', '.join(config_keys())}")
        if dataclasses.is_dataclass(hints[name]):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{key} = {value!r}: a table is expected, as in {key}.name=value")
            _check_keys(value, hints[name], f"{key}.")
        elif isinstance(value, bool):  # pydantic takes it for the number 0 or 1
            raise ConfigError(f"{key} = {value!r}: no key is true or false")


def _explain(error: Mapping[str, Any]) -> str:
    key = ".".join(str(part) for part in error["loc"])
    given = error["input"]
    shown = f" = {given!r}" if not isinstance(given, Mapping | types.SimpleNamespace) else ""
    return f"{key}{shown}: {error['msg'].removeprefix('Value error, ')}"
