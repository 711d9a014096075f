"""`kubeflow_runner.py schedules`: lists, enables, disables and deletes schedules."""

from __future__ import annotations

from typing import Any

import click

from orchestration.commands.kubeflow.options import connect, connection_options
from orchestration.commands.options import failures


@click.group()
def schedules() -> None:
    """Lists schedules; starts, enables, disables and deletes them by name."""


@schedules.command("list")
@connection_options
def list_schedules(**connection: Any) -> None:
    """Lists the schedules of the namespace."""
    with failures():
        found = connect(connection).schedules()
    if not found:
        click.echo("There are no schedules.")
    names = max((len(one.name) for one in found), default=0)
    crons = max((len(one.cron) for one in found), default=0)
    for one in found:
        state = "enabled" if one.enabled else "disabled"
        click.echo(f"{one.name:{names}}  {state:8}  {one.cron:{crons}}  {one.url}")


@schedules.command()
@click.argument("name")
@connection_options
def start(name: str, **connection: Any) -> None:
    """Starts a run of a schedule now, with its version and parameters."""
    with failures():
        run_id = connect(connection).start_schedule(name)
    click.echo(f"Started run {run_id} of the schedule {name}.")


@schedules.command()
@click.argument("name")
@connection_options
def enable(name: str, **connection: Any) -> None:
    """Enables a schedule; if it missed times, it makes up for the last one at once."""
    with failures():
        connect(connection).enable_schedule(name)
    click.echo(f"Schedule {name} is enabled.")


@schedules.command()
@click.argument("name")
@connection_options
def disable(name: str, **connection: Any) -> None:
    """Disables a schedule; a run in progress continues."""
    with failures():
        connect(connection).disable_schedule(name)
    click.echo(f"Schedule {name} is disabled.")


@schedules.command()
@click.argument("name")
@connection_options
def delete(name: str, **connection: Any) -> None:
    """Deletes a schedule, unless its run is in progress; its runs stay."""
    with failures():
        connect(connection).delete_schedule(name)
    click.echo(f"Schedule {name} is deleted.")
