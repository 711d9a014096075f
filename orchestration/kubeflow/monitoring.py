"""The monitoring pipeline on Kubeflow: its parameters, and how it is built from a configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from orchestration.kubeflow import places
from pipeline.config import Config
from pipeline.layers import ConfigError

if TYPE_CHECKING:
    from tfx import v1 as tfx

_NUMBERS = ("version", "since", "until")


def default_parameters(config: Config) -> dict[str, int | str]:
    """The values of all parameters except version and period, which each run sets.

    Raises:
      UserError: If a path is relative, and there is no volume that it could be on.
    """
    kubeflow = config.kubeflow
    return {
        "serving_dir": places.serving_dir(config),
        "log_uri": places.on_volume("kubeflow.request_log", kubeflow.request_log, kubeflow),
        **dict.fromkeys(_NUMBERS, 0),
    }


def run_parameters(config: Config, parameters: Iterable[str]) -> dict[str, Any]:
    """The values of all parameters for one run.

    Args:
      config: The configuration.
      parameters: `NAME=VALUE` each; times as 2013-10-01 (UTC) or in seconds since the Unix epoch.

    Raises:
      ConfigError: If a name is no parameter, a value is not allowed, or one is missing.
      UserError: If a path is relative, and there is no volume that it could be on.
    """
    values: dict[str, Any] = {**default_parameters(config)}
    for parameter in parameters:
        name, equals, text = parameter.partition("=")
        if not equals or name not in values:
            raise ConfigError(
                f"--param {parameter!r}: expected name=value, where the name is one of "
                f"{', '.join(sorted(values))}"
            )
        if name in _NUMBERS:
            values[name] = _number(parameter, text)
        elif text:
            values[name] = places.on_volume(name, text, config.kubeflow)
        else:
            raise ConfigError(f"--param {parameter!r}: a path or an address is expected")
    check_period(values)
    return values


def is_monitoring(parameters: Container[str]) -> bool:
    """Whether these are the parameters of a monitoring pipeline."""
    return all(name in parameters for name in _NUMBERS)


def check_period(values: Mapping[str, Any]) -> None:
    """Checks that the values of all parameters name a version and a period.

    Raises:
      ConfigError: If they do not.
    """
    version, since, until = (values[name] for name in _NUMBERS)
    if version < 1 or not 0 < since < until:
        raise ConfigError(
            "the monitoring pipeline needs a version and a period: give --param version=1 "
            "--param since=2013-10-01 --param until=2013-11-01"
        )


def build(config: Config, parameters: Mapping[str, Any], name: str) -> tfx.dsl.Pipeline:
    """Builds the pipeline of that name; `parameters` are those of a run."""
    from pipeline.monitoring import create_monitoring_pipeline

    data_uri = places.data_uri(config)
    return create_monitoring_pipeline(
        dataclasses.replace(
            config,
            data=dataclasses.replace(config.data, uri=data_uri),
            serving=dataclasses.replace(
                config.serving, encryption_keys=places.encryption_keys(config)
            ),
        ),
        pipeline_root=config.kubeflow.pipeline_root,
        public_keys=places.public_keys(config),
        pipeline_name=name,
        **parameters,
    )


def _number(parameter: str, text: str) -> int:
    try:
        if text.isdecimal():
            return int(text)
        time = datetime.fromisoformat(text)
        return int((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError) as error:
        raise ConfigError(
            f"--param {parameter!r}: a whole number, or a time such as 2013-10-01, is expected"
        ) from error
