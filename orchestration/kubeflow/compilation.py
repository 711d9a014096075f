"""Compiles the pipelines for Kubeflow Pipelines, from a configuration."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import logging
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from orchestration.hash_seed import HASH_SEED, HASH_SEED_VARIABLE
from orchestration.kubeflow import monitoring, places
from pipeline.config import Config, load_config
from pipeline.kubeflow_config import NodeConfig
from pipeline.layers import ConfigError
from pipeline.model_folders import check_single_name
from storage import spans
from storage.errors import UserError
from storage.span_store import STORE_VARIABLE

if TYPE_CHECKING:
    from tfx import v1 as tfx

    from orchestration.kubeflow.spec import Resources


TRAINING, MONITORING = PIPELINES = ("training", "monitoring")


def compile_config(config: Config, pipeline: str = TRAINING) -> str:
    """Compiles a pipeline for Kubeflow Pipelines.

    Args:
      config: The configuration.
      pipeline: One of `PIPELINES`.

    Returns:
      The package, as YAML.

    Raises:
      UserError: If the configuration lacks what Kubeflow needs, Kubeflow would refuse the package,
        or another model has the same name in the Serving directory.
    """
    kubeflow = config.kubeflow
    if not kubeflow.image:
        raise UserError("kubeflow.image is missing: the image by digest, name@sha256:...")
    check_single_name(config.model, config.model_name)
    trains = pipeline == TRAINING
    with _importing():  # Not before that is said: TFX takes seconds to import.
        from orchestration.kubeflow.spec import Platform, compile_package
        from pipeline.parameters import runtime_parameters

        defaults = pipeline_parameters(config) if trains else monitoring.default_parameters(config)
        build = _build_training if trains else monitoring.build
        built = build(config, runtime_parameters(defaults), pipeline_name(config, pipeline))
    nodes = {component.id: _resources(config, component.id) for component in built.components}
    if trains:  # Settings of unknown nodes are errors; the monitoring pipeline lacks some nodes.
        nodes |= {name: _resources(config, name) for name in kubeflow.nodes}
    env = dict(kubeflow.env)
    with contextlib.suppress(UserError):  # It can do without.
        store = places.on_volume("kubeflow.span_store", kubeflow.span_store, kubeflow)
        env = {STORE_VARIABLE: store} | env if kubeflow.span_store else env
    env[HASH_SEED_VARIABLE] = HASH_SEED
    platform = Platform(
        image=kubeflow.image,
        nodes=nodes,
        volume_claim=kubeflow.volume_claim,
        mount_path=kubeflow.mount_path,
        uncached=kubeflow.uncached if trains else (),  # The monitoring pipeline is never cached.
        env=env,
        secret_env=kubeflow.secret_env,
    )
    return compile_package(built, platform, defaults)


def pipeline_name(config: Config, pipeline: str = TRAINING) -> str:
    """The name of a model's pipeline on the server, and of its schedule.

    Of the name in the Serving directory, which has no dash, so that no two have the same one.
    """
    return f"flightdeck-{pipeline}-{config.model_name.replace('_', '-')}"


def _build_training(config: Config, parameters: Mapping[str, Any], name: str) -> tfx.dsl.Pipeline:
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


def pipeline_parameters(config: Config) -> dict[str, int | float | str]:
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
    config_path: str | None,
    settings: Iterable[str],
    parameters: Iterable[str],
    pipeline: str = TRAINING,
) -> dict[str, int | float | str]:
    """The values of all pipeline parameters for one run.

    Args:
      config_path: Configuration file.
      settings: Settings over it.
      parameters: `NAME=VALUE` each, over both, checked as the configuration is.
      pipeline: One of `PIPELINES`.

    Raises:
      ConfigError: If a name is no parameter, or a value is not allowed.
      UserError: If a path is relative, and there is no volume that it could be on.
    """
    if pipeline == MONITORING:
        return {**monitoring.run_parameters(load_config(config_path, settings), parameters)}
    from pipeline.parameters import KEYS, parameter_name

    keys = {parameter_name(key): key for key in KEYS} | {"serving_dir": "kubeflow.serving_dir"}
    over = []
    for parameter in parameters:
        name, equals, value = parameter.partition("=")
        if not equals or name not in keys:
            raise ConfigError(
                f"--param {parameter!r}: expected name=value, where the name is one of "
                f"{', '.join(sorted(keys))}"
            )
        over.append(f"{keys[name]}={value}")
    config = load_config(config_path, (*settings, *over))
    values = pipeline_parameters(config)
    if "SpanExampleGen" not in config.kubeflow.uncached:
        # Taken from the cache, it must be told apart by the data.
        source = dataclasses.replace(config.data.source, uri=str(values["data_uri"]))
        data = spans.resolve_window(source, config.data.as_of, config.data.window)
        values |= {"data_as_of": data.test.number, "fingerprint": data.fingerprint}
    return values


def _resources(config: Config, node_id: str) -> Resources:
    """What a node gets: its own settings over those for all nodes."""
    from orchestration.kubeflow.spec import Resources

    kubeflow = config.kubeflow
    node = kubeflow.nodes.get(node_id, NodeConfig())
    return Resources(
        cpu=node.cpu or kubeflow.cpu,
        memory=node.memory or kubeflow.memory,
        accelerator=node.accelerator,
        accelerators=node.accelerators,
        retries=kubeflow.retries if node.retries < 0 else node.retries,
        seconds=config.node_timeout_seconds(node_id),
        node_selector={**kubeflow.node_selector, **node.node_selector},
        tolerations=[
            {name: value for name, value in dataclasses.asdict(toleration).items() if value}
            for toleration in (*kubeflow.tolerations, *node.tolerations)
        ],
        labels={**kubeflow.labels, **node.labels},
        annotations={**kubeflow.annotations, **node.annotations},
    )


@contextlib.contextmanager
def _importing() -> Iterator[None]:
    """Imports TFX in two thirds of the time, and keeps its libraries' warnings from the screen."""
    warnings.simplefilter("ignore")
    logging.getLogger().setLevel(logging.ERROR)
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    gc.disable()  # What modules define stays: looking through it again and again takes seconds.
    try:
        os.dup2(nowhere, 2)  # TensorFlow's C++ part writes there.
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
        gc.freeze()  # Nor at the end of the process, where it would take as long again.
        gc.enable()
