"""Options and errors that the commands of Kubeflow share."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestration.commands.options import config_options, read_config, together, usage_errors
from orchestration.kubeflow import pipelines

if TYPE_CHECKING:
    from orchestration.kubeflow.client import KubeflowPipelines
    from orchestration.kubeflow.package import Package, Value
    from orchestration.vertex.client import VertexPipelines
    from pipeline.config import Config

_OF_KUBEFLOW = ("host", "namespace", "token_file", "ca_file")
KUBEFLOW, VERTEX = TARGETS = ("kubeflow", "vertex")

target_option = click.option(
    "--target",
    type=click.Choice(TARGETS),
    default=KUBEFLOW,
    show_default=True,
    help="Open-source Kubeflow Pipelines, or Vertex AI.",
)
pipeline_option = click.option(
    "--pipeline",
    type=click.Choice(pipelines.NAMES),
    default=pipelines.TRAINING,
    show_default=True,
    help="Which pipeline to compile.",
)
package_options = together(
    config_options,
    click.option(
        "--package",
        "package_path",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="A package that `compile` wrote, with its values. Default: compile again.",
    ),
    click.option(
        "--param",
        "parameters",
        multiple=True,
        metavar="NAME=VALUE",
        help="Value of a parameter; overrides the configuration.",
    ),
    pipeline_option,
    click.option("--pipeline-name", help="Pipeline on the server. Default: as in the package."),
    click.option("--experiment", default="Default", show_default=True, help="Made if missing."),
    click.option(
        "--service-account",
        help="Kubernetes account that tasks run as. Default: kubeflow.service_account.",
    ),
    click.option("--no-cache", is_flag=True, help="Run every task, even if nothing is new."),
)
connection_options = together(
    click.option("--host", help="Address. Default: KF_PIPELINES_ENDPOINT, or the cluster."),
    click.option(
        "--namespace", help="Namespace, if there are several. Default: that of the context."
    ),
    click.option(
        "--token-file",
        type=click.Path(exists=True, dir_okay=False),
        help="Bearer token. Default: KF_PIPELINES_TOKEN, or the pod's.",
    ),
    click.option(
        "--ca-file",
        type=click.Path(exists=True, dir_okay=False),
        help="Certificates to trust, PEM, for https.",
    ),
    click.option(
        "--timeout",
        type=click.FloatRange(min=0.01),
        default=30.0,
        show_default=True,
        help="Longest time for a response, in seconds.",
    ),
    target_option,
    click.option(
        "--project", help="For Vertex AI. Default: vertex.project, or GOOGLE_CLOUD_PROJECT."
    ),
    click.option(
        "--location", help="For Vertex AI. Default: vertex.location, or GOOGLE_CLOUD_LOCATION."
    ),
    click.option("--api-endpoint", help="Address of Vertex AI. Default: vertex.api_endpoint."),
)


def connect(options: Mapping[str, Any]) -> KubeflowPipelines | VertexPipelines:
    """The deployment that `connection_options` name."""
    if options["target"] == VERTEX:
        return _connect_vertex(options)
    from orchestration.kubeflow.client import KubeflowPipelines

    names = ("host", "namespace", "token_file", "ca_file", "timeout")
    return KubeflowPipelines(**{name: options[name] for name in names})


def _connect_vertex(options: Mapping[str, Any]) -> VertexPipelines:
    if foreign := [name for name in _OF_KUBEFLOW if options.get(name)]:
        raise click.UsageError(f"--{foreign[0].replace('_', '-')} is for Kubeflow, not Vertex AI.")
    from orchestration.vertex.client import VertexPipelines
    from pipeline.vertex_config import VertexConfig

    settings = VertexConfig()
    if not options.get("package_path") and "settings" in options:
        settings = read_config(options["config_path"], options["settings"]).vertex
    given = {name: value for name, value in dataclasses.asdict(settings).items() if value}
    for name in ("project", "location", "api_endpoint"):
        variable = os.environ.get(f"GOOGLE_CLOUD_{name.upper()}")
        if value := options[name] or given.get(name) or variable:
            given[name] = value
    try:
        settings = VertexConfig(**given)
    except ValueError as error:
        raise click.UsageError(_first_reason(error)) from error
    return VertexPipelines(settings, options["timeout"])


def _first_reason(error: ValueError) -> str:
    """What pydantic found first, in a line."""
    errors = getattr(error, "errors", None)
    if errors is None:
        return str(error)
    first = errors()[0]
    name = "-".join(str(part).replace("_", "-") for part in first["loc"])
    return f"--{name} {first['input']!r}: {first['msg'].removeprefix('Value error, ')}"


@dataclass(frozen=True)
class Job:
    """The pipeline and parameters of a run or a schedule.

    Attributes:
      package: The compiled pipeline.
      values: Values of all its parameters.
      service_account: Kubernetes account of its tasks; None for the server's default.
    """

    package: Package
    values: dict[str, Value]
    service_account: str | None


def read_job(options: Mapping[str, Any], *, recurring: bool = False) -> Job:
    """Makes the job that `package_options` describe.

    Args:
      options: Values of `package_options`.
      recurring: Whether it is for a schedule.

    Raises:
      click.UsageError: If options exclude each other, or a value is not allowed.
      UserError: If the package cannot be made or read.
    """
    caching = False if options["no_cache"] else None
    parameters: tuple[str, ...] = options["parameters"]
    if options["package_path"] is None:
        return _compiled(options, parameters, caching, recurring)
    if options["config_path"] or options["settings"]:
        raise click.UsageError("--package excludes --model, --config and --set: use --param.")
    from orchestration.kubeflow.package import read_package

    package = read_package(options["package_path"], caching)
    if not all("=" in parameter for parameter in parameters):
        raise click.UsageError("--param: NAME=VALUE is expected.")
    pairs = dict(parameter.partition("=")[::2] for parameter in parameters)
    with usage_errors():
        values = package.complete(package.parse(pairs))
        if known := pipelines.kind_of_package(package.name):
            known.check(values, recurring)
    return Job(package, values, options["service_account"])


def _compiled(
    options: Mapping[str, Any], parameters: tuple[str, ...], caching: bool | None, recurring: bool
) -> Job:
    from pipeline.layers import ConfigError

    config_path, settings = options["config_path"], options["settings"]
    config = read_config(config_path, settings)
    text = compile_for(options["target"], config, options["pipeline"])
    chosen = pipelines.kind(options["pipeline"])
    try:
        values = chosen.values(config_path, settings, parameters)
        chosen.check(values, recurring)
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    # Here, because compiling has silenced the warnings of TFX's libraries.
    from orchestration.kubeflow.package import read_package

    configured = config.vertex if options["target"] == VERTEX else config.kubeflow
    account = options["service_account"] or configured.service_account or None
    return Job(read_package(text.encode(), caching), values, account)


def compile_for(target: str, config: Config, pipeline: str) -> str:
    """Compiles a pipeline for one of `TARGETS`.

    Raises:
      UserError: If the configuration does not fit.
    """
    if target == VERTEX:
        from orchestration.vertex.compilation import compile_config as compile_vertex

        return compile_vertex(config, pipeline)
    from orchestration.kubeflow.compilation import compile_config

    return compile_config(config, pipeline)


def after(text: str) -> str:
    """Formats a reason to follow a message.

    Examples:
      >>> after("out of memory"), after("")
      (': out of memory', '')
    """
    return f": {text}" if text else ""
