"""`kubeflow_runner.py schedule`: creates or changes a schedule."""

from __future__ import annotations

from typing import Any

import click

from orchestration.commands.kubeflow.options import (
    connect,
    connection_options,
    package_options,
    read_job,
)
from orchestration.commands.options import failures, usage_errors

# Before each model had a pipeline, and so a schedule, of its own.
_OLD_NAME = "flightdeck"


@click.command()
@click.option("--cron", required=True, help='When: "minute hour day month weekday", UTC.')
@click.option("--name", help="Name of the schedule. Default: that of the pipeline.")
@click.option("--always", is_flag=True, help="Train in each run, also if nothing is new.")
@package_options
@connection_options
def schedule(
    cron: str,
    name: str | None,
    always: bool,
    experiment: str,
    pipeline_name: str | None,
    **options: Any,
) -> None:
    """Creates a schedule for the pipeline, or changes it.

    A run of the training pipeline ends at once if it has no new data and no alarm to obey.

    A schedule has one run at a time, and makes up for missed times with one run. If nothing
    changed, this command does nothing. Otherwise it replaces the schedule, unless a run of it is in
    progress; if that fails, the old one stays. A disabled schedule stays disabled. Times are UTC
    unless the cluster is set up otherwise.

    \b
    Examples:
      python kubeflow_runner.py schedule --cron "0 6 1 * *"
      python kubeflow_runner.py schedule --cron "0 6 1 * *" --name monthly --config my.toml
      python kubeflow_runner.py schedule --cron "30 5 * * mon" --package pipeline.yaml
      python kubeflow_runner.py schedule --cron "0 7 * * mon" --pipeline monitoring
    """
    from orchestration.kubeflow.cron import six_fields
    from orchestration.kubeflow.news import ONLY_IF_NEW, run_key

    with usage_errors():
        six_fields(cron)
    with failures():
        job = read_job(options, recurring=True)
        values = dict(job.values)
        if not always and ONLY_IF_NEW in job.package.parameters:
            # Also the defaults of the package, which `complete` adds.
            complete = job.package.complete(values)
            values[ONLY_IF_NEW] = run_key(job.package.version, complete)
        kubeflow = connect(options)
        found, change = kubeflow.schedule(
            name or pipeline_name or job.package.name,
            cron,
            job.package,
            values,
            pipeline_name=pipeline_name,
            experiment=experiment,
            service_account=job.service_account,
        )
        names = {one.name for one in kubeflow.schedules() if one.enabled}
    from orchestration.kubeflow.schedules import UNCHANGED

    seconds = "second, " if len(found.cron.split()) == 6 else ""
    verb = "is" if change == UNCHANGED else "was"
    click.echo(
        f"Schedule {found.name} {verb} {change}: version {job.package.version} runs at "
        f"{found.cron} ({seconds}minute, hour, day, month, weekday)."
    )
    if not found.enabled:
        click.echo(f"It is disabled: python kubeflow_runner.py schedules enable {found.name}")
    if _OLD_NAME in names - {found.name}:
        click.echo(
            f"Warning: there is still a schedule {_OLD_NAME}, as earlier releases named it: if it "
            f"is of this model, python kubeflow_runner.py schedules delete {_OLD_NAME}",
            err=True,
        )
    click.echo(found.url)
