"""Compiles a TFX pipeline for open-source Kubeflow Pipelines, and checks the result.

A package is a YAML file of two documents: the pipeline spec, schema 2.1, and the platform spec of
Kubernetes, which holds what the first has no place for: volumes.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml
from google.protobuf import json_format
from kfp.kubernetes import kubernetes_executor_config_pb2
from tfx import v1 as tfx

from orchestration.kubeflow import news, shown
from orchestration.kubeflow.package import check_package
from pipeline.quantities import parse_cpu, parse_memory
from storage.errors import UserError

# This entrypoint stands in front of TFX's own.
COMMAND = ("python", "-m", "orchestration.kubeflow.entrypoint")

# The longest backoff is, to Argo Workflows, the time that all attempts may take together: after it
# none is begun. So it is longer than any task with its retries.
_BACKOFF = {"backoffDuration": "30s", "backoffFactor": 2.0, "backoffMaxDuration": "2592000s"}


@dataclass(frozen=True)
class Resources:
    """Resources, placement and retries of the pod of a task.

    Attributes:
      cpu: Processors as Kubernetes writes them, both requested and the limit; "" for neither.
      memory: The same of memory.
      accelerator: Name of an extended resource such as "nvidia.com/gpu"; "" for none.
      accelerators: How many of them.
      retries: How often a failed task is tried again.
      seconds: How long each attempt may take; infinite for any time.
      node_selector: Labels that the cluster node must have.
      tolerations: Taints of cluster nodes that it does not mind: mappings with the fields of
        kfp-kubernetes' `Toleration`.
      labels: Labels of the pod.
      annotations: Annotations of the pod.
    """

    cpu: str = ""
    memory: str = ""
    accelerator: str = ""
    accelerators: int = 1
    retries: int = 0
    seconds: float = math.inf
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: Sequence[Mapping[str, str]] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)


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
    pipeline: tfx.dsl.Pipeline,
    platform: Platform,
    defaults: Mapping[str, int | float | str],
    *,
    only_new: bool = False,
) -> str:
    """Compiles a pipeline.

    Args:
      pipeline: The pipeline; its `RuntimeParameter`s become pipeline parameters.
      platform: Where its tasks run.
      defaults: Default of each pipeline parameter, by name. TFX leaves defaults out.
      only_new: Whether a run can be told to end where nothing is new; see `news`.

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
    _add_outputs(spec)
    _add_inputs(spec)
    if only_new:
        _add_news(spec)
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


def _add_outputs(spec: dict[str, Any]) -> None:
    """Declares the outputs that the web interface shows."""
    for name, added in shown.OUTPUTS.items():
        if component := spec["components"].get(f"comp-{name}"):
            outputs = component["outputDefinitions"]["artifacts"]
            for output in added:
                kind = {"schemaTitle": shown.TYPES[output], "schemaVersion": "0.0.1"}
                if outputs.setdefault(output, {"artifactType": kind})["artifactType"] != kind:
                    raise ValueError(f"{name} has an output {output} of its own")


def _add_inputs(spec: dict[str, Any]) -> None:
    """Gives tasks what their pages show of other tasks."""
    components, tasks = spec["components"], spec["root"]["dag"]["tasks"]
    for name, added in shown.INPUTS.items():
        if f"comp-{name}" not in components:
            continue
        component, task = components[f"comp-{name}"], tasks[name]
        for key, (producer, output) in added.items():
            made = components[f"comp-{producer}"]["outputDefinitions"]["artifacts"][output]
            component["inputDefinitions"]["artifacts"][key] = made
            source = {"producerTask": producer, "outputArtifactKey": output}
            task["inputs"]["artifacts"][key] = {"taskOutputArtifact": source}
        producers = {producer for producer, _ in added.values()}
        task["dependentTasks"] = sorted({*task["dependentTasks"], *producers})
        # The entrypoint reads the types of inputs off this argument.
        arguments = spec["deploymentSpec"]["executors"][component["executorLabel"]]["container"]
        place = arguments["args"].index("--json_serialized_inputs_spec_args") + 1
        declared = json.loads(arguments["args"][place])
        declared["artifacts"] |= {
            key: component["inputDefinitions"]["artifacts"][key] for key in added
        }
        arguments["args"][place] = json.dumps(declared, indent=2, sort_keys=True)


def _add_news(spec: dict[str, Any]) -> None:
    """Lets the first task decide whether the others run, by a parameter that it passes on."""
    text = {"parameterType": "STRING"}
    components, tasks = spec["components"], spec["root"]["dag"]["tasks"]
    spec["root"]["inputDefinitions"]["parameters"][news.ONLY_IF_NEW] = text | {"defaultValue": ""}
    first = components[f"comp-{news.FIRST}"]
    first["outputDefinitions"].setdefault("parameters", {})[news.NEWS] = text
    passed = {"taskOutputParameter": {"producerTask": news.FIRST, "outputParameterKey": news.NEWS}}
    for name, parameter, source in (
        (news.FIRST, news.ONLY_IF_NEW, {"componentInputParameter": news.ONLY_IF_NEW}),
        (news.CONDITIONAL, news.NEWS, passed),
        (news.LAST, news.NEWS, passed),
    ):
        inputs = components[f"comp-{name}"]["inputDefinitions"]
        inputs.setdefault("parameters", {})[parameter] = text
        tasks[name]["inputs"].setdefault("parameters", {})[parameter] = source
    tasks[news.CONDITIONAL]["triggerPolicy"] = {"condition": news.CONDITION}


def _limits(resources: Resources) -> dict[str, Any]:
    """A `ResourceSpec`: texts for today's back ends, numbers for those before 2.5."""
    limits: dict[str, Any] = {}
    if resources.cpu:
        number = float(parse_cpu(resources.cpu))
        limits |= {"cpuLimit": number, "cpuRequest": number}
        limits |= {"resourceCpuLimit": resources.cpu, "resourceCpuRequest": resources.cpu}
    if resources.memory:
        gigabytes = float(parse_memory(resources.memory)) / 1e9
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


def _executor_config(platform: Platform, node_id: str) -> dict[str, Any]:
    """What a task's pod gets, in the form of kfp-kubernetes; empty if that is nothing."""
    resources = platform.nodes.get(node_id, Resources())
    config = kubernetes_executor_config_pb2.KubernetesExecutorConfig(
        tolerations=[
            kubernetes_executor_config_pb2.Toleration(**toleration)
            for toleration in resources.tolerations
        ]
    )
    if math.isfinite(resources.seconds):
        config.active_deadline_seconds = math.ceil(resources.seconds)
    # `constant` and `secret_name` are deprecated, and the form that every back end understands.
    if platform.volume_claim:
        config.pvc_mount.add(constant=platform.volume_claim, mount_path=platform.mount_path)
    for variable, secret in sorted(platform.secret_env.items()):
        name, key = secret.split("/")
        config.secret_as_env.add(secret_name=name).key_to_env.add(secret_key=key, env_var=variable)
    config.node_selector.labels.update(resources.node_selector)
    config.pod_metadata.labels.update(resources.labels)
    config.pod_metadata.annotations.update(resources.annotations)
    # Reading a map is enough to make it, if empty.
    for part in ("node_selector", "pod_metadata"):
        if not getattr(config, part).ByteSize():
            config.ClearField(part)
    found: dict[str, Any] = json_format.MessageToDict(config)
    return found


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
