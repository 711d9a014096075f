"""`kubeflow_runner.py status`: how far a run is, and why tasks failed."""

from __future__ import annotations

from typing import Any

import click

from orchestration.commands.kubeflow.options import after, connect, connection_options
from orchestration.commands.options import failures

_TIME = "%Y-%m-%d %H:%M:%S %Z"


@click.command()
@click.argument("run_id")
@connection_options
def status(run_id: str, **connection: Any) -> None:
    """Shows how far a run is, and why tasks of it failed."""
    with failures():
        found = connect(connection).status(run_id)
    click.echo(f"{found.name}: {found.state}{after(found.error)}")
    if found.created:
        end = f"; over at {found.finished:{_TIME}}" if found.finished else ""
        click.echo(f"created at {found.created:{_TIME}}{end}")
    width = max((len(task.name) for task in found.tasks), default=0)
    for task in found.tasks:
        click.echo(f"  {task.name:{width}}  {task.state}{after(task.error)}")
    click.echo(found.url)
