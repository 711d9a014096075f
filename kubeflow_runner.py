"""Compiles the pipeline for Kubeflow Pipelines, and runs it there."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import posixpath
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.config import Config, KubeflowConfig, load_config
from storage import spans
from storage.errors import UserError
from storage.keys import is_file, public_key_of
from storage.span_store import STORE_VARIABLE
from terminal.streams import run_command

if TYPE_CHECKING:
    from orchestration.kubeflow.client import KubeflowPipelines
    from orchestration.kubeflow.package import Package

FAILED_STATUS = 1
INTERRUPTED_STATUS = 130
PACKAGE = "pipeline.yaml"

_TIME = "%Y-%m-%d %H:%M:%S %Z"


@click.group()
def main() -> None:
    """Compiles the pipeline for Kubeflow Pipelines, and runs it there."""


def _config_options(command: Any) -> Any:
    """The options by which all commands take their configuration."""
    command = click.option(
        "--set", "settings", multiple=True, metavar="KEY=VALUE", help="One setting; over the file."
    )(command)
    return click.option("--config", "config_path", metavar="FILE.toml", help="Configuration file.")(
        command
    )


@main.command()
@_config_options
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path(PACKAGE),
    show_default=True,
    help="Where to write the package.",
)
def compile(config_path: str | None, settings: tuple[str, ...], output: Path) -> None:
    """Writes the pipeline as a package that Kubeflow Pipelines accepts."""
    config = read_config(config_path, settings)
    try:
        package = compile_config(config)
        output.write_text(package, encoding="utf-8")
    except (UserError, OSError) as error:
        fail(str(error))
    click.echo(f"Wrote {output}: accepted by the checks of Kubeflow Pipelines.")


def _package_options(command: Any) -> Any:
    """The options by which a run or a schedule takes what it runs."""
    for option in reversed(
        (
            click.option(
                "--package",
                "package_path",
                type=click.Path(exists=True, dir_okay=False, path_type=Path),
                help="A package that `compile` wrote, with its values. Default: compile anew.",
            ),
            click.option(
                "--param",
                "parameters",
                multiple=True,
                metavar="NAME=VALUE",
                help="Value of a parameter; over the configuration.",
            ),
            click.option("--pipeline", help="Pipeline on the server. Default: as in the package."),
            click.option(
                "--experiment", default="Default", show_default=True, help="Made if missing."
            ),
            click.option("--service-account", help="Kubernetes account that tasks run as."),
            click.option(
                "--no-cache", is_flag=True, help="Run every task, even if nothing is new."
            ),
        )
    ):
        command = option(command)
    return _config_options(command)


def _connection_options(command: Any) -> Any:
    """The options by which Kubeflow Pipelines is reached."""
    existing = click.Path(exists=True, dir_okay=False)
    for option in reversed(
        (
            click.option("--host", help="Address. Default: KF_PIPELINES_ENDPOINT, or the cluster."),
            click.option(
                "--namespace", help="Namespace, if there are several. Default: that of the context."
            ),
            click.option(
                "--token-file",
                type=existing,
                help="Bearer token. Default: KF_PIPELINES_TOKEN, or the pod's.",
            ),
            click.option("--ca-file", type=existing, help="Certificates to trust, PEM, for https."),
            click.option(
                "--timeout",
                type=click.FloatRange(min=0.01),
                default=30.0,
                show_default=True,
                help="Longest time for an answer, in seconds.",
            ),
        )
    ):
        command = option(command)
    return command


@main.command()
@_package_options
@click.option("--run-name", help="Name of the run. Default: pipeline, version and time.")
@click.option("--wait", is_flag=True, help="Show each task's progress until the run is over.")
@click.option(
    "--poll-seconds",
    type=click.FloatRange(min=0.01),
    default=5.0,
    show_default=True,
    help="Time between two looks while waiting.",
)
@_connection_options
def submit(
    experiment: str,
    pipeline: str | None,
    service_account: str | None,
    run_name: str | None,
    wait: bool,
    poll_seconds: float,
    **options: Any,
) -> None:
    """Uploads the pipeline as a version, unless it is there, and runs it.

    With --wait, the exit status is 0 if the run succeeds. If the run is refused, nothing of it
    stays on the server.

    \b
    Examples:
      python kubeflow_runner.py submit --host http://localhost:8080 --wait
      python kubeflow_runner.py submit --config my.toml --param training_epochs=3
      python kubeflow_runner.py submit --package pipeline.yaml --experiment nightly
    """
    with _failures():
        package, values = _package_and_values(options)
        kubeflow = _kubeflow(options)
        run = kubeflow.submit(
            package,
            values,
            pipeline_name=pipeline,
            experiment=experiment,
            run_name=run_name,
            service_account=service_account,
        )
        there = "Uploaded" if run.uploaded else "Already there:"
        click.echo(f"{there} version {run.version} of the pipeline {pipeline or package.name}.")
        click.echo(f"Started run {run.run_id}: {run.url}")
        if wait:
            _wait(kubeflow, run.run_id, poll_seconds)


@main.command()
@click.argument("run_id")
@_connection_options
def status(run_id: str, **connection: Any) -> None:
    """Shows how far a run is."""
    with _failures():
        found = _kubeflow(connection).status(run_id)
    click.echo(f"{found.name}: {found.state}{_after(found.error)}")
    if found.created:
        end = f"; over at {found.finished:{_TIME}}" if found.finished else ""
        click.echo(f"created at {found.created:{_TIME}}{end}")
    width = max((len(task.name) for task in found.tasks), default=0)
    for task in found.tasks:
        click.echo(f"  {task.name:{width}}  {task.state}{_after(task.error)}")
    click.echo(found.url)


@main.command()
@click.argument("run_id")
@_connection_options
def terminate(run_id: str, **connection: Any) -> None:
    """Stops a run."""
    with _failures():
        _kubeflow(connection).terminate(run_id)
    click.echo(f"Terminating run {run_id}; the tasks at work are being stopped.")


@main.command()
@click.option("--cron", required=True, help='When: "minute hour day month weekday", UTC.')
@click.option("--name", help="Name of the schedule. Default: that of the pipeline.")
@_package_options
@_connection_options
def schedule(
    cron: str,
    name: str | None,
    experiment: str,
    pipeline: str | None,
    service_account: str | None,
    **options: Any,
) -> None:
    """Runs the pipeline again and again: sets up the one schedule of a name, or changes it.

    One run at a time, and at most one for all times that were missed. Run this again with the same
    and nothing changes; with something else, the schedule is replaced unless its run is in
    progress, and if that fails, the old one stays. A schedule that is disabled stays so. Times are
    UTC unless the cluster is set up otherwise.

    \b
    Examples:
      python kubeflow_runner.py schedule --cron "0 6 1 * *"
      python kubeflow_runner.py schedule --cron "0 6 1 * *" --name monthly --config my.toml
      python kubeflow_runner.py schedule --cron "30 5 * * mon" --package pipeline.yaml
    """
    from orchestration.kubeflow.client import UNCHANGED
    from orchestration.kubeflow.cron import six_fields

    with _failures():
        try:
            six_fields(cron)
        except UserError as error:
            raise click.UsageError(str(error)) from error
        package, values = _package_and_values(options)
        if values.get("fingerprint"):
            raise click.UsageError(
                "kubeflow.uncached lacks SpanExampleGen: a schedule has to look at the data anew"
            )
        found, change = _kubeflow(options).schedule(
            name or pipeline or package.name,
            cron,
            package,
            values,
            pipeline_name=pipeline,
            experiment=experiment,
            service_account=service_account,
        )
    verb = "is" if change == UNCHANGED else "was"
    click.echo(
        f"Schedule {found.name} {verb} {change}: version {package.version} runs at {found.cron} "
        "(second, minute, hour, day, month, weekday)."
    )
    if not found.enabled:
        click.echo(f"It is disabled: python kubeflow_runner.py schedules enable {found.name}")
    click.echo(found.url)


@main.group()
def schedules() -> None:
    """Lists schedules; enables, disables and deletes them by name."""


@schedules.command("list")
@_connection_options
def list_schedules(**connection: Any) -> None:
    """Lists the schedules of the namespace."""
    with _failures():
        found = _kubeflow(connection).schedules()
    if not found:
        click.echo("There are no schedules.")
    names = max((len(one.name) for one in found), default=0)
    crons = max((len(one.cron) for one in found), default=0)
    for one in found:
        state = "enabled" if one.enabled else "disabled"
        click.echo(f"{one.name:{names}}  {state:8}  {one.cron:{crons}}  {one.url}")


@schedules.command()
@click.argument("name")
@_connection_options
def enable(name: str, **connection: Any) -> None:
    """Lets a schedule run; if it has missed times, it makes up for the last one at once."""
    with _failures():
        _kubeflow(connection).enable_schedule(name)
    click.echo(f"Schedule {name} is enabled.")


@schedules.command()
@click.argument("name")
@_connection_options
def disable(name: str, **connection: Any) -> None:
    """Stops a schedule from running; a run that has begun goes on."""
    with _failures():
        _kubeflow(connection).disable_schedule(name)
    click.echo(f"Schedule {name} is disabled.")


@schedules.command()
@click.argument("name")
@_connection_options
def delete(name: str, **connection: Any) -> None:
    """Deletes a schedule, unless its run is in progress; its runs stay."""
    with _failures():
        _kubeflow(connection).delete_schedule(name)
    click.echo(f"Schedule {name} is deleted.")


def _kubeflow(options: dict[str, Any]) -> KubeflowPipelines:
    from orchestration.kubeflow.client import KubeflowPipelines

    names = ("host", "namespace", "token_file", "ca_file", "timeout")
    return KubeflowPipelines(**{name: options[name] for name in names})


def _package_and_values(options: dict[str, Any]) -> tuple[Package, dict[str, int | float | str]]:
    """What to run, and the values of all its parameters.

    Raises:
      click.UsageError: If options exclude each other, or a value is not allowed.
      UserError: If the package cannot be made or read.
    """
    from orchestration.kubeflow.package import read_package

    config_path, settings = options["config_path"], options["settings"]
    parameters: tuple[str, ...] = options["parameters"]
    caching = False if options["no_cache"] else None
    if options["package_path"] is None:
        # Compiling comes first: it silences what TFX's libraries say of each other.
        text = compile_config(read_config(config_path, settings))
        values = run_parameters(config_path, settings, parameters)
        return read_package(text.encode(), caching), values
    if config_path or settings:
        raise click.UsageError("--package excludes --config and --set: it has its values; --param.")
    package = read_package(options["package_path"], caching)
    pairs = dict(parameter.partition("=")[::2] for parameter in parameters)
    if not all("=" in parameter for parameter in parameters):
        raise click.UsageError("--param: NAME=VALUE is expected.")
    try:
        return package, package.complete(package.parse(pairs))
    except UserError as error:
        raise click.UsageError(str(error)) from error


def _wait(kubeflow: KubeflowPipelines, run_id: str, poll_seconds: float) -> None:
    """Shows the progress of a run; ends with the status of a failure unless it succeeds."""
    from orchestration.kubeflow.client import SUCCEEDED, TaskStatus

    def show(task: TaskStatus) -> None:
        click.echo(f"{time.strftime('%H:%M:%S')}  {task.name}  {task.state}{_after(task.error)}")

    try:
        end = kubeflow.wait(run_id, show, poll_seconds=poll_seconds)
    except KeyboardInterrupt:
        click.echo(f"The run goes on; to stop it: python kubeflow_runner.py terminate {run_id}")
        sys.exit(INTERRUPTED_STATUS)
    if end.state != SUCCEEDED:
        failed = [
            f"{task.name}{_after(task.error)}" for task in end.tasks if task.state == "FAILED"
        ]
        reasons = "; ".join(failed) or end.error
        fail(f"The run ended as {end.state}{_after(reasons)}\n{end.url}")
    click.echo(f"The run ended as {end.state}.")


def _after(text: str) -> str:
    return f": {text}" if text else ""


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    """Shows what went wrong in a line, and ends with the status of a failure."""
    try:
        yield
    except UserError as error:
        fail(str(error))


def read_config(config_path: str | None, settings: tuple[str, ...]) -> Config:
    """The configuration, or wrong usage."""
    try:
        return load_config(config_path, settings)
    except UserError as error:
        raise click.UsageError(str(error)) from error


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
    with _silence():  # Not before that is said: TFX takes seconds to import.
        from orchestration.kubeflow.spec import Platform, Resources, compile_package
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
        enable_cache=kubeflow.cache,
    )
    nodes = {
        component.id: Resources(
            kubeflow.cpu,
            kubeflow.memory,
            retries=kubeflow.retries,
            seconds=config.node_timeout_seconds(component.id),
        )
        for component in pipeline.components
    }
    for name, node in kubeflow.nodes.items():
        nodes[name] = Resources(
            cpu=node.cpu or kubeflow.cpu,
            memory=node.memory or kubeflow.memory,
            accelerator=node.accelerator,
            accelerators=node.accelerators,
            retries=kubeflow.retries if node.retries < 0 else node.retries,
            seconds=config.node_timeout_seconds(name),
        )
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


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keeps from the screen what the libraries that TFX imports say of each other."""
    warnings.simplefilter("ignore")
    logging.getLogger().setLevel(logging.ERROR)
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)  # TensorFlow's C++ part writes there.
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


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
    config_path: str | None, settings: tuple[str, ...], parameters: tuple[str, ...]
) -> dict[str, int | float | str]:
    """The values of all pipeline parameters for one run.

    Args:
      config_path: Configuration file.
      settings: Settings over it.
      parameters: `NAME=VALUE` each, over both, checked as the configuration is.

    Raises:
      click.UsageError: If a name is no parameter, or a value is not allowed.
      UserError: If a path is relative, and there is no volume that it could be on.
    """
    from pipeline.parameters import KEYS, parameter_name

    keys = {parameter_name(key): key for key in KEYS} | {"serving_dir": "kubeflow.serving_dir"}
    over = []
    for parameter in parameters:
        name, equals, value = parameter.partition("=")
        if not equals or name not in keys:
            raise click.UsageError(
                f"--param {parameter!r}: expected name=value, where the name is one of "
                f"{', '.join(sorted(keys))}"
            )
        over.append(f"{keys[name]}={value}")
    config = read_config(config_path, (*settings, *over))
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
            "serving.sign = true needs a private key that the Pusher's task can read: set "
            "kubeflow.volume_claim or serving.signing_key, or turn signing off by "
            "serving.sign=false"
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


def fail(message: str) -> None:
    """Says what went wrong and ends with the status of a failure."""
    click.echo(message, err=True)
    sys.exit(FAILED_STATUS)


if __name__ == "__main__":
    run_command(main)
