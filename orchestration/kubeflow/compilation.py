"""Compiles the one pipeline for Kubeflow Pipelines, from a configuration.

Where a path is on the volume, and which values are parameters of a run, is decided here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import logging
import os
import posixpath
import warnings
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from pipeline.config import Config, ConfigError, KubeflowConfig, NodeConfig, load_config
from storage import spans
from storage.errors import UserError
from storage.keys import is_file, public_key_of
from storage.span_store import STORE_VARIABLE

if TYPE_CHECKING:
    from orchestration.kubeflow.spec import Resources


def compile_config(config: Config) -> str:
    """Compiles the one pipeline for Kubeflow Pipelines.

    Returns:
      The package, as YAML.

    Raises:
      UserError: If the configuration lacks what Kubeflow needs, or Kubeflow would refuse the
        package.
    """
    kubeflow = config.kubeflow
    if not kubeflow.image:
        raise UserError("kubeflow.image is missing: the image by digest, name@sha256:...")
    with _importing():  # Not before that is said: TFX takes seconds to import.
        from orchestration.kubeflow.spec import Platform, compile_package
        from pipeline.parameters import runtime_parameters, with_parameters
        from pipeline.pipeline import create_pipeline

    defaults = pipeline_parameters(config)
    parameters = runtime_parameters(defaults)
    pipeline = create_pipeline(
        with_parameters(config, parameters),
        # Kubeflow Pipelines has its own; a run may be given another.
        pipeline_root=kubeflow.pipeline_root,
        serving_dir=parameters["serving_dir"],
        fingerprint=parameters["fingerprint"],
        signing_key=_signing_key(config),
        encryption_keys=_encryption_keys(config),
        public_keys=_public_keys(config),
        enable_cache=bool(kubeflow.cache),
    )
    nodes = {component.id: _resources(config, component.id) for component in pipeline.components}
    # Those that the pipeline does not have are refused.
    nodes |= {name: _resources(config, name) for name in kubeflow.nodes}
    env = dict(kubeflow.env)
    with contextlib.suppress(UserError):  # It can do without.
        store = _on_volume("kubeflow.span_store", kubeflow.span_store, kubeflow)
        env = {STORE_VARIABLE: store} | env if kubeflow.span_store else env
    platform = Platform(
        image=kubeflow.image,
        nodes=nodes,
        volume_claim=kubeflow.volume_claim,
        mount_path=kubeflow.mount_path,
        uncached=kubeflow.uncached,
        env=env,
        secret_env=kubeflow.secret_env,
    )
    return compile_package(pipeline, platform, defaults)


def pipeline_parameters(config: Config) -> dict[str, int | float | str]:
    """The values of all pipeline parameters, as the configuration has them.

    Raises:
      UserError: If a path is relative, and there is no volume that it could be on.
    """
    from pipeline.parameters import parameter_values

    kubeflow = config.kubeflow
    data = dataclasses.replace(config.data, uri=_on_volume("data.uri", config.data.uri, kubeflow))
    return {
        **parameter_values(dataclasses.replace(config, data=data)),
        "serving_dir": _on_volume("kubeflow.serving_dir", kubeflow.serving_dir, kubeflow),
        "fingerprint": "",
    }


def run_parameters(
    config_path: str | None, settings: Iterable[str], parameters: Iterable[str]
) -> dict[str, int | float | str]:
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
        data = spans.resolve_window(str(values["data_uri"]), config.data.as_of, config.data.window)
        values |= {"data_as_of": data.test.month, "fingerprint": data.fingerprint}
    return values


def _on_volume(key: str, path: str, kubeflow: KubeflowConfig) -> str:
    """A path as tasks see it: a relative one is on the volume."""
    if "://" in path or path.startswith("/"):
        return path
    if not kubeflow.volume_claim:
        raise UserError(
            f"{key} = {path!r}: without kubeflow.volume_claim, gs://..., s3://... or an absolute "
            "path is expected"
        )
    return posixpath.join(kubeflow.mount_path, path)


def _signing_key(config: Config) -> str:
    """The private key as the Pusher's task finds it; "" where signing is turned off."""
    if not config.serving.sign or not is_file(config.serving.signing_key):
        return config.serving.signing_key if config.serving.sign else ""
    if not config.serving.signing_key and not config.kubeflow.volume_claim:
        raise UserError(
            "serving.sign = 1 needs a private key that the Pusher's task can read: set "
            "kubeflow.volume_claim or serving.signing_key, or turn signing off by serving.sign=0"
        )
    return _on_volume(
        "serving.signing_key", config.serving.signing_key or "keys/signing.key", config.kubeflow
    )


def _encryption_keys(config: Config) -> str:
    """Path of the file of keys as tasks see it; "" for the environment (`kubeflow.secret_env`)."""
    keys = config.serving.encryption_keys
    return _on_volume("serving.encryption_keys", keys, config.kubeflow) if keys else ""


def _public_keys(config: Config) -> list[str]:
    """Where the keys are that ServedModel verifies with; none where signing is turned off."""
    if not config.serving.sign:
        return []
    key = config.serving.signing_key
    own = public_key_of(key) if key and is_file(key) else "keys"
    return [
        _on_volume("serving.public_keys", path, config.kubeflow)
        for path in config.serving.public_keys or (own,)
    ]


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
