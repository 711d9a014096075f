"""The command `runs`."""

from __future__ import annotations

from pathlib import Path

import click

from orchestration.commands.options import epilog, output_option

_EPILOG = epilog(
    [
        "python local_runner.py runs",
        "python local_runner.py runs --model my_model --output output/backtest",
    ]
)


@click.command(epilog=_EPILOG)
@output_option()
@click.option("--model", metavar="NAME", help="Model, by its folder. Default: all that have runs.")
def runs(output: Path, model: str | None) -> None:
    """Lists the runs, newest first: model if there are several, start, duration, outcome."""
    from rich.table import Table
    from rich.text import Text

    from orchestration.local.history import list_runs
    from orchestration.local.model_directories import list_directories
    from terminal.tables import print_table, standard_output

    directories = list_directories(output.resolve())
    chosen = [d for d in directories if model in (None, d.model)]
    found = [(d.model, record) for d in chosen for record in list_runs(d)]
    if not found:
        whose = f" of {model}" if model else ""
        click.echo(f"There are no runs{whose} in {output}.")
        return
    several = len(directories) > 1
    table = Table(box=None, pad_edge=False)
    for name in (*(["model"] if several else []), "run", "started", "time", "outcome"):
        table.add_column(name, no_wrap=True)
    table.add_column("result", overflow="fold")
    for name, record in sorted(found, key=lambda one: one[1].run_id, reverse=True):
        took = "" if record.duration is None else f"{record.duration:,.0f} s"
        version = f"version {record.version}" if record.version else ""
        table.add_row(
            *([Text(name or "unknown")] if several else []),
            *(record.run_id, record.started.replace("+00:00", "Z"), took, record.outcome),
            Text(version or "\n".join(record.reasons)),
        )
    print_table(table, standard_output())
