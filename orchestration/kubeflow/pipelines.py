"""The pipelines that compile for Kubeflow Pipelines, by name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfx import v1 as tfx

    from pipeline.config import Config

TRAINING, MONITORING, PREDICTION = NAMES = ("training", "monitoring", "prediction")

Values = dict[str, int | float | str]


@dataclass(frozen=True)
class Kind:
    """One of the pipelines.

    Attributes:
      defaults: The values of all parameters in a configuration.
      values: The values of all parameters for one run, from a configuration file, settings over it,
        and `NAME=VALUE` over both. It raises a `ConfigError` if one is not allowed.
      check: Raises a `ConfigError` if values cannot be those of a run, or of a schedule.
      build: Builds the pipeline of a configuration, the parameters of a run, and its name.
      trains: Whether it trains: its tasks may come from the cache, and a run may find nothing new.
    """

    defaults: Callable[[Config], Values]
    values: Callable[[str | None, Iterable[str], Iterable[str]], Values]
    check: Callable[[Mapping[str, Any], bool], None]
    build: Callable[[Config, Mapping[str, Any], str], tfx.dsl.Pipeline]
    trains: bool = False


def kind(name: str) -> Kind:
    """The pipeline of a name, one of `NAMES`."""
    # Here: the names alone take no time.
    from orchestration.kubeflow import monitoring, prediction, training

    kinds = {
        TRAINING: training.KIND,
        MONITORING: monitoring.KIND,
        PREDICTION: prediction.KIND,
    }
    return kinds[name]


def kind_of_package(package_name: str) -> Kind | None:
    """The pipeline that a package was compiled from, by its name; None if it is another one."""
    found = [name for name in NAMES if package_name.startswith(_prefix(name))]
    return kind(found[0]) if found else None


def pipeline_name(config: Config, name: str = TRAINING) -> str:
    """The name of a model's pipeline on the server, and of its schedule.

    Of the name in the Serving directory, which has no dash, so that no two have the same one.
    """
    return _prefix(name) + config.model_name.replace("_", "-")


def split_parameter(parameter: str, names: Collection[str]) -> tuple[str, str]:
    """Splits `NAME=VALUE`.

    Raises:
      ConfigError: If it is none, or the name is none of `names`.
    """
    from pipeline.layers import ConfigError

    name, equals, text = parameter.partition("=")
    if not equals or name not in names:
        raise ConfigError(
            f"--param {parameter!r}: expected name=value, where the name is one of "
            f"{', '.join(sorted(names))}"
        )
    return name, text


def _prefix(name: str) -> str:
    return f"flightdeck-{name}-"
