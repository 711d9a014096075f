"""The prediction pipeline on Kubeflow: its parameters, and how it is built from a configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, get_args

from ml.table_models import ModelFormat
from orchestration.kubeflow import places
from orchestration.kubeflow.pipelines import Kind, Values, split_parameter
from pipeline.config import Config, load_config
from pipeline.layers import ConfigError
from storage.table_formats import Format

if TYPE_CHECKING:
    from tfx import v1 as tfx

_PATHS = ("input_uri", "output_uri")
# Where they are left out: the version that is served, TFLite where it has that, the format of the
# table, no explanations.
_OPEN: Values = {"version": 0, "label": "", "model_format": "", "output_format": "", "explain": 0}
_SWITCH = {"0": 0, "1": 1, "false": 0, "true": 1}
# What the controller of schedules replaces by the time of a run, in the layout of Go's `time`.
_MACRO = "[[ScheduledTime"
_FORMATS = {
    "model_format": get_args(ModelFormat),
    "output_format": Format.names(),
}


def default_parameters(config: Config) -> Values:
    """The values of all parameters in a configuration: table, version and label are left open.

    Raises:
      UserError: If a path is relative, and there is no volume that it could be on.
    """
    return {"serving_dir": places.serving_dir(config), **dict.fromkeys(_PATHS, ""), **_OPEN}


def run_parameters(
    config_path: str | None, settings: Iterable[str], parameters: Iterable[str]
) -> Values:
    """The values of all parameters for one run.

    Args:
      config_path: Configuration file.
      settings: Settings over it.
      parameters: `NAME=VALUE` each; `input_uri` and `output_uri` are needed.

    Raises:
      ConfigError: If a name is no parameter, or a value is not allowed.
      UserError: If a path is relative, and there is no volume that it could be on.
    """
    config = load_config(config_path, settings)
    values = default_parameters(config)
    for parameter in parameters:
        name, text = split_parameter(parameter, values)
        if name == "version":
            if not text.isdecimal():
                raise ConfigError(f"--param {parameter!r}: a version, or 0, is expected")
            values[name] = int(text)
        elif name == "explain":
            if text not in _SWITCH:
                raise ConfigError(f"--param {parameter!r}: one of {', '.join(_SWITCH)} is expected")
            values[name] = _SWITCH[text]
        elif name in _OPEN or not text:
            values[name] = text
        else:
            values[name] = places.on_volume(name, text, config.kubeflow)
    check(values, recurring=False)
    return values


def check(values: Mapping[str, Any], recurring: bool) -> None:
    """Checks the values of all parameters.

    Raises:
      ConfigError: If there is no table or no folder for its predictions, both a version and a label
        are named, or all runs of a schedule would write to one folder.
    """
    if missing := [name for name in _PATHS if not values[name]]:
        raise ConfigError(
            f"the prediction pipeline: {' and '.join(missing)} must be given, as in "
            f"--param {missing[0]}=gs://bucket/path"
        )
    if recurring and _MACRO not in values["output_uri"]:
        raise ConfigError(
            "the prediction pipeline: each run of a schedule needs a folder of its own, as in "
            f"--param output_uri=gs://bucket/{_MACRO}.2006-01-02]]"
        )
    if values["version"] and values["label"]:
        raise ConfigError("the prediction pipeline: give a version or a label, not both")
    for name, formats in _FORMATS.items():
        if values[name] not in ("", *formats):
            raise ConfigError(
                f"the prediction pipeline: {name}={values[name]!r} is none of {', '.join(formats)}"
            )


def build(config: Config, parameters: Mapping[str, Any], name: str) -> tfx.dsl.Pipeline:
    """Builds the pipeline of that name; `parameters` are those of a run."""
    from pipeline.prediction import create_prediction_pipeline

    return create_prediction_pipeline(
        dataclasses.replace(
            config,
            serving=dataclasses.replace(
                config.serving, encryption_keys=places.encryption_keys(config)
            ),
        ),
        pipeline_root=config.kubeflow.pipeline_root,
        public_keys=places.public_keys(config),
        pipeline_name=name,
        **parameters,
    )


KIND = Kind(default_parameters, run_parameters, check, build)
