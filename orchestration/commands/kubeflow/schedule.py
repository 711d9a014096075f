"""`kubeflow_runner.py schedule`: sets up the one schedule of a name, or changes it."""

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


@click.command()
@click.option("--cron", required=True, help='When: "minute hour day month weekday", UTC.')
@click.option("--name", help="Name of the schedule. Default: that of the pipeline.")
@package_options
@connection_options
def schedule(
    cron: str, name: str | None, experiment: str, pipeline_name: str | None, **options: Any
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
    from orchestration.kubeflow.cron import six_fields

    with usage_errors():
        six_fields(cron)
    if options["pipeline"] != "training":
        raise click.UsageError(
            "--pipeline monitoring is about one period: a schedule would look at the same one again"
        )
    with failures():
        job = read_job(options)
        if job.values.get("fingerprint"):
            raise click.UsageError(
                "kubeflow.uncached lacks SpanExampleGen: a schedule has to look at the data again"
            )
        found, change = connect(options).schedule(
            name or pipeline_name or job.package.name,
            cron,
            job.package,
            job.values,
            pipeline_name=pipeline_name,
            experiment=experiment,
            service_account=job.service_account,
        )
    from orchestration.kubeflow.schedules import UNCHANGED

    verb = "is" if change == UNCHANGED else "was"
    click.echo(
        f"Schedule {found.name} {verb} {change}: version {job.package.version} runs at "
        f"{found.cron} (second, minute, hour, day, month, weekday)."
    )
    if not found.enabled:
        click.echo(f"It is disabled: python kubeflow_runner.py schedules enable {found.name}")
    click.echo(found.url)
