"""Compiles the pipelines for Kubeflow Pipelines, from a configuration."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

from orchestration.hash_seed import HASH_SEED, HASH_SEED_VARIABLE
from orchestration.kubeflow import alarm, news, places
from orchestration.kubeflow.pipelines import TRAINING, kind, pipeline_name
from pipeline.config import Config
from pipeline.kubeflow_config import NodeConfig
from pipeline.model_folders import check_single_name
from storage.errors import UserError
from storage.span_store import STORE_VARIABLE
from terminal.imports import silent_imports

if TYPE_CHECKING:
    from orchestration.kubeflow.spec import Resources


def compile_config(config: Config, pipeline: str = TRAINING) -> str:
    """Compiles a pipeline for Kubeflow Pipelines.

    Args:
      config: The configuration.
      pipeline: One of `pipelines.NAMES`.

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
    chosen = kind(pipeline)
    with _importing():  # Not before that is said: TFX takes seconds to import.
        from orchestration.kubeflow.spec import Platform, compile_package
        from pipeline.parameters import runtime_parameters

        defaults = chosen.defaults(config)
        built = chosen.build(config, runtime_parameters(defaults), pipeline_name(config, pipeline))
    nodes = {component.id: _resources(config, component.id) for component in built.components}
    if chosen.trains:  # Settings of unknown nodes are errors; other pipelines lack some nodes.
        nodes |= {name: _resources(config, name) for name in kubeflow.nodes}
    state = places.state(config)
    named = {
        STORE_VARIABLE: places.span_store(config),
        news.STATE_VARIABLE: state,
        alarm.API_VARIABLE: kubeflow.api if state else "",
        alarm.SCHEDULE_VARIABLE: pipeline_name(config, TRAINING) if state and kubeflow.api else "",
    }
    env = {name: value for name, value in named.items() if value} | kubeflow.env
    env[HASH_SEED_VARIABLE] = HASH_SEED
    platform = Platform(
        image=kubeflow.image,
        nodes=nodes,
        volume_claim=kubeflow.volume_claim,
        mount_path=kubeflow.mount_path,
        uncached=kubeflow.uncached if chosen.trains else (),  # The others are never cached.
        env=env,
        secret_env=kubeflow.secret_env,
    )
    return compile_package(built, platform, defaults, only_new=chosen.trains and bool(state))


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
    """Imports TFX, and keeps its libraries' warnings from the screen."""
    warnings.simplefilter("ignore")
    logging.getLogger().setLevel(logging.ERROR)
    with silent_imports():
        yield
