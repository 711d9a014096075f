"""A compiled pipeline and the values of its parameters, before they go to the server."""

from __future__ import annotations

import contextlib
import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from google.protobuf import json_format
from kfp.kubernetes import kubernetes_executor_config_pb2
from kfp.pipeline_spec import pipeline_spec_pb2

from orchestration.kubeflow.errors import KubeflowError, listed
from storage.errors import one_line

Value = int | float | str
_SCHEMA_VERSION = "2.1.0"
# What Argo Workflows takes as the name of a task, and what the API server takes as a pipeline's.
_TASK_NAME = re.compile(r"[a-zA-Z0-9][-a-zA-Z0-9]*")
_PIPELINE_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "NUMBER_INTEGER": ((int,), "a whole number"),
    "NUMBER_DOUBLE": ((int, float), "a number"),
    "STRING": ((str,), "text"),
}
_LARGEST_INTEGER = 2**53  # the server keeps numbers as doubles


@dataclass(frozen=True)
class Package:
    """A compiled pipeline; `read_package` makes it.

    Attributes:
      name: Name of the pipeline.
      content: The YAML.
      parameters: Specification of each parameter of the pipeline, by name.
      retries: Whether any of its tasks has retries.
    """

    name: str
    content: bytes
    parameters: Mapping[str, Mapping[str, Any]]
    retries: bool = False

    @property
    def version(self) -> str:
        """Name of the version: the same content has the same one."""
        return hashlib.sha256(self.content).hexdigest()[:12]

    def parse(self, texts: Mapping[str, str]) -> dict[str, Value]:
        """Reads values of parameters as the types that the pipeline declares.

        Raises:
          KubeflowError: If one is unknown, or no text for its type; names all of them.
        """
        values: dict[str, Value] = {}
        for name, text in texts.items():
            kind = self.parameters.get(name, {}).get("parameterType")
            values[name] = text
            with contextlib.suppress(ValueError):
                if kind == "NUMBER_INTEGER":
                    values[name] = int(text)
                elif kind == "NUMBER_DOUBLE":
                    values[name] = float(text)
        self.complete(values)
        return values

    def complete(self, given: Mapping[str, Value]) -> dict[str, Value]:
        """The values of all parameters: those given, and defaults of the package for the others.

        Raises:
          KubeflowError: If values are missing, unknown or mistyped; names all of them.
        """
        problems = [
            f"there is no parameter '{name}' (there are {listed(self.parameters)})"
            for name in sorted(set(given) - set(self.parameters))
        ]
        values: dict[str, Value] = {}
        for name, spec in self.parameters.items():
            if name in given:
                problems += _mistyped(name, given[name], spec.get("parameterType", ""))
                values[name] = given[name]
            elif "defaultValue" in spec:
                default = spec["defaultValue"]
                # kfp's compiler writes whole numbers as 5.0.
                whole = spec.get("parameterType") == "NUMBER_INTEGER"
                values[name] = int(default) if whole else default
            elif not spec.get("isOptional"):
                problems.append(f"parameter '{name}' is missing")
        if problems:
            raise KubeflowError(f"The parameters do not fit the pipeline: {'; '.join(problems)}.")
        return values


def read_package(package: Path | bytes, enable_caching: bool | None = None) -> Package:
    """Reads a compiled pipeline, and checks what the server would check.

    Args:
      package: The YAML, or the file that holds it.
      enable_caching: Whether tasks may be answered from the cache; as compiled if None. It is
        written into the package, for a run of an uploaded version has no such setting.

    Raises:
      KubeflowError: If it cannot be read, or the server would refuse it.
    """
    name = str(package) if isinstance(package, Path) else "the package"
    try:
        content = package.read_bytes() if isinstance(package, Path) else package
        spec, _ = check_package(content.decode())
    except OSError as error:
        raise KubeflowError(f"Cannot read {name}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise KubeflowError(f"{name} is not text: {error}.") from error
    except KubeflowError as error:
        raise error.but(f"Kubeflow Pipelines would refuse {name}: {error}.") from error
    if enable_caching is not None:
        documents = list(yaml.load_all(content, Loader=yaml.CSafeLoader))
        for document in documents:
            for task in document.get("root", {}).get("dag", {}).get("tasks", {}).values():
                task["cachingOptions"] = {"enableCache": True} if enable_caching else {}
        content = yaml.safe_dump_all(documents, sort_keys=False).encode()
    inputs = json_format.MessageToDict(spec.root.input_definitions)
    retries = any(task.retry_policy.max_retry_count for task in spec.root.dag.tasks.values())
    return Package(spec.pipeline_info.name, content, inputs.get("parameters", {}), retries)


def check_package(
    package: str,
) -> tuple[pipeline_spec_pb2.PipelineSpec, dict[str, Any]]:
    """Checks a package as the API server and the workflow compiler of Kubeflow Pipelines do.

    After `NewV2SpecTemplate` and `argocompiler.Compile` of its back end, which accept schema 2.1
    alone, and of all kinds of tasks those that run containers or import artifacts.

    Returns:
      The pipeline spec, and the platform spec of Kubernetes, empty where there is none.

    Raises:
      KubeflowError: Naming what they would refuse.
    """
    spec, platform = _parse(package)
    if spec.schema_version != _SCHEMA_VERSION:
        raise KubeflowError(f"schemaVersion is {spec.schema_version!r}; only 2.1.0 is accepted")
    name = spec.pipeline_info.name
    if not _PIPELINE_NAME.fullmatch(name):
        raise KubeflowError(
            f"the pipeline's name {name!r}: lower-case letters, digits, '-' and '.' are accepted"
        )
    if not spec.root.dag.tasks:
        raise KubeflowError("the root has no tasks")
    try:
        deployment = json_format.ParseDict(
            json_format.MessageToDict(spec.deployment_spec),
            pipeline_spec_pb2.PipelineDeploymentConfig(),
        )
    except json_format.ParseError as error:
        raise KubeflowError(f"deploymentSpec: {one_line(error)}") from error
    for parameter, declared in spec.root.input_definitions.parameters.items():
        if not declared.parameter_type:
            raise KubeflowError(f"parameter {parameter} has no parameterType")
    for task_name in spec.root.dag.tasks:
        if not _TASK_NAME.fullmatch(task_name):
            raise KubeflowError(f"task {task_name!r}: letters, digits and '-' are accepted")
    for task_name, task in spec.root.dag.tasks.items():
        _check_task(spec, deployment, task_name, task)
    _check_platform(platform, deployment)
    return spec, platform


def _parse(
    package: str,
) -> tuple[pipeline_spec_pb2.PipelineSpec, dict[str, Any]]:
    """The two documents of a package; an empty platform spec where it has none."""
    try:
        documents = [
            document for document in yaml.load_all(package, Loader=yaml.CSafeLoader) if document
        ]
    except yaml.YAMLError as error:
        raise KubeflowError(f"it is not YAML: {one_line(error)}") from error
    spec, platform = None, {}
    for document in documents:
        if not isinstance(document, dict):
            raise KubeflowError("a document is not a mapping")
        if "platforms" in document:
            platform = document["platforms"].get("kubernetes", {})
            continue
        if spec is not None:
            raise KubeflowError("it holds more than one pipeline spec")
        try:
            spec = json_format.ParseDict(document, pipeline_spec_pb2.PipelineSpec())
        except json_format.ParseError as error:
            raise KubeflowError(f"it is not a pipeline spec: {one_line(error)}") from error
    if spec is None:
        raise KubeflowError("it holds no pipeline spec")
    return spec, platform


def _check_task(
    spec: pipeline_spec_pb2.PipelineSpec,
    deployment: pipeline_spec_pb2.PipelineDeploymentConfig,
    name: str,
    task: pipeline_spec_pb2.PipelineTaskSpec,
) -> None:
    component = spec.components.get(task.component_ref.name)
    if component is None:
        raise KubeflowError(f"task {name}: there is no component {task.component_ref.name!r}")
    label = component.executor_label
    if label not in deployment.executors:
        raise KubeflowError(f"task {name}: there is no executor {label!r}")
    kind = deployment.executors[label].WhichOneof("spec")
    if kind not in ("container", "importer"):
        raise KubeflowError(f"task {name} is a {kind}: open-source Kubeflow Pipelines has none")
    for dependency in task.dependent_tasks:
        if dependency not in spec.root.dag.tasks:
            raise KubeflowError(f"task {name} waits for {dependency!r}, which does not exist")
    parameters = spec.root.input_definitions.parameters
    for given in task.inputs.parameters.values():
        source = given.component_input_parameter
        if source and source not in parameters:
            raise KubeflowError(f"task {name} reads the parameter {source!r}, which does not exist")


def _check_platform(
    platform: Mapping[str, Any], deployment: pipeline_spec_pb2.PipelineDeploymentConfig
) -> None:
    executors = platform.get("deploymentSpec", {}).get("executors", {})
    for label, config in executors.items():
        if label not in deployment.executors:
            raise KubeflowError(f"the platform spec is about {label!r}, which does not exist")
        try:
            json_format.ParseDict(config, kubernetes_executor_config_pb2.KubernetesExecutorConfig())
        except json_format.ParseError as error:
            raise KubeflowError(f"platform spec of {label}: {one_line(error)}") from error


def _mistyped(name: str, value: object, kind: str) -> list[str]:
    """Checks the value of a parameter; returns the faults."""
    if kind not in _KINDS:
        return [f"parameter '{name}' is of type {kind or 'none'}, which is not supported"]
    types, wanted = _KINDS[kind]
    fits = isinstance(value, types) and not isinstance(value, bool)
    if isinstance(value, float):
        fits = fits and math.isfinite(value)
    if isinstance(value, int) and kind == "NUMBER_INTEGER":
        fits = fits and abs(value) <= _LARGEST_INTEGER
    return [] if fits else [f"parameter '{name}' is {value!r}, but {wanted} is expected"]
