"""The command `clean`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestration.commands.options import (
    click_errors,
    config_option,
    epilog,
    named_model,
    output_option,
    set_option,
)
from orchestration.outcome import Outcome
from storage.errors import UserError

if TYPE_CHECKING:
    from orchestration.local.output_directory import OutputDirectory

_EPILOG = epilog(
    [
        "python local_runner.py clean --dry-run",
        "python local_runner.py clean --model my_model --keep-runs 3",
        "python local_runner.py clean --output output/september --config my.toml",
    ],
    Outcome.CLEAN,
    (Outcome.FAILED, "something cannot be deleted"),
    (Outcome.BUSY, "a run is using the output directory"),
)


@click.command(epilog=_EPILOG)
@output_option()
@click.option("--model", metavar="NAME", help="Model, by its folder. Default: all that have runs.")
@config_option
@set_option
@click.option(
    "--keep-runs", type=click.IntRange(min=1), help="Newest runs to keep. Default: keep_runs."
)
@click.option("--dry-run", is_flag=True, help="Show what would be deleted, but delete nothing.")
@click.option(
    "--serving-gone", is_flag=True, help="Clean although the Serving directory was deleted."
)
def clean(
    output: Path,
    model: str | None,
    config_path: str | None,
    settings: tuple[str, ...],
    keep_runs: int | None,
    dry_run: bool,
    serving_gone: bool,
) -> None:
    """Deletes the artifacts, logs, records, reports and temporary files of old runs.

    Versions in the Serving directory, their provenance, and the cache of the next run are kept.
    """
    from orchestration.local.cleaning import clean_all
    from orchestration.local.output_directory import BusyError
    from pipeline.layers import ConfigError

    model = named_model(model, settings)
    with click_errors():
        directories = _directories(output.resolve(), model)
    several = len({directory.model for directory in directories}) > 1
    outcomes = {Outcome.CLEAN}
    for directory in directories:
        name = f"{directory.model or 'unknown model'}: " if several else ""
        try:
            done = clean_all(
                directory,
                keep_runs or _keep_runs(config_path, settings, directory.model or model),
                dry_run=dry_run,
                say=lambda line, name=name: click.echo(name + line),  # type: ignore[misc]
                serving_gone=serving_gone,
            )
            outcomes.add(Outcome.CLEAN if done else Outcome.FAILED)
        except BusyError as error:
            click.echo(f"{name}{error}", err=True)
            outcomes.add(Outcome.BUSY)
        except ConfigError as error:
            if not several:
                raise click.UsageError(str(error)) from error
            click.echo(f"Error: {name}{error}; --keep-runs cleans without it", err=True)
            outcomes.add(Outcome.FAILED)
        except UserError as error:  # It keeps no other model from being cleaned.
            click.echo(f"Error: {name}{error}", err=True)
            outcomes.add(Outcome.FAILED)
    worst = [one for one in (Outcome.FAILED, Outcome.BUSY, Outcome.CLEAN) if one in outcomes]
    sys.exit(worst[0].exit_status)


def _directories(output: Path, model: str | None) -> list[OutputDirectory]:
    """The directories to clean, those of backtests in the output directory among them."""
    from orchestration.local.model_directories import list_directories
    from orchestration.local.output_directory import OutputDirectory

    found = list_directories(output)
    tops = [directory for directory in found if directory.root == output]
    # What an earlier release has at its top includes its backtests.
    found += [
        directory
        for directory in list_directories(output / "backtest")
        if not tops or directory.root != output / "backtest"
    ]
    if not found:
        return [OutputDirectory(output)]  # Refused in the words of one that is none.
    chosen = [directory for directory in found if model in (None, directory.model)]
    if not chosen and tops and not tops[0].model:
        return tops  # No run has said whose it is.
    if not chosen:
        names = ", ".join(sorted({directory.model for directory in found}))
        raise UserError(f"there are no runs of {model} in {output}, but of {names}")
    return chosen


def _keep_runs(config_path: str | None, settings: tuple[str, ...], model: str | None) -> int:
    from pipeline.config import load_config

    # As the last setting: one of `--set` names the same model, or none.
    return load_config(config_path, [*settings, *([f"model={model}"] if model else [])]).keep_runs
