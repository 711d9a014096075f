"""The training pipeline on Kubeflow: its parameters, and how it is built from a configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from orchestration.kubeflow import places
from orchestration.kubeflow.pipelines import Kind, Values, split_parameter
from pipeline.config import Config, load_config
from pipeline.layers import ConfigError
from storage import spans

if TYPE_CHECKING:
    from tfx import v1 as tfx


def default_parameters(config: Config) -> Values:
    """The values of all pipeline parameters in a configuration.

    Raises:
      UserError: If a path is relative, and there is no volume that it could be on.
    """
    from pipeline.parameters import parameter_values

    data = dataclasses.replace(config.data, uri=places.data_uri(config))
    return {
        **parameter_values(dataclasses.replace(config, data=data)),
        "serving_dir": places.serving_dir(config),
        "fingerprint": "",
    }


def run_parameters(
    config_path: str | None, settings: Iterable[str], parameters: Iterable[str]
) -> Values:
    """The values of all pipeline parameters for one run.

    Args:
      config_path: Configuration file.
      settings: Settings over it.
      parameters: `NAME=VALUE` each, over both, checked as the configuration is.

    Raises:
      ConfigError: If a name is no parameter, or a value is not allowed.
      UserError: If a path is relative, and there is no volume that it could be on.
    """
    from pipeline.parameters import KEYS, parameter_name

    keys = {parameter_name(key): key for key in KEYS} | {"serving_dir": "kubeflow.serving_dir"}
    over = []
    for parameter in parameters:
        name, value = split_parameter(parameter, keys)
        over.append(f"{keys[name]}={value}")
    config = load_config(config_path, (*settings, *over))
    values = default_parameters(config)
    if "SpanExampleGen" not in config.kubeflow.uncached:
        # Taken from the cache, it must be told apart by the data.
        source = dataclasses.replace(config.data.source, uri=str(values["data_uri"]))
        data = spans.resolve_window(source, config.data.as_of, config.data.window)
        values |= {"data_as_of": data.test.number, "fingerprint": data.fingerprint}
    return values


def check(values: Mapping[str, Any], recurring: bool) -> None:
    """Checks the values of all parameters.

    Raises:
      ConfigError: If they are for a schedule, and would not let it read the data again.
    """
    if recurring and values.get("fingerprint"):
        raise ConfigError(
            "kubeflow.uncached lacks SpanExampleGen: a schedule has to read the data again"
        )


def build(config: Config, parameters: Mapping[str, Any], name: str) -> tfx.dsl.Pipeline:
    """Builds the pipeline of that name; `parameters` are those of a run."""
    from pipeline.parameters import with_parameters
    from pipeline.pipeline import create_pipeline

    return create_pipeline(
        with_parameters(config, parameters),
        # Kubeflow Pipelines has its own root; a run may override it.
        pipeline_root=config.kubeflow.pipeline_root,
        serving_dir=parameters["serving_dir"],
        fingerprint=parameters["fingerprint"],
        signing_key=places.signing_key(config),
        encryption_keys=places.encryption_keys(config),
        public_keys=places.public_keys(config),
        enable_cache=bool(config.kubeflow.cache),
        pipeline_name=name,
    )


KIND = Kind(default_parameters, run_parameters, check, build, trains=True)
