"""The command `schedule`."""

from __future__ import annotations

import math
import shlex
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from orchestration.commands.options import (
    click_errors,
    epilog,
    read_config,
    run_options,
    settings_of,
    usage_errors,
)
from orchestration.outcome import Outcome

_RUNNER = Path(__file__).parents[2] / "local_runner.py"
_EPILOG = epilog(
    [
        'python local_runner.py schedule --cron "0 6 * * *"',
        'python local_runner.py schedule --cron "*/10 * * * *" --webhook https://example.com/hook',
        'python local_runner.py schedule --once --config my.toml --notify "python notify.py"',
    ],
    Outcome.PUSHED,
    Outcome.NOTHING_NEW,
    Outcome.WAITING,
    Outcome.FAILED,
    Outcome.STOPPED_BY_GATE,
    Outcome.NOT_BLESSED,
    Outcome.BUSY,
    Outcome.INTERRUPTED,
    heading="Exit status with --once",
)


class _Seconds(click.FloatRange):
    """Seconds, 0 or more; finite, which a range alone does not check for "nan" and "inf"."""

    def __init__(self) -> None:
        super().__init__(min=0)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        seconds = super().convert(value, param, ctx)
        if not math.isfinite(seconds):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return seconds


@click.command(epilog=_EPILOG)
@run_options
@click.option("--cron", "expression", metavar="EXPRESSION", help="When to look, as in a crontab.")
@click.option("--timezone", default="", help="Time zone of the expression. Default: the machine's.")
@click.option("--once", is_flag=True, help="Look once, now; for cron or a systemd timer.")
@click.option(
    "--retries",
    type=click.IntRange(min=0),
    default=2,
    show_default=True,
    help="How often a failed run is tried again.",
)
@click.option(
    "--backoff-seconds",
    type=_Seconds(),
    default=300.0,
    show_default=True,
    help="Pause before that; each further one is twice as long, up to 6 hours.",
)
@click.option(
    "--settle-seconds",
    type=_Seconds(),
    default=60.0,
    show_default=True,
    help="Files of the data that are younger may not be complete.",
)
@click.option(
    "--notify", metavar="COMMAND", default="", help="Gets each outcome as JSON on standard input."
)
@click.option(
    "--webhook",
    metavar="URL",
    default="",
    envvar="FLIGHTDECK_WEBHOOK",
    help="Each outcome is posted to it as JSON. Default: FLIGHTDECK_WEBHOOK.",
)
def schedule(
    as_of: int | None,
    window: int | None,
    output: Path,
    config_path: str | None,
    settings: tuple[str, ...],
    expression: str | None,
    timezone: str,
    once: bool,
    retries: int,
    backoff_seconds: float,
    settle_seconds: float,
    notify: str,
    webhook: str,
) -> None:
    """Retrains when there is new data, another configuration or code, or a drift alarm."""
    if not (once or expression):
        raise click.UsageError("--cron EXPRESSION or --once is needed")
    if webhook and not webhook.startswith(("http://", "https://")):
        raise click.BadParameter(
            "an address http://… or https://… is expected", param_hint="--webhook"
        )
    given = settings_of(as_of, window, settings)
    read_config(config_path, given)
    with usage_errors():
        shlex.split(notify)
    from orchestration.local.output_directory import OutputDirectory
    from orchestration.local.situation import Situation, prepare
    from orchestration.schedule.clock import SystemClock
    from orchestration.schedule.decision import Backoff
    from orchestration.schedule.hooks import Hooks
    from orchestration.schedule.schedule import Schedule
    from pipeline.config import load_config
    from terminal.tables import open_console

    console = open_console()
    directory = OutputDirectory(output.resolve())

    def look() -> Situation:
        return prepare(load_config(config_path, given), directory).situation

    def command(run_id: str, afresh: bool) -> list[str]:
        options = [f"--output={directory.root}", f"--run-id={run_id}"]
        options += [f"--config={config_path}"] if config_path else []
        options += [f"--set={setting}" for setting in given]
        options += ["--no-cache"] if afresh else []
        return [sys.executable, str(_RUNNER), "run", *options]

    def say(text: str) -> None:
        time = "" if once else f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S %Z} "
        console.print(time + text, soft_wrap=True)

    scheduled = Schedule(
        directory=directory,
        look=look,
        command=command,
        say=say,
        clock=SystemClock(),
        backoff=Backoff(retries, backoff_seconds),
        settle_seconds=settle_seconds,
        hooks=Hooks(notify, webhook),
    )
    if not expression or once:
        sys.exit(scheduled.fire().exit_status)
    from orchestration.schedule.cron import Cron  # Not above: --once has to be quick.

    with usage_errors():
        cron = Cron(expression, timezone)
    with click_errors():
        scheduled.keep_firing(cron)
