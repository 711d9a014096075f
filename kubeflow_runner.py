"""Compiles the pipeline for Kubeflow Pipelines, and runs it there."""

from __future__ import annotations

import click

from orchestration.commands.kubeflow.compile import compile
from orchestration.commands.kubeflow.schedule import schedule
from orchestration.commands.kubeflow.schedules import schedules
from orchestration.commands.kubeflow.status import status
from orchestration.commands.kubeflow.submit import submit
from orchestration.commands.kubeflow.terminate import terminate
from terminal.streams import run_command


@click.group()
def main() -> None:
    """Compiles the pipeline for Kubeflow Pipelines, and runs it there."""


for _command in (compile, submit, status, terminate, schedule, schedules):
    main.add_command(_command)

if __name__ == "__main__":
    run_command(main)
