"""`kubeflow_runner.py submit`: uploads the pipeline and runs it once."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from orchestration.commands.kubeflow.options import (
    KUBEFLOW,
    after,
    connect,
    connection_options,
    package_options,
    read_job,
)
from orchestration.commands.options import fail, failures
from orchestration.outcome import Outcome

if TYPE_CHECKING:
    from orchestration.kubeflow.client import KubeflowPipelines
    from orchestration.vertex.client import VertexPipelines


@click.command()
@package_options
@click.option("--run-name", help="Name of the run. Default: pipeline, version and time.")
@click.option("--wait", is_flag=True, help="Show each task's progress until the run is over.")
@click.option(
    "--poll-seconds",
    type=click.FloatRange(min=0.01),
    default=5.0,
    show_default=True,
    help="Time between two requests while waiting.",
)
@connection_options
def submit(
    experiment: str,
    pipeline_name: str | None,
    run_name: str | None,
    wait: bool,
    poll_seconds: float,
    **options: Any,
) -> None:
    """Uploads the pipeline as a version, if it is new, and runs it.

    With --wait, the exit status is 0 if the run succeeds. If the server refuses the run, the upload
    is deleted again.

    \b
    Examples:
      python kubeflow_runner.py submit --host http://localhost:8080 --wait
      python kubeflow_runner.py submit --config my.toml --param training_epochs=3
      python kubeflow_runner.py submit --package pipeline.yaml --experiment nightly
      python kubeflow_runner.py submit --config my.toml --target vertex --run-name nightly-1 --wait
      python kubeflow_runner.py submit --config my.toml --pipeline monitoring \\
        --param version=1 --param since=2013-10-01 --param until=2013-11-01
    """
    with failures():
        job = read_job(options)
        kubeflow = connect(options)
        run = kubeflow.submit(
            job.package,
            job.values,
            pipeline_name=pipeline_name,
            experiment=experiment,
            run_name=run_name,
            service_account=job.service_account,
        )
        if options["target"] == KUBEFLOW:  # Vertex AI gets the pipeline with each run.
            there = "Uploaded" if run.uploaded else "Already there:"
            name = pipeline_name or job.package.name
            click.echo(f"{there} version {run.version} of the pipeline {name}.")
        click.echo(f"Started run {run.run_id}: {run.url}")
        if run.warning:
            click.echo(f"Warning: {run.warning}", err=True)
        if wait:
            _wait(kubeflow, run.run_id, poll_seconds)


def _wait(kubeflow: KubeflowPipelines | VertexPipelines, run_id: str, poll_seconds: float) -> None:
    """Shows the progress of a run; exits with the status of a failure unless it succeeds."""
    from orchestration.kubeflow.task_states import FAILED, SUCCEEDED, TaskStatus

    def show(task: TaskStatus) -> None:
        click.echo(f"{time.strftime('%H:%M:%S')}  {task.name}  {task.state}{after(task.error)}")

    try:
        end = kubeflow.wait(run_id, show, poll_seconds=poll_seconds)
    except KeyboardInterrupt:
        click.echo(f"The run goes on; to stop it: python kubeflow_runner.py terminate {run_id}")
        sys.exit(Outcome.INTERRUPTED.exit_status)
    if end.state != SUCCEEDED:
        failed = [f"{task.name}{after(task.error)}" for task in end.tasks if task.state == FAILED]
        reasons = "; ".join(failed) or end.error
        fail(f"The run ended as {end.state}{after(reasons)}\n{end.url}")
    click.echo(f"The run ended as {end.state}.")
