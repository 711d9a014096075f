"""The command `backtest`."""

from __future__ import annotations

from pathlib import Path

import click

from orchestration.backtest.strategy_names import REPLACE, STRATEGIES
from orchestration.commands.options import (
    config_options,
    epilog,
    output_of,
    output_option,
    read_config,
    settings_of,
    together,
    usage_errors,
    window_option,
)
from orchestration.outcome import Outcome

_EPILOG = epilog(
    [
        "python local_runner.py backtest --from 201306 --to 201312",
        "python local_runner.py backtest --from 201306 --to 201312 --window 3",
        "python local_runner.py backtest --from 201306 --to 201312 --strategy champion-challenger",
        "python local_runner.py backtest --from 201306 --to 201312 --compare "
        "slow:training.learning_rate=1e-4",
    ],
    Outcome.DECIDED,
    (Outcome.FAILED, "a run failed"),
    Outcome.BUSY,
    (Outcome.INTERRUPTED, f"{Outcome.INTERRUPTED.meaning}; the same command continues from there"),
)


@click.command(epilog=_EPILOG)
@together(
    click.option(
        "--from", "first", type=int, required=True, metavar="SPAN", help="First span, as YYYYMM."
    ),
    click.option("--to", "last", type=int, required=True, metavar="SPAN", help="Last span."),
    window_option,
    output_option("output/backtest"),
    config_options,
)
@click.option(
    "--compare",
    "variants",
    multiple=True,
    metavar="NAME:KEY=VALUE[,KEY=VALUE]",
    help="Also backtest a variant with these settings. Repeatable.",
)
@click.option(
    "--strategy",
    type=click.Choice(STRATEGIES),
    default=REPLACE,
    show_default=True,
    help="champion-challenger: also show what would have been served if a new version had to be "
    "found better on the next span first.",
)
def backtest(
    first: int,
    last: int,
    window: int | None,
    output: Path,
    config_path: str | None,
    settings: tuple[str, ...],
    variants: tuple[str, ...],
    strategy: str,
) -> None:
    """Backtests past spans as the schedule would have run them.

    Each span has a run that is evaluated on it; a pushed model is served in the next span. The
    result is a table and a plot: backtest.csv and backtest.png in the output directory.
    """
    from orchestration.backtest.settings import make_backtests, run_backtests
    from orchestration.commands.ending import finish
    from terminal.tables import open_console

    source = read_config(config_path, settings).data.source
    if not source.has_spans:
        raise click.UsageError("the data have no spans: set data.spans or data.time_column")
    numbering = source.numbering
    for option, number in (("--from", first), ("--to", last)):
        if not (number and numbering.is_number(number)):  # 0 is the newest, whichever that is.
            raise click.UsageError(f"{option} {number}: {numbering.expected} is expected")
    months = numbering.between(first, last)
    if not months:
        raise click.UsageError(f"--from {first} comes after --to {last}")
    given = settings_of(None, window, settings)
    console = open_console()
    directory = output_of(read_config(config_path, given), output)
    with usage_errors():
        backtests = make_backtests(directory, config_path, given, variants, months, console)
    finish(
        console,
        lambda: run_backtests(backtests, directory, console, strategy),
        stopped="Stopped. The same command continues from there.",
    )
