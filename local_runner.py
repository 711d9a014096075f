"""Runs the pipeline on this machine.

Each command is a module of `orchestration/commands`, which imports what it needs when it is called.
"""

from __future__ import annotations

import os

import click

from orchestration.commands.backtest import backtest
from orchestration.commands.check import check
from orchestration.commands.clean import clean
from orchestration.commands.lineage import lineage
from orchestration.commands.monitor import monitor
from orchestration.commands.new import new
from orchestration.commands.predict import predict
from orchestration.commands.report import report
from orchestration.commands.reproduce import reproduce
from orchestration.commands.run import run
from orchestration.commands.runs import runs
from orchestration.commands.schedule import schedule
from orchestration.local.proxies import spare_loopback
from terminal.streams import run_command


@click.group()
def main() -> None:
    """Runs the pipeline on this machine, once or on a schedule, and shows its history.

    \b
    Examples:
      python local_runner.py run
      python local_runner.py schedule --cron "0 6 * * *"
      python local_runner.py runs
    """
    spare_loopback(os.environ)


for command in (
    new,
    check,
    run,
    schedule,
    backtest,
    monitor,
    predict,
    runs,
    report,
    lineage,
    reproduce,
    clean,
):
    main.add_command(command)

if __name__ == "__main__":
    run_command(main)
