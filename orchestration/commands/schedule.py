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
    as_of_option,
    click_errors,
    config_option,
    epilog,
    named_model,
    output_option,
    read_config,
    set_option,
    settings_of,
    together,
    usage_errors,
    window_option,
)
from orchestration.outcome import Outcome

_RUNNER = Path(__file__).parents[2] / "local_runner.py"
_EPILOG = epilog(
    [
        'python local_runner.py schedule --cron "0 6 * * *"',
        'python local_runner.py schedule --cron "*/10 * * * *" --webhook https://example.com/hook',
        'python local_runner.py schedule --once --config my.toml --notify "python notify.py"',
        'python local_runner.py schedule --cron "0 6 * * *" --model my_model --model other',
    ],
    Outcome.PUSHED,
    Outcome.PROMOTED,
    Outcome.ROLLED_BACK,
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
@together(
    click.option(
        "--model",
        "models",
        multiple=True,
        metavar="NAME",
        help="Model, by its folder; may be given again. Default: the default one.",
    ),
    click.option("--all-models", is_flag=True, help="All models below models/."),
    *(as_of_option, window_option, output_option(), config_option, set_option),
)
@click.option("--cron", "expression", metavar="EXPRESSION", help="When to check, as in a crontab.")
@click.option("--timezone", default="", help="Time zone of the expression. Default: the machine's.")
@click.option("--once", is_flag=True, help="Check once, now; for cron or a systemd timer.")
@click.option(
    "--retries",
    type=click.IntRange(min=0),
    default=2,
    show_default=True,
    help="Number of retries of a failed run.",
)
@click.option(
    "--backoff-seconds",
    type=_Seconds(),
    default=300.0,
    show_default=True,
    help="Pause before the first retry; it doubles each time, up to 6 hours.",
)
@click.option(
    "--settle-seconds",
    type=_Seconds(),
    default=60.0,
    show_default=True,
    help="Age at which data files count as complete.",
)
@click.option(
    "--notify", metavar="COMMAND", default="", help="Gets each outcome as JSON on standard input."
)
@click.option(
    "--webhook",
    metavar="URL",
    default="",
    envvar="FLIGHTDECK_WEBHOOK",
    help="Address to post each outcome to, as JSON. Default: FLIGHTDECK_WEBHOOK.",
)
def schedule(
    models: tuple[str, ...],
    all_models: bool,
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
    """Retrains when there is new data, another configuration or code, or a drift alarm.

    Promotes or rolls back a challenger when `monitor` has found it better or worse.

    Several models have one run at a time; one that is held up holds up no other.
    """
    if not (once or expression):
        raise click.UsageError("--cron EXPRESSION or --once is needed")
    if webhook and not webhook.startswith(("http://", "https://")):
        raise click.BadParameter(
            "an address http://… or https://… is expected", param_hint="--webhook"
        )
    with usage_errors():
        shlex.split(notify)
    given = settings_of(as_of, window, settings)
    configs = _read_configs(config_path, given, models, all_models)
    from orchestration.local.model_directories import find_directory
    from orchestration.local.situation import Situation, prepare
    from orchestration.schedule import challenger, several
    from orchestration.schedule.challenger import Settled
    from orchestration.schedule.clock import SystemClock
    from orchestration.schedule.decision import Backoff
    from orchestration.schedule.hooks import Hooks
    from orchestration.schedule.schedule import Schedule
    from orchestration.schedule.turn import Turn
    from pipeline.config import load_config
    from storage.directory import ModelDirectory
    from terminal.tables import open_console

    console, clock, turn = open_console(), SystemClock(), Turn()

    def make_schedule(model: str, model_name: str) -> Schedule:
        # The model is the same one as long as this goes on, whichever becomes the default one.
        own = [*given, f"model={model}"]
        directory = find_directory(output.resolve(), model, model_name)

        def look() -> Situation:
            return prepare(load_config(config_path, own), directory).situation

        def settle(settled: str) -> Settled | None:
            config = load_config(config_path, own)
            models = ModelDirectory(str(directory.serving), config.model_name)
            found = challenger.settle(directory, models, config.challenger, settled)
            if begun := challenger.begin(models, config.challenger):
                say(begun)
            return found

        def command(run_id: str, afresh: bool) -> list[str]:
            options = [f"--output={output.resolve()}", f"--run-id={run_id}"]
            options += [f"--config={config_path}"] if config_path else []
            options += [f"--set={setting}" for setting in own]
            options += ["--no-cache"] if afresh else []
            return [sys.executable, str(_RUNNER), "run", *options]

        def say(text: str) -> None:
            time = "" if once else f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S %Z} "
            name = f"{model}: " if len(configs) > 1 else ""
            console.print(time + name + text, soft_wrap=True)

        return Schedule(
            directory=directory,
            look=look,
            command=command,
            say=say,
            clock=clock,
            backoff=Backoff(retries, backoff_seconds),
            settle_seconds=settle_seconds,
            hooks=Hooks(notify, webhook),
            turn=turn,
            settle=settle,
        )

    schedules = [make_schedule(*one) for one in configs.items()]
    if not expression or once:
        sys.exit(several.fire(schedules).exit_status)
    from orchestration.schedule.cron import Cron  # Here, because --once has to be quick.

    with usage_errors():
        cron = Cron(expression, timezone)
    with click_errors():
        if len(schedules) == 1:
            schedules[0].keep_firing(cron)
        else:
            several.keep_firing(schedules, cron)


def _read_configs(
    config_path: str | None, settings: list[str], models: tuple[str, ...], all_models: bool
) -> dict[str, str]:
    """The models to schedule, and the name of each in the Serving directory.

    That is "" for a model whose configuration is broken, which stops no other.

    Raises:
      click.UsageError: If there is no such model, none can be used, or two have the same name.
    """
    from pipeline.config import load_config
    from pipeline.layers import ConfigError
    from pipeline.model_folders import check_model, model_names

    if models and all_models:
        raise click.UsageError("--model and --all-models exclude each other")
    wanted = list(dict.fromkeys(models or (model_names() if all_models else ())))
    for model in wanted:
        named_model(model, settings)
        with usage_errors():
            check_model(model, "--model")
    if all_models and not wanted:
        raise click.UsageError("--all-models: there is no model below models/")
    if len(wanted) < 2:
        config = read_config(config_path, [*settings, *(f"model={name}" for name in wanted)])
        return {config.model: config.model_name}
    if any(setting.partition("=")[0].strip() == "model_name" for setting in settings):
        raise click.UsageError("--set model_name is for one model: several cannot have one name")
    names: dict[str, str] = {}
    errors = []
    for model in wanted:
        try:
            names[model] = load_config(config_path, [*settings, f"model={model}"]).model_name
        except ConfigError as error:
            names[model] = ""
            errors.append(str(error))
    if len(errors) == len(wanted):
        raise click.UsageError("; ".join(dict.fromkeys(errors)))
    # Of all models each firing checks it, so that a copied folder does not stop the others.
    for model, name in names.items() if models else ():
        if same := [other for other in names if name and names[other] == name and other != model]:
            raise click.UsageError(
                f"the models {model} and {same[0]} have the same model_name, {name!r}: each needs "
                "a name of its own in the Serving directory"
            )
    return names
