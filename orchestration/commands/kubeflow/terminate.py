"""`kubeflow_runner.py terminate`: stops a run."""

from __future__ import annotations

from typing import Any

import click

from orchestration.commands.kubeflow.options import connect, connection_options
from orchestration.commands.options import failures


@click.command()
@click.argument("run_id")
@connection_options
def terminate(run_id: str, **connection: Any) -> None:
    """Stops a run."""
    with failures():
        connect(connection).terminate(run_id)
    click.echo(f"Terminating run {run_id}; the tasks at work are being stopped.")
