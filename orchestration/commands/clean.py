"""The command `clean`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from orchestration.commands.options import (
    click_errors,
    config_options,
    epilog,
    output_option,
    read_config,
)
from orchestration.outcome import Outcome

_EPILOG = epilog(
    [
        "python local_runner.py clean --dry-run",
        "python local_runner.py clean --keep-runs 3",
        "python local_runner.py clean --output output/september --config my.toml",
    ],
    Outcome.CLEAN,
    (Outcome.FAILED, "something cannot be deleted"),
    (Outcome.BUSY, "a run is using the output directory"),
)


@click.command(epilog=_EPILOG)
@output_option()
@config_options
@click.option(
    "--keep-runs", type=click.IntRange(min=1), help="Newest runs to keep. Default: keep_runs."
)
@click.option("--dry-run", is_flag=True, help="Say what would be deleted, and delete nothing.")
@click.option(
    "--serving-gone", is_flag=True, help="Clean although the Serving directory was deleted."
)
def clean(
    output: Path,
    config_path: str | None,
    settings: tuple[str, ...],
    keep_runs: int | None,
    dry_run: bool,
    serving_gone: bool,
) -> None:
    """Deletes what old runs left: artifacts, logs, records, reports and temporary files.

    Versions in the Serving directory, what they were made of, and what the next run takes from the
    cache stay.
    """
    given = [*settings, *([f"keep_runs={keep_runs}"] if keep_runs else [])]
    keep = read_config(config_path, given).keep_runs
    from orchestration.local.cleaning import clean_all
    from orchestration.local.output_directory import BusyError

    with click_errors():
        try:
            done = clean_all(
                output.resolve(), keep, dry_run=dry_run, say=click.echo, serving_gone=serving_gone
            )
        except BusyError as error:
            click.echo(error, err=True)
            sys.exit(Outcome.BUSY.exit_status)
    sys.exit((Outcome.CLEAN if done else Outcome.FAILED).exit_status)
