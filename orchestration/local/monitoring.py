"""Runs the monitoring pipeline on this machine, and publishes its report."""

from __future__ import annotations

import json
import time
import traceback
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestration.local.cleaning import clean_after_run
from orchestration.local.display import show_error
from orchestration.local.keys import public_keys
from orchestration.local.model_directories import check_name
from orchestration.local.nodes import begin, run_nodes, show_failures, show_imports
from orchestration.local.output_directory import OutputDirectory
from orchestration.local.situation import code_version_of
from orchestration.outcome import Outcome
from pipeline.config import Config
from storage.directory import ModelDirectory
from storage.encryption_keys import EncryptionError, load_keys
from storage.errors import UserError
from terminal.tables import print_table

_CHECKS_SHOWN = 8


@dataclass(frozen=True)
class Selection:
    """The requests to monitor.

    Attributes:
      requests: The request log.
      since: Start of the period, in seconds since the epoch; None to derive it from `until`.
      until: End of the period; None to derive it from `since`. If both are None: the newest
        complete period.
      days: Length of the period.
      version: The version; None for the one with the most requests.
    """

    requests: str
    since: int | None
    until: int | None
    days: int
    version: int | None


def monitor(
    config: Config, directory: OutputDirectory, selection: Selection, console: Console
) -> Outcome:
    """Compares requests to a version, and its predictions, with its training data.

    Args:
      config: The configuration.
      directory: The output directory of the runs, whose Serving directory holds the version.
      selection: Which requests.
      console: Where to show the run and the report.

    Returns:
      Whether an alarm was raised, or something failed.

    Raises:
      BusyError: If another one is running.
      UserError: If there is nothing to compare with, or the versions are of another model.
    """
    check_name(directory, config.model_name)
    versions = ModelDirectory(str(directory.serving), config.model_name).versions()
    if not versions:
        raise UserError(
            f"nothing is served yet: {directory.serving} holds no version of {config.model_name}"
        )
    if selection.version is not None and selection.version not in versions:
        there = ", ".join(map(str, versions))
        raise UserError(
            f"version {selection.version} is not in {directory.serving}; it has {there}"
        )
    # A directory of its own: it must neither wait for a run nor hold one up.
    work = OutputDirectory(directory.monitoring)
    try:
        with work.locked():
            outcome = _monitor(config, directory, work, selection, versions, console)
            clean_after_run(work, config.keep_runs)
    except UserError:
        raise
    except Exception:
        traceback.print_exc()  # Output is in the log by now.
        show_error(console, f"It failed: {traceback.format_exc().splitlines()[-1]}")
        return Outcome.FAILED
    return outcome


def _monitor(
    config: Config,
    directory: OutputDirectory,
    work: OutputDirectory,
    selection: Selection,
    versions: list[int],
    console: Console,
) -> Outcome:
    run_id = work.new_run_id()
    begin(work.logs(run_id))
    with show_imports(console):
        from ml import request_log
        from orchestration.local.compilation import compile_nodes
        from orchestration.schedule import alarms
        from orchestration.schedule.challenger import keep_finding
        from pipeline.monitoring import create_monitoring_pipeline

    try:
        keys = load_keys(config.serving.encryption_keys)
    except EncryptionError as error:
        raise UserError(str(error)) from error
    survey = request_log.survey(
        selection.requests,
        config.model_name,
        since=selection.since,
        until=selection.until,
        days=selection.days,
        now=time.time(),
        keys=keys,
    )
    version = selection.version or request_log.busiest(
        survey.versions, versions, str(directory.serving)
    )
    console.print(
        f"Version {version} of {config.model_name}, requests of {survey.period} (UTC)",
        soft_wrap=True,
    )
    pipeline = create_monitoring_pipeline(
        config,
        pipeline_root=str(work.artifacts),
        serving_dir=str(directory.serving),
        log_uri=selection.requests,
        version=version,
        since=survey.period.since,
        until=survey.period.until,
        days=selection.days,
        public_keys=public_keys(config, directory),
        metadata_path=str(work.metadata),
    )
    nodes = compile_nodes(pipeline, run_id, code_version_of(config))
    results = run_nodes(nodes, config, work, run_id, console, {})
    console.print()
    if show_failures(results, work, run_id, console):
        return Outcome.FAILED
    made = Path(results["ServingMonitor"].facts.report)
    report = json.loads((made / "report.json").read_text(encoding="utf-8"))
    keep_finding(directory, report, datetime.now(UTC).isoformat(timespec="seconds"))
    page, said, _ = alarms.publish(directory, made)
    _show_report(console, report)
    console.print(Text(f"Report: {page}"), soft_wrap=True)
    if not said:
        return Outcome.NO_ALARM
    show_error(console, said)
    return Outcome.ALARM


def _show_report(console: Console, report: dict[str, Any]) -> None:
    """Prints what alarms, and what is nearest to that, as a table, and the notes."""
    table = Table(box=None, pad_edge=False)
    for name in ("check", "of", "against"):
        table.add_column(name, no_wrap=True)
    for name in ("value", "limit"):
        table.add_column(name, justify="right", no_wrap=True)
    alarms = sum(check["alarms"] for check in report["checks"])
    for check in report["checks"][: max(_CHECKS_SHOWN, alarms)]:
        value = limit = ""
        if check["limit"]:  # An anomaly of the schema has neither.
            value = f"{check['value']:.4g}"
            limit = f"{'≥ ' if check['at_least'] else ''}{check['limit']:.4g}"
        table.add_row(
            *(check["kind"], check["subject"], check["against"], value, limit),
            style="bold red" if check["alarms"] else None,
        )
    print_table(table, console)
    console.print()
    if comparison := report["comparison"]:
        said = f"Challenger {comparison['challenger']}, champion {comparison['champion']}"
        console.print(Text(f"{said}: {comparison['verdict']}", "bold"), soft_wrap=True)
        for reason in comparison["reasons"]:
            console.print(Text(f"  {reason}"), soft_wrap=True)
        console.print()
    for note in report["notes"]:
        console.print(Text(note), soft_wrap=True)
