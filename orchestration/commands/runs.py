"""The command `runs`."""

from __future__ import annotations

from pathlib import Path

import click

from orchestration.commands.options import epilog, output_option

_EPILOG = epilog(
    ["python local_runner.py runs", "python local_runner.py runs --output output/backtest"]
)


@click.command(epilog=_EPILOG)
@output_option()
def runs(output: Path) -> None:
    """Lists the runs, newest first: when, how long, and the outcome."""
    from rich.table import Table
    from rich.text import Text

    from orchestration.local.history import list_runs
    from orchestration.local.output_directory import OutputDirectory
    from terminal.tables import print_table, standard_output

    found = list_runs(OutputDirectory(output.resolve()))
    if not found:
        click.echo(f"There are no runs in {output}.")
        return
    table = Table(box=None, pad_edge=False)
    for name in ("run", "started", "time", "outcome"):
        table.add_column(name, no_wrap=True)
    table.add_column("result", overflow="fold")
    for record in found:
        took = "" if record.duration is None else f"{record.duration:,.0f} s"
        version = f"version {record.version}" if record.version else ""
        table.add_row(
            *(record.run_id, record.started.replace("+00:00", "Z"), took, record.outcome),
            Text(version or "\n".join(record.reasons)),
        )
    print_table(table, standard_output())
