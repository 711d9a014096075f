"""Runs the pipeline on this machine."""

from __future__ import annotations

import os

# tfmot and TFX work with tf_keras, not with Keras 3. Set before anything imports TensorFlow, and
# inherited by all node processes.
os.environ["TF_USE_LEGACY_KERAS"] = "1"

import contextlib
import dataclasses
import hashlib
import importlib
import json
import math
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from orchestration.backtest import replay
from orchestration.local import cleaning, history
from orchestration.local.cache_keys import CodeVersion
from orchestration.local.dag_runner import ConcurrentDagRunner, start_fork_server
from orchestration.local.display import RunDisplay
from orchestration.local.history import RunRecord
from orchestration.local.node_process import FAILED, NodeResult, redirect_output
from orchestration.local.output_directory import BusyError, OutputDirectory
from orchestration.local.proxies import spare_loopback
from orchestration.schedule.hooks import Hooks
from orchestration.schedule.schedule import (
    BUSY_STATUS,
    STATUS,
    Backoff,
    Schedule,
    Situation,
    SystemClock,
)
from pipeline.config import Config, KubeflowConfig, MonitorConfig, load_config
from pipeline.model import Model
from storage import spans
from storage.directory import ModelDirectory
from storage.encryption_keys import EncryptionError, load_keys, require_keys
from storage.errors import BlockingAnomalies, SurroundingsError, UserError, lasts
from storage.keys import (
    KeyFileError,
    SignatureError,
    TrustStore,
    default_trust,
    ensure_key_pair,
    is_file,
    public_key_of,
    signing_config,
)
from storage.memory import MEMORY
from storage.private_copy import PrivateCopy, private_copy
from storage.span_store import STORE_VARIABLE
from storage.versions import find_models
from terminal.streams import run_command
from terminal.tables import open_console, print_table, standard_output

_RUN_EPILOG = """\b
Examples:
  python local_runner.py run
  python local_runner.py run --as-of 201309 --window 3 --output output/september
  python local_runner.py run --config my.toml --set training.epochs=3

\b
Exit status:
  0 a version was pushed, or there is nothing new    3 stopped by DataGate
  1 failed    2 wrong usage or configuration         4 not blessed
  75 another run is using the output directory       130 stopped by Ctrl-C or SIGTERM
"""

_SCHEDULE_EPILOG = """\b
Examples:
  python local_runner.py schedule --cron "0 6 * * *"
  python local_runner.py schedule --cron "*/10 * * * *" --webhook https://example.com/hook
  python local_runner.py schedule --once --config my.toml --notify "python notify.py"

\b
Exit status with --once: as of `run`; 0 also when nothing is new, or data is not complete yet.
"""

_REPLAY_EPILOG = """\b
Examples:
  python local_runner.py replay --from 201306 --to 201312
  python local_runner.py replay --from 201306 --to 201312 --window 3 --output output/three
  python local_runner.py replay --from 201306 --to 201312 --compare slow:training.learning_rate=1e-4

\b
Exit status:
  0 all months were lived through, whatever was decided    1 a run failed
  2 wrong usage, or the directory holds something else    75 another run is using it
  130 stopped by Ctrl-C or SIGTERM; the same command goes on from there
"""


@click.group()
def main() -> None:
    """Runs the pipeline on this machine, once or on a schedule, and says what was run."""
    spare_loopback(os.environ)


_output_option = click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("output"),
    show_default=True,
    help="Directory for artifacts, metadata, logs and the Serving directory.",
)


_window_option = click.option(
    "--window", type=int, help="Months before it to learn from. Default: 6."
)
_config_option = click.option(
    "--config", "config_path", metavar="FILE.toml", help="Configuration file."
)
_set_option = click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="One setting; over the file."
)


def _run_options(command: Any) -> Any:
    """The options that say what a run does."""
    as_of = click.option("--as-of", type=int, help="Month to judge on, YYYYMM. Default: newest.")
    for option in (_set_option, _config_option, _output_option, _window_option, as_of):
        command = option(command)
    return command


def _given(as_of: int | None, window: int | None, settings: tuple[str, ...]) -> list[str]:
    """All settings of the command line, as `--set` has them."""
    flags = {"data.as_of": as_of, "data.window": window}
    return [*settings, *(f"{key}={value}" for key, value in flags.items() if value is not None)]


@main.command(epilog=_RUN_EPILOG)
@_run_options
@click.option("--no-cache", is_flag=True, help="Run every node, even if nothing is new.")
@click.option("--run-id", hidden=True, help="Names the run. Default: the time.")
def run(
    as_of: int | None,
    window: int | None,
    output: Path,
    config_path: str | None,
    settings: tuple[str, ...],
    no_cache: bool,
    run_id: str | None,
) -> None:
    """Learns from a window of months, and pushes the model if it is good enough."""
    try:
        config = load_config(config_path, _given(as_of, window, settings))
    except UserError as error:
        raise click.UsageError(str(error)) from error
    console = open_console()
    directory = OutputDirectory(output.resolve())
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # Stops as cleanly as on Ctrl-C.
    try:
        with directory.locked():
            record = RunRecord(run_id or directory.new_run_id(), started=history.now())
            status = STATUS[_recorded(config, directory, console, record, use_cache=not no_cache)]
            if directory.logs(record.run_id).exists():  # Else nothing was new.
                cleaning.clean_after_run(directory, config.keep_runs)
    except BusyError as error:
        _say_error(console, str(error))
        status = BUSY_STATUS
    except UserError as error:
        _say_error(console, str(error))
        status = STATUS[history.FAILED]
    except KeyboardInterrupt:
        status = STATUS[history.INTERRUPTED]
    sys.exit(status)


class _Seconds(click.FloatRange):
    """A time, 0 or longer; "nan" is in no range and outside none, and nobody waits for "inf"."""

    def __init__(self) -> None:
        super().__init__(min=0)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        seconds = super().convert(value, param, ctx)
        if not math.isfinite(seconds):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return seconds


@main.command(epilog=_SCHEDULE_EPILOG)
@_run_options
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
    given = _given(as_of, window, settings)
    directory = OutputDirectory(output.resolve())

    def command(run_id: str, afresh: bool) -> list[str]:
        options = [f"--output={directory.root}", f"--run-id={run_id}"]
        options += [f"--config={config_path}"] if config_path else []
        options += [f"--set={setting}" for setting in given]
        options += ["--no-cache"] if afresh else []
        return [sys.executable, str(Path(__file__).resolve()), "run", *options]

    def look() -> Situation:
        return _prepare(load_config(config_path, given), directory).situation

    try:
        load_config(config_path, given)
        shlex.split(notify)
    except (UserError, ValueError) as error:
        raise click.UsageError(str(error)) from error
    scheduled = Schedule(
        directory=directory,
        look=look,
        command=command,
        say=_say_on(open_console(), with_time=not once),
        clock=SystemClock(),
        backoff=Backoff(retries, backoff_seconds),
        settle_seconds=settle_seconds,
        hooks=Hooks(notify, webhook),
    )
    if once:
        sys.exit(STATUS[scheduled.fire()])
    assert expression is not None
    from orchestration.schedule.cron import (
        Cron,  # Here, because --once needs it not and must be quick.
    )

    try:
        cron = Cron(expression, timezone)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    try:
        scheduled.keep_firing(cron)
    except UserError as error:
        raise click.ClickException(str(error)) from error


def _say_on(console: Console, *, with_time: bool) -> Callable[[str], None]:
    def say(text: str) -> None:
        time = f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S %Z} " if with_time else ""
        console.print(Text(time + text), soft_wrap=True)

    return say


_MONTH = click.IntRange(190001, 299912)


@main.command("replay", epilog=_REPLAY_EPILOG)
@click.option(
    "--from", "first", type=_MONTH, required=True, metavar="YYYYMM", help="First month to judge on."
)
@click.option(
    "--to", "last", type=_MONTH, required=True, metavar="YYYYMM", help="Last month to judge on."
)
@_window_option
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("output/replay"),
    show_default=True,
    help="Directory for what the runs leave behind, and for the result.",
)
@_config_option
@_set_option
@click.option(
    "--compare",
    "variants",
    multiple=True,
    metavar="NAME:KEY=VALUE[,KEY=VALUE]",
    help="Live through the months once more, with these settings over the others.",
)
def replay_months(
    first: int,
    last: int,
    window: int | None,
    output: Path,
    config_path: str | None,
    settings: tuple[str, ...],
    variants: tuple[str, ...],
) -> None:
    """Lives through past months as the schedule would have, and says what retraining was worth.

    Each month is a run as of that month; what it pushes is served on the next one. The result, a
    table and a plot, goes to the output directory as replay.csv and replay.png.
    """
    months = spans.months_between(first, last)
    if not months:
        raise click.UsageError(f"--from {first} comes after --to {last}")
    given = _given(None, window, settings)
    console = open_console()
    directory = OutputDirectory(output.resolve())

    def make_life(name: str, root: Path, settings: list[str]) -> replay.Life:
        return _make_life(name, OutputDirectory(root), config_path, settings, months, console)

    try:
        lives = [make_life("base", directory.root, given)]
        for variant in variants:
            name, changes = replay.parse_variant(variant)
            if name in {life.name for life in lives}:
                raise click.UsageError(f"--compare {variant!r}: the name {name!r} is taken")
            root = directory.root / "compare" / name
            lives.append(make_life(name, root, [*given, *changes]))
        for life in lives:
            life.check()
    except (UserError, ValueError) as error:
        raise click.UsageError(str(error)) from error
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        status = _live(lives, directory, console)
    except BusyError as error:
        _say_error(console, str(error))
        status = BUSY_STATUS
    except UserError as error:
        _say_error(console, str(error))
        status = STATUS[history.FAILED]
    except KeyboardInterrupt:
        console.print("Stopped. The same command goes on from there.")
        status = STATUS[history.INTERRUPTED]
    sys.exit(status)


def _make_life(
    name: str,
    directory: OutputDirectory,
    config_path: str | None,
    settings: list[str],
    months: list[int],
    console: Console,
) -> replay.Life:
    """What a replay needs to know of one set of settings.

    Raises:
      UserError: If the configuration or the data of a month cannot be used.
    """
    configs = {m: load_config(config_path, [*settings, f"data.as_of={m}"]) for m in months}
    data = {month: config.data for month, config in configs.items()}
    model = Model.load(configs[months[0]].model)

    def run(month: int) -> RunRecord:
        record = RunRecord(directory.new_run_id(), started=history.now())
        outcome = _recorded(configs[month], directory, console, record, use_cache=True)
        written = history.read_run(directory, record.run_id)
        return written or dataclasses.replace(record, outcome=outcome)

    def served() -> tuple[int, str] | None:
        models = ModelDirectory(str(directory.serving), configs[months[0]].model_name)
        version = models.served()
        key = str(_provenance(models, version).get("run_key", "")) if version else ""
        return (version, key) if version else None

    def prepare() -> None:
        logs = directory.logs("replay")
        logs.mkdir(parents=True, exist_ok=True)
        start_fork_server(logs / "imports.log")
        redirect_output(str(logs / "replay.log"))
        _import_tfx(console)

    return replay.Life(
        name=name,
        directory=directory,
        run_keys={m: _prepare(configs[m], directory).situation.run_key for m in months},
        run=run,
        served=served,
        reference=(
            model.reference,
            {m: (data[m].uri, data[m].as_of, data[m].window) for m in months},
        ),
        label=model.label,
        prepare=prepare,
        say=lambda text: console.print(Text(f"\n{text}", "bold")),
    )


def _live(lives: list[replay.Life], directory: OutputDirectory, console: Console) -> int:
    """Lives through all lives, shows what came of them, and returns the exit status."""
    references: dict[tuple[Any, ...], float] = {}
    lived = {life.name: life.live(references) for life in lives}
    from orchestration.backtest.plot import draw

    table, plot = directory.root / "replay.csv", directory.root / "replay.png"
    replay.write_csv(lived, table)
    draw(lived, plot)
    console.print()
    print_table(replay.make_table(lived), console)
    for line in replay.conclusion(lived):
        console.print(Text(line), soft_wrap=True)
    console.print(Text(f"Written to {table} and {plot}"), soft_wrap=True)
    whole = all(month.is_lived for months in lived.values() for month in months)
    return STATUS[history.NOTHING_NEW if whole else history.FAILED]


_MONITOR_EPILOG = """\b
Examples:
  python local_runner.py monitor --requests requests
  python local_runner.py monitor --requests requests --since 2013-10-01 --until 2013-11-01
  python local_runner.py monitor --requests requests --days 7 --set monitor.min_rows=500

\b
Exit status:
  0 no alarm       2 wrong usage or configuration    75 another one is at work
  1 failed         5 alarm                           130 stopped by Ctrl-C or SIGTERM
"""

_ALARM_STATUS = 5
_CHECKS_SHOWN = 8


class _Time(click.ParamType):
    """A date or time in ISO form, UTC unless it says otherwise, as seconds since the epoch."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            time = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is no date or time such as 2013-10-01 or 2013-10-01T06:00.")
        return int((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp())


@main.command(epilog=_MONITOR_EPILOG)
@click.option(
    "--requests", metavar="DIR", required=True, help="Request log of the server (--request-log)."
)
@_output_option
@click.option("--config", "config_path", metavar="FILE.toml", help="Configuration file.")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="One setting; over the file."
)
@click.option("--since", type=_Time(), help="When the period begins: a date or time, UTC.")
@click.option("--until", type=_Time(), help="When it ends.")
@click.option(
    "--days",
    type=click.IntRange(min=1),
    default=28,
    show_default=True,
    help="Length of the period. Without --since and --until: the newest complete one in the log.",
)
@click.option("--version", type=int, help="Version. Default: the one that answered most.")
def monitor(
    requests: str,
    output: Path,
    config_path: str | None,
    settings: tuple[str, ...],
    since: int | None,
    until: int | None,
    days: int,
    version: int | None,
) -> None:
    """Compares what a version was asked and answered with what it learned from; alarms."""
    try:
        config = load_config(config_path, settings)
    except UserError as error:
        raise click.UsageError(str(error)) from error
    if since is not None and until is not None and since >= until:
        raise click.UsageError("--since must be before --until")
    console = open_console()
    directory = OutputDirectory(output.resolve())
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        versions = ModelDirectory(str(directory.serving), config.model_name).versions()
        if not versions:
            raise UserError(
                f"nothing is served yet: {directory.serving} holds no version of "
                f"{config.model_name}"
            )
        if version is not None and version not in versions:
            there = ", ".join(map(str, versions))
            raise UserError(f"version {version} is not in {directory.serving}; it has {there}")
        # A directory of its own: it must neither wait for a run nor hold one up.
        work = OutputDirectory(directory.monitoring)
        with work.locked():
            asked = _Asked(requests, since, until, days, version, tuple(versions))
            status = _monitor(config, directory, work, console, asked)
            cleaning.clean_after_run(work, config.keep_runs)
    except BusyError as error:
        _say_error(console, str(error))
        status = BUSY_STATUS
    except UserError as error:
        _say_error(console, str(error))
        status = STATUS[history.FAILED]
    except KeyboardInterrupt:
        console.print("Stopped.")
        status = STATUS[history.INTERRUPTED]
    except Exception:
        traceback.print_exc()
        _say_error(console, f"It failed: {traceback.format_exc().splitlines()[-1]}")
        status = STATUS[history.FAILED]
    sys.exit(status)


@dataclasses.dataclass(frozen=True)
class _Asked:
    """What is to be monitored, as it was asked for."""

    requests: str
    since: int | None
    until: int | None
    days: int
    version: int | None
    versions: tuple[int, ...]


def _monitor(
    config: Config,
    directory: OutputDirectory,
    work: OutputDirectory,
    console: Console,
    asked: _Asked,
) -> int:
    """Runs the monitoring pipeline, publishes its report, and returns the exit status."""
    run_id = work.new_run_id()
    logs = work.logs(run_id)
    logs.mkdir(parents=True, exist_ok=True)
    start_fork_server(logs / "imports.log")
    redirect_output(str(logs / "runner.log"))
    spinner = Spinner("dots", "Importing TFX …")
    with Live(
        spinner, console=console, transient=True, redirect_stdout=False, redirect_stderr=False
    ):
        from ml import request_log
        from orchestration.local import tfx_internals
        from orchestration.schedule import alarms
        from pipeline.monitoring import create_monitoring_pipeline
    try:
        keys = load_keys(config.serving.encryption_keys)
    except EncryptionError as error:
        raise UserError(str(error)) from error
    survey = request_log.survey(
        asked.requests,
        config.model_name,
        since=asked.since,
        until=asked.until,
        days=asked.days,
        now=time.time(),
        keys=keys,
    )
    version = _monitored_version(survey.versions, asked, str(directory.serving))
    console.print(
        f"Version {version} of {config.model_name}, requests of {survey.period} (UTC)",
        soft_wrap=True,
    )
    pipeline = create_monitoring_pipeline(
        config,
        pipeline_root=str(work.artifacts),
        serving_dir=str(directory.serving),
        log_uri=asked.requests,
        version=version,
        since=survey.period.since,
        until=survey.period.until,
        public_keys=_public_keys(config, directory),
        metadata_path=str(work.metadata),
    )
    code_version = CodeVersion(Path(__file__).parent, (config.gate.schema,))
    compiled = tfx_internals.compile_pipeline(pipeline, run_id, code_version)
    upstream = tfx_internals.node_ids(compiled)
    store = tfx_internals.LockedMetadata(str(work.metadata), str(work.metadata_lock))
    tfx_internals.cancel_unfinished(store)
    try:
        with RunDisplay(console, list(upstream)) as display:
            runner = ConcurrentDagRunner(
                work,
                run_id,
                "orchestration.local.summaries.summarize",
                display,
                time_limits={node_id: config.node_timeout_seconds(node_id) for node_id in upstream},
            )
            results = runner.run(compiled.SerializeToString(), upstream)
    finally:
        tfx_internals.cancel_unfinished(store)
    console.print()
    failed = {node_id: result for node_id, result in results.items() if result.state == FAILED}
    for node_id, result in failed.items():
        _say_error(
            console, "\n".join([f"{node_id}: {result.summary.line}", *result.summary.details])
        )
        console.print(Text(f"  log: {runner.log_path(node_id)}"), soft_wrap=True)
    if failed:
        return STATUS[history.FAILED]
    made = Path(results["ServingMonitor"].summary.details[0])
    page, said = alarms.publish(directory, made)
    _show_report(console, json.loads((made / "report.json").read_text(encoding="utf-8")))
    console.print(Text(f"Report: {page}"), soft_wrap=True)
    if not said:
        return 0
    _say_error(console, said)
    return _ALARM_STATUS


def _monitored_version(answered: dict[int, int], asked: _Asked, serving: str) -> int:
    """The version that was named, or the one that answered most of those there are.

    Raises:
      UserError: If none of them is in the Serving directory.
    """
    if asked.version is not None:
        return asked.version
    known = [version for version in answered if version in asked.versions]
    if not known:
        log, there = (", ".join(map(str, sorted(some))) for some in (answered, asked.versions))
        raise UserError(
            f"the requests were answered by version {log}, and {serving} has {there}: without its "
            "training statistics there is nothing to compare with"
        )
    return max(known, key=lambda version: answered[version])


def _show_report(console: Console, report: dict[str, Any]) -> None:
    """Prints what alarms, and what is nearest to that, as a table, and the notes."""
    table = Table(box=None, pad_edge=False)
    for name in ("check", "of", "against"):
        table.add_column(name, no_wrap=True)
    for name in ("value", "limit"):
        table.add_column(name, justify="right", no_wrap=True)
    alarms = sum(check["alarms"] for check in report["checks"])
    for check in report["checks"][: max(_CHECKS_SHOWN, alarms)]:
        # An anomaly of the schema has neither.
        value = f"{check['value']:.3f}" if check["limit"] else ""
        limit = f"{'≥ ' * check['at_least']}{check['limit']:.3f}" if check["limit"] else ""
        table.add_row(
            *(check["kind"], check["subject"], check["against"], value, limit),
            style="bold red" if check["alarms"] else None,
        )
    print_table(table, console)
    console.print()
    for note in report["notes"]:
        console.print(Text(note), soft_wrap=True)


@main.command()
@_output_option
def runs(output: Path) -> None:
    """Lists the runs, newest first: when, how long, and what came of it."""
    found = history.list_runs(OutputDirectory(output.resolve()))
    if not found:
        click.echo(f"There are no runs in {output}.")
        return
    table = Table(box=None, pad_edge=False)
    for name in ("run", "started", "time", "outcome"):
        table.add_column(name, no_wrap=True)
    table.add_column("result", overflow="fold")
    for record in found:
        version = f"version {record.version}" if record.version else ""
        table.add_row(
            *(record.run_id, record.started.replace("+00:00", "Z"), _took(record), record.outcome),
            Text(version or "\n".join(record.reasons)),
        )
    print_table(table, standard_output())


_CLEAN_EPILOG = """\b
Examples:
  python local_runner.py clean --dry-run
  python local_runner.py clean --keep-runs 3
  python local_runner.py clean --output output/september --config my.toml

\b
Exit status:
  0 all that was found is deleted    2 wrong usage or configuration
  1 something cannot be deleted     75 a run is using the output directory
"""


@main.command(epilog=_CLEAN_EPILOG)
@_output_option
@_config_option
@_set_option
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
    try:
        keep = load_config(config_path, given).keep_runs
    except UserError as error:
        raise click.UsageError(str(error)) from error
    try:
        status = cleaning.clean_all(
            output.resolve(), keep, dry_run=dry_run, say=click.echo, serving_gone=serving_gone
        )
        sys.exit(status)
    except BusyError as error:
        click.echo(error, err=True)
        sys.exit(BUSY_STATUS)
    except UserError as error:
        raise click.ClickException(str(error)) from error


def _took(record: RunRecord) -> str:
    seconds = record.seconds
    if seconds is None:
        with contextlib.suppress(ValueError, TypeError):  # Of a run that did not say when it ended.
            took = datetime.fromisoformat(record.ended) - datetime.fromisoformat(record.started)
            seconds = took.total_seconds()
    return "" if seconds is None or seconds < 0 else f"{seconds:,.0f} s"


@main.command()
@click.argument("version", type=int, required=False)
@_output_option
@click.option("--model", metavar="NAME", help="Name of the model; needed if there are several.")
def lineage(version: int | None, output: Path, model: str | None) -> None:
    """Prints what a version was made of, back to spans, schema, parameters and code.

    Without VERSION it is the one that is served.
    """
    directory = OutputDirectory(output.resolve())
    serving = str(directory.serving)
    names = [model] if model else find_models(serving)
    if len(names) != 1:
        held = f"models {', '.join(names)}: choose one by --model" if names else "no model"
        raise click.ClickException(f"{serving} holds {held}")
    models = ModelDirectory(serving, names[0])
    known = sorted({*models.versions(), *models.rolled_back()}, reverse=True)
    version = version or models.served() or 0
    if version not in known:
        wanted = f"no version {version}" if version else "no version"
        has = ", ".join(map(str, known)) or "none"
        raise click.ClickException(f"there is {wanted} of {names[0]} in {serving}; it has {has}")
    signature, copy = _verified(models, version)
    with copy:
        try:
            provenance = history.read_provenance(copy.directory, version)
        except ValueError as error:
            raise click.ClickException(str(error)) from error
        state = "live" if version == models.served() else "older"
        facts = ["rolled back" if version in models.rolled_back() else state, signature]
        for schema in sorted(Path(copy.directory.provenance_uri(version)).glob("*.pbtxt")):
            digest = hashlib.sha256(schema.read_bytes()).hexdigest()
            here = Path(models.provenance_uri(version), schema.name)
            facts.append(f"schema: {here}, SHA-256 {digest[:16]}")
    standard_output().print(history.lineage(directory, version, provenance, facts))


def _verified(models: ModelDirectory, version: int) -> tuple[str, PrivateCopy]:
    """What is to be said of a version's signature, and a copy of the version as it then was."""
    aside = version in models.rolled_back()

    def copy(trust: TrustStore | None) -> PrivateCopy:
        keys = load_keys()
        parent = MEMORY if keys else None
        return private_copy(models, version, trust, rolled_back=aside, parent=parent, keys=keys)

    try:
        if not Path(models.signature_uri(version)).exists():
            return "not signed", copy(None)
        try:
            return "signature valid", copy(TrustStore([default_trust(models.serving_dir)]))
        except SignatureError as error:
            return f"signature not valid: {error}", copy(None)
    except (SignatureError, EncryptionError, OSError) as error:
        raise click.ClickException(str(error)) from error


@dataclasses.dataclass(frozen=True)
class _Prepared:
    """What a run would do, found out without TFX."""

    config: Config
    window: spans.Window
    code_version: CodeVersion
    situation: Situation


def _prepare(config: Config, directory: OutputDirectory) -> _Prepared:
    """Resolves the window, and finds out what it would be learned from and what is served.

    Raises:
      UserError: If the data cannot be used.
    """
    window = spans.resolve_window(config.data.uri, config.data.as_of, config.data.window)
    config = dataclasses.replace(
        config, data=dataclasses.replace(config.data, as_of=window.test.month)
    )
    code_version = CodeVersion(Path(__file__).parent, (config.gate.schema,))
    # Where it would run on Kubeflow, what alarms later and how long it may take change no model.
    other = dataclasses.replace(config, kubeflow=KubeflowConfig(), monitor=MonitorConfig())
    settings = dataclasses.asdict(
        dataclasses.replace(other, node_timeout_minutes=0.0, node_timeouts={})
    )
    # The months that a run would take are no change of the configuration.
    del settings["keep_runs"]  # Nor is what is kept of old runs.
    stable = {**settings, "data": {**settings["data"], "as_of": 0}}
    key = code_version.run_key(
        ["pipeline.pipeline", *Model.load(config.model).functions], settings, window.fingerprint
    )
    models = ModelDirectory(str(directory.serving), config.model_name)
    served = models.served()
    if served and (lost := history.lost_files(directory, models, served)):
        more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        raise UserError(
            f"version {served} of {config.model_name} lost files in {directory.serving}: {lost[0]}"
            f"{more} is missing or cut short; put back what is missing, or delete "
            f"{models.version_uri(served)} and run again, which pushes it anew"
        )
    provenance = _provenance(models, served) if served else {}
    rolled_back = models.rolled_back()
    situation = Situation(
        model_name=config.model_name,
        run_key=key,
        data=window.fingerprint,
        configuration=hashlib.sha256(json.dumps(stable, sort_keys=True).encode()).hexdigest(),
        data_uri=config.data.uri,
        files=tuple(file for span in (*window.train, window.test) for file in span.files),
        months={"train": tuple(s.month for s in window.train), "test": (window.test.month,)},
        served=served,
        served_key=str(provenance.get("run_key", "")),
        served_months={name: tuple(m) for name, m in provenance.get("spans", {}).items()},
        rolled_back=next(
            (v for v in rolled_back if _provenance(models, v).get("run_key") == key), None
        ),
    )
    return _Prepared(config, window, code_version, situation)


def _provenance(models: ModelDirectory, version: int) -> dict[str, Any]:
    """The provenance of a version; nothing if it cannot be read, as if it came from elsewhere."""
    try:
        return history.read_provenance(models, version)
    except ValueError:
        return {}


def _recorded(
    config: Config,
    directory: OutputDirectory,
    console: Console,
    record: RunRecord,
    *,
    use_cache: bool,
) -> str:
    """Runs the pipeline, keeps a record of that unless nothing is new, and returns the outcome."""
    began = time.monotonic()
    try:
        prepared = _prepare(config, directory)
        situation = prepared.situation
        if use_cache and situation.is_served:
            console.print(situation.nothing_new, soft_wrap=True)
            return history.NOTHING_NEW
        record = dataclasses.replace(
            record,
            months=situation.months,
            run_key=situation.run_key,
            log=str(directory.logs(record.run_id) / "runner.log"),
        )
        record.write(directory)
        record = _run(prepared, directory, console, record, use_cache=use_cache)
    except UserError as error:
        _say_error(console, str(error))
        reasons = tuple(str(error).splitlines())
        record = dataclasses.replace(
            record, outcome=history.FAILED, reasons=reasons, lasting=lasts(error)
        )
    except KeyboardInterrupt:
        console.print("Stopped. The next run resumes from the nodes that are complete.")
        record = dataclasses.replace(record, outcome=history.INTERRUPTED)
    except Exception:
        # Output is in the log by now, so a traceback would not be seen: say where it is.
        traceback.print_exc()
        reason = f"The run failed: {traceback.format_exc().splitlines()[-1]}"
        _say_error(console, reason)
        if record.log:
            console.print(Text(f"  log: {record.log}"), soft_wrap=True)
        record = dataclasses.replace(record, outcome=history.FAILED, reasons=(reason,))
    try:
        seconds = round(time.monotonic() - began, 1)
        dataclasses.replace(record, ended=history.now(), seconds=seconds).write(directory)
    except OSError as error:  # What was done is done.
        _say_error(console, f"the record of the run cannot be written: {error}")
    return record.outcome


def _run(
    prepared: _Prepared,
    directory: OutputDirectory,
    console: Console,
    record: RunRecord,
    *,
    use_cache: bool,
) -> RunRecord:
    """Runs the pipeline, and returns the record with the outcome."""
    config, run_id = prepared.config, record.run_id
    signing_key = _signing_key(config, directory)
    encryption_keys = _encryption_keys(config)
    logs = directory.logs(run_id)
    logs.mkdir(parents=True, exist_ok=True)
    start_fork_server(logs / "imports.log")
    redirect_output(str(logs / "runner.log"))
    _import_tfx(console)
    from orchestration.local import tfx_internals
    from pipeline.pipeline import create_pipeline

    pipeline = create_pipeline(
        config,
        pipeline_root=str(directory.artifacts),
        serving_dir=str(directory.serving),
        fingerprint=prepared.window.fingerprint,
        served_version=prepared.situation.served or 0,
        run_key=prepared.situation.run_key,
        signing_key=signing_key,
        encryption_keys=encryption_keys,
        public_keys=_public_keys(config, directory),
        metadata_path=str(directory.metadata),
        enable_cache=use_cache,
    )
    store = tfx_internals.LockedMetadata(str(directory.metadata), str(directory.metadata_lock))
    compiled = tfx_internals.compile_pipeline(pipeline, run_id, prepared.code_version)
    upstream = tfx_internals.node_ids(compiled)
    tfx_internals.cancel_unfinished(store)
    try:
        with RunDisplay(console, list(upstream)) as display:
            kept = {STORE_VARIABLE: str(directory.spans) if use_cache else ""}
            runner = ConcurrentDagRunner(
                directory,
                run_id,
                "orchestration.local.summaries.summarize",
                display,
                kept,
                time_limits={node_id: config.node_timeout_seconds(node_id) for node_id in upstream},
            )
            results = runner.run(compiled.SerializeToString(), upstream)
    finally:
        tfx_internals.cancel_unfinished(store)
    return _conclude(console, runner, results, record)


def _import_tfx(console: Console) -> None:
    """Imports what takes long, and says so."""
    spinner = Spinner("dots", "Importing TFX …")
    with Live(
        spinner, console=console, transient=True, redirect_stdout=False, redirect_stderr=False
    ):
        importlib.import_module("pipeline.pipeline")


def _signing_key(config: Config, directory: OutputDirectory) -> str:
    """The private key to sign with, its file made where there is none; "" to leave unsigned.

    Raises:
      UserError: If the key cannot be made or used, which the Pusher would find out last.
    """
    if not config.serving.sign:
        return ""
    key, password = config.serving.signing_key, config.serving.signing_password
    try:
        if is_file(key):
            return ensure_key_pair(
                str(Path(key or directory.signing_key).resolve()), password
            ).private
        with signing_config(key, password):
            return key
    except KeyFileError as error:
        raise SurroundingsError(str(error)) from error


def _encryption_keys(config: Config) -> str:
    """File of the keys that versions are encrypted with; "" for the environment, or none.

    Raises:
      UserError: If there is no key to encrypt with, which the Pusher would find out last.
    """
    path = config.serving.encryption_keys
    try:
        if config.serving.encrypt:
            require_keys(path)
    except EncryptionError as error:
        raise SurroundingsError(str(error)) from error
    return str(Path(path).resolve()) if path else ""


def _public_keys(config: Config, directory: OutputDirectory) -> list[str]:
    """Where the keys are that versions are verified with; none where signing is turned off."""
    if not config.serving.sign:
        return []
    key = config.serving.signing_key
    own = public_key_of(key) if key and is_file(key) else directory.signing_key.parent
    return [str(Path(path).resolve()) for path in config.serving.public_keys or (own,)]


def _conclude(
    console: Console,
    runner: ConcurrentDagRunner,
    results: dict[str, NodeResult],
    record: RunRecord,
) -> RunRecord:
    """Says what the run came to, and returns its record with that."""
    from orchestration.local.summaries import NOT_BLESSED, PUSHED

    def ended(outcome: str, reasons: list[str], **facts: Any) -> RunRecord:
        return dataclasses.replace(record, outcome=outcome, reasons=tuple(reasons), **facts)

    console.print()
    failed = {node_id: result for node_id, result in results.items() if result.state == FAILED}
    reasons: list[str] = []
    for node_id, result in failed.items():
        summary = result.summary
        lines = [f"{node_id}: {summary.line}", *summary.details]
        reasons += lines
        _say_error(console, "\n".join(lines))
        console.print(Text(f"  log: {runner.log_path(node_id)}"), soft_wrap=True)
    if failed:
        stopped = all(result.error == BlockingAnomalies.__name__ for result in failed.values())
        log = str(runner.log_path(next(iter(failed))))
        outcome = history.STOPPED_BY_GATE if stopped else history.FAILED
        lasting = any(result.lasting for result in failed.values())
        return ended(outcome, reasons, log=log, lasting=lasting)
    refused = {i: r.summary for i, r in results.items() if r.summary.outcome == NOT_BLESSED}
    for node_id, summary in refused.items():
        lines = [f"{node_id}: the model is not blessed:", *summary.details]
        reasons += lines
        _say_error(console, "\n  ".join(lines))
    if refused:
        return ended(history.NOT_BLESSED, reasons)
    for result in results.values():
        if result.summary.outcome == PUSHED:
            version, destination = result.summary.line, result.summary.details[0]
            console.print(Text(f"Pushed {version} to {destination}"), soft_wrap=True)
            pushed = Path(destination)
            models = ModelDirectory(str(pushed.parents[1]), pushed.parent.name)
            files = history.pushed_files(models, int(pushed.name))
            return ended(history.PUSHED, [], version=int(pushed.name), files=files)
    console.print("Nothing new was pushed.")
    return ended(history.NOTHING_NEW, [results["Pusher"].summary.line])


def _say_error(console: Console, message: str) -> None:
    console.print(Text(message, "bold red"), soft_wrap=True)


if __name__ == "__main__":
    run_command(main)
