"""The monitoring pipeline on Kubeflow: its parameters, and how it is built from a configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from orchestration.kubeflow import places
from orchestration.kubeflow.pipelines import Kind, Values, split_parameter
from pipeline.config import Config, load_config
from pipeline.layers import ConfigError

if TYPE_CHECKING:
    from tfx import v1 as tfx

# Where they are 0, the version with the most requests, and the newest complete period.
_OPEN = {"version": 0, "since": 0, "until": 0}
_NUMBERS = (*_OPEN, "days")
_MOST_DAYS = 3660


def default_parameters(config: Config) -> Values:
    """The values of all parameters in a configuration: the version and period are left open.

    Raises:
      UserError: If a path is relative, and there is no volume that it could be on.
    """
    kubeflow = config.kubeflow
    return {
        "serving_dir": places.serving_dir(config),
        "log_uri": places.on_volume("kubeflow.request_log", kubeflow.request_log, kubeflow),
        **_OPEN,
        "days": config.monitor.days,
    }


def run_parameters(
    config_path: str | None, settings: Iterable[str], parameters: Iterable[str]
) -> Values:
    """The values of all parameters for one run.

    Args:
      config_path: Configuration file.
      settings: Settings over it.
      parameters: `NAME=VALUE` each; times as 2013-10-01 (UTC) or in seconds since the Unix epoch.

    Raises:
      ConfigError: If a name is no parameter, or a value is not allowed.
      UserError: If a path is relative, and there is no volume that it could be on.
    """
    config = load_config(config_path, settings)
    values = default_parameters(config)
    for parameter in parameters:
        name, text = split_parameter(parameter, values)
        if name in _NUMBERS:
            values[name] = _number(parameter, text)
        elif text:
            values[name] = places.on_volume(name, text, config.kubeflow)
        else:
            raise ConfigError(f"--param {parameter!r}: a path or an address is expected")
    check(values, recurring=False)
    return values


def check(values: Mapping[str, Any], recurring: bool) -> None:
    """Checks the values of all parameters.

    Raises:
      ConfigError: If they are no version and period, or those of a schedule name a period.
    """
    version, since, until, days = (values[name] for name in _NUMBERS)
    if min(version, since, until) < 0 or not 1 <= days <= _MOST_DAYS:
        raise ConfigError(
            f"the monitoring pipeline: version, since and until are 0 or more, days 1 to "
            f"{_MOST_DAYS}, not {version}, {since}, {until} and {days}"
        )
    if until and since >= until:
        raise ConfigError(f"the monitoring pipeline: since={since} is not before until={until}")
    if recurring and (since or until):
        raise ConfigError(
            "the monitoring pipeline: a schedule that names a period would monitor the same one "
            "again; leave since and until out, and it monitors the newest complete one"
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


KIND = Kind(default_parameters, run_parameters, check, build)
