"""The command `monitor`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from orchestration.commands.options import (
    config_options,
    epilog,
    output_of,
    output_option,
    read_config,
)
from orchestration.outcome import Outcome

_EPILOG = epilog(
    [
        "python local_runner.py monitor --requests requests",
        "python local_runner.py monitor --requests requests --since 2013-10-01 --until 2013-11-01",
        "python local_runner.py monitor --requests requests --days 7 --set monitor.min_rows=500",
    ],
    Outcome.NO_ALARM,
    Outcome.FAILED,
    Outcome.ALARM,
    (Outcome.BUSY, "another `monitor` is running"),
    Outcome.INTERRUPTED,
)


class _Time(click.ParamType):
    """A date or time in ISO form, UTC unless it says otherwise, as seconds since the epoch."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            time = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is not a date or time such as 2013-10-01 or 2013-10-01T06:00.")
        return int((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp())


@click.command(epilog=_EPILOG)
@click.option(
    "--requests", metavar="DIR", required=True, help="Request log of the server (--request-log)."
)
@output_option()
@config_options
@click.option("--since", type=_Time(), help="Start of the period: a date or time, UTC.")
@click.option("--until", type=_Time(), help="End of the period.")
@click.option(
    "--days",
    type=click.IntRange(min=1),
    help="Length of the period; default: monitor.days. Without --since and --until: the newest "
    "complete one in the log.",
)
@click.option("--version", type=int, help="Version. Default: the one with the most requests.")
def monitor(
    output: Path,
    config_path: str | None,
    settings: tuple[str, ...],
    **selected: Any,
) -> None:
    """Compares a version's requests and predictions with its training data; raises an alarm."""
    config = read_config(config_path, settings)
    since, until = selected["since"], selected["until"]
    if since is not None and until is not None and since >= until:
        raise click.UsageError("--since must be before --until")
    from orchestration.commands.ending import finish
    from orchestration.local import monitoring
    from terminal.tables import open_console

    console = open_console()
    directory = output_of(config, output)
    days = selected["days"] or config.monitor.days
    selection = monitoring.Selection(**selected | {"days": days})
    finish(
        console,
        lambda: monitoring.monitor(config, directory, selection, console),
        stopped="Stopped.",
    )
