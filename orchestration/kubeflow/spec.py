"""Compiles a TFX pipeline to what open-source Kubeflow Pipelines runs, and checks that it would.

A package is a YAML file of two documents: the pipeline spec, schema 2.1, and the platform spec of
Kubernetes, which holds what the first has no place for: volumes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml
from tfx import v1 as tfx

from orchestration.kubeflow.package import check_package
from storage.errors import UserError

# `kfp_entrypoint` stands in front of TFX's own.
COMMAND = ("python", "-m", "orchestration.kubeflow.entrypoint")

_BACKOFF = {"backoffDuration": "30s", "backoffFactor": 2.0, "backoffMaxDuration": "600s"}
_UNITS = {
    "": 1,
    **{unit: 1000**power for power, unit in enumerate(("k", "M", "G", "T"), 1)},
    **{unit: 1024**power for power, unit in enumerate(("Ki", "Mi", "Gi", "Ti"), 1)},
}


@dataclass(frozen=True)
class Resources:
    """What the pod of a task gets, and how often it is tried again.

    Attributes:
      cpu: Processors as Kubernetes writes them, both requested and the limit; "" for neither.
      memory: The same of memory.
      accelerator: Name of an extended resource such as "nvidia.com/gpu"; "" for none.
      accelerators: How many of them.
      retries: How often a failed task is tried again.
      seconds: How long each attempt may take; infinite for any time.
    """

    cpu: str = ""
    memory: str = ""
    accelerator: str = ""
    accelerators: int = 1
    retries: int = 0
    seconds: float = math.inf


@dataclass(frozen=True)
class Platform:
    """Where the tasks of a pipeline run.

    Attributes:
      image: Container image of all tasks.
      nodes: Resources of each node, by id.
      volume_claim: PersistentVolumeClaim that all tasks mount; "" for none.
      mount_path: Where they mount it.
      uncached: Ids of the nodes that always run.
      env: Environment variables.
      secret_env: Environment variables from Secrets, as "name/key".
    """

    image: str
    nodes: Mapping[str, Resources]
    volume_claim: str = ""
    mount_path: str = ""
    uncached: Collection[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    secret_env: Mapping[str, str] = field(default_factory=dict)


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as they are, and everything where it is used."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def compile_package(
    pipeline: tfx.dsl.Pipeline, platform: Platform, defaults: Mapping[str, int | float | str]
) -> str:
    """Compiles a pipeline.

    Args:
      pipeline: The pipeline; its `RuntimeParameter`s become pipeline parameters.
      platform: Where its tasks run.
      defaults: Default of each pipeline parameter, by name. TFX leaves defaults out.

    Returns:
      The package as YAML, the same text for the same pipeline.

    Raises:
      PackageError: If Kubeflow Pipelines would refuse it.
      UserError: If `platform` names a node that the pipeline does not have.
    """
    known = [component.id for component in pipeline.components]
    for name in [*platform.nodes, *platform.uncached]:
        if name not in known:
            raise UserError(f"{name}: no such node; the nodes are {', '.join(known)}")
    spec = _compile(pipeline, platform.image)
    _set_defaults(spec, defaults)
    _rename(spec)
    _set_tasks(spec, platform)
    documents = [spec]
    configs = {name: _executor_config(platform, name) for name in known}
    if any(configs.values()):
        executors = {f"exec-{name}": config for name, config in configs.items() if config}
        documents.append(
            {"platforms": {"kubernetes": {"deploymentSpec": {"executors": executors}}}}
        )
    package = _header(spec) + yaml.dump_all(documents, Dumper=_Dumper, sort_keys=True, width=1000)
    check_package(package)
    return package


def _compile(pipeline: tfx.dsl.Pipeline, image: str) -> dict[str, Any]:
    runner = tfx.orchestration.experimental.KubeflowV2DagRunner(
        config=tfx.orchestration.experimental.KubeflowV2DagRunnerConfig(
            default_image=image, default_commands=list(COMMAND), use_pipeline_spec_2_1=True
        )
    )
    spec: dict[str, Any] = runner.run(pipeline, write_out=False)["pipelineSpec"]
    return spec


def _set_defaults(spec: dict[str, Any], defaults: Mapping[str, int | float | str]) -> None:
    declared = spec["root"].get("inputDefinitions", {}).get("parameters", {})
    if declared.keys() != defaults.keys():
        raise ValueError(f"parameters {sorted(declared)} have defaults {sorted(defaults)}")
    for name, value in defaults.items():
        declared[name]["defaultValue"] = value


def _rename(spec: dict[str, Any]) -> None:
    """Names components and executors as the SDK does: `kfp.local` cuts those prefixes off."""
    spec["components"] = {f"comp-{name}": each for name, each in spec["components"].items()}
    for name, component in spec["components"].items():
        component["executorLabel"] = name.replace("comp-", "exec-", 1)
    executors = spec["deploymentSpec"]["executors"]
    spec["deploymentSpec"]["executors"] = {
        f"exec-{label.removesuffix('_executor')}": each for label, each in executors.items()
    }
    for task in spec["root"]["dag"]["tasks"].values():
        task["componentRef"]["name"] = f"comp-{task['componentRef']['name']}"


def _set_tasks(spec: dict[str, Any], platform: Platform) -> None:
    for name, task in spec["root"]["dag"]["tasks"].items():
        resources = platform.nodes.get(name, Resources())
        label = spec["components"][task["componentRef"]["name"]]["executorLabel"]
        container = spec["deploymentSpec"]["executors"][label]["container"]
        container["command"] += ["--node_id", name]
        if platform.env:
            pairs = sorted(platform.env.items())
            container["env"] = [{"name": variable, "value": value} for variable, value in pairs]
        if name in platform.uncached:
            task.pop("cachingOptions", None)
        if resources.retries:
            task["retryPolicy"] = {"maxRetryCount": resources.retries, **_BACKOFF}
        if limits := _limits(resources):
            container["resources"] = limits


def _limits(resources: Resources) -> dict[str, Any]:
    """A `ResourceSpec`: texts for today's back ends, numbers for those before 2.5."""
    limits: dict[str, Any] = {}
    if resources.cpu:
        number = _number(resources.cpu)
        limits |= {"cpuLimit": number, "cpuRequest": number}
        limits |= {"resourceCpuLimit": resources.cpu, "resourceCpuRequest": resources.cpu}
    if resources.memory:
        gigabytes = _number(resources.memory) / 1e9
        limits |= {"memoryLimit": gigabytes, "memoryRequest": gigabytes}
        limits["resourceMemoryLimit"] = limits["resourceMemoryRequest"] = resources.memory
    if resources.accelerator:
        limits["accelerator"] = {
            "type": resources.accelerator,
            "count": str(resources.accelerators),
            "resourceType": resources.accelerator,
            "resourceCount": str(resources.accelerators),
        }
    return limits


def _number(quantity: str) -> float:
    """A quantity as Kubernetes writes it: "500m", "4Gi"."""
    digits = quantity.rstrip("kKMGTim")
    unit = quantity[len(digits) :]
    return float(digits) / 1000 if unit == "m" else float(digits) * _UNITS[unit]


def _executor_config(platform: Platform, node_id: str) -> dict[str, Any]:
    """What a task's pod gets: a `KubernetesExecutorConfig`, empty if that is nothing."""
    config: dict[str, Any] = {}
    seconds = platform.nodes.get(node_id, Resources()).seconds
    if math.isfinite(seconds):
        # 64 bits, as text: so protobuf writes them in JSON.
        config["activeDeadlineSeconds"] = str(math.ceil(seconds))
    # `constant` and `secretName` are deprecated, and the one form that every back end from 2.0 on
    # understands.
    if platform.volume_claim:
        mount = {"constant": platform.volume_claim, "mountPath": platform.mount_path}
        config["pvcMount"] = [mount]
    for variable, secret in sorted(platform.secret_env.items()):
        name, key = secret.split("/")
        keys = [{"secretKey": key, "envVar": variable}]
        config.setdefault("secretAsEnv", []).append({"secretName": name, "keyToEnv": keys})
    return config


def _header(spec: dict[str, Any]) -> str:
    """The comments that the Kubeflow Pipelines SDK begins its packages with."""
    lines = ["# PIPELINE DEFINITION", f"# Name: {spec['pipelineInfo']['name']}", "# Inputs:"]
    parameters = spec["root"].get("inputDefinitions", {}).get("parameters", {})
    for name, declared in sorted(parameters.items()):
        kind = declared["parameterType"]
        lines.append(f"#    {name}: {kind} [Default: {declared['defaultValue']!r}]")
    return "\n".join(lines) + "\n"


# TFX logs how it understands each component.
logging.getLogger("absl").setLevel(logging.WARNING)
