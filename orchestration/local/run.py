"""A run of the pipeline on this machine, with the record that it leaves."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from orchestration.local import cleaning, history
from orchestration.local.changed_settings import changed_settings
from orchestration.local.display import show_error, show_log
from orchestration.local.fork_server import fork_server
from orchestration.local.history import NodeNote, RunRecord
from orchestration.local.keys import encryption_keys, public_keys, signing_key
from orchestration.local.model_directories import claim
from orchestration.local.node_process import CACHED, COMPLETE, NodeResult, redirect_output
from orchestration.local.nodes import (
    Recipe,
    compile_apart,
    error_lines,
    run_nodes,
    show_failures,
    show_imports,
)
from orchestration.local.origin import describe_origin
from orchestration.local.output_directory import OutputDirectory
from orchestration.local.provenance import pushed_files
from orchestration.local.reports import begin_imports, report_run
from orchestration.local.situation import Prepared, prepare
from orchestration.outcome import Outcome
from pipeline.config import Config
from storage.directory import ModelDirectory
from storage.errors import BlockingAnomalies, UserError, lasts
from storage.span_store import STORE_VARIABLE
from storage.spans import resolve_window


@dataclass(frozen=True)
class Following:
    """The next run.

    Attributes:
      run_id: The id that it is going to have.
      config: Its configuration: that of the run before it but for the span, `data.as_of`.
    """

    run_id: str
    config: Config


def run(
    config: Config,
    directory: OutputDirectory,
    console: Console,
    *,
    run_id: str | None = None,
    use_cache: bool = True,
) -> Outcome:
    """Runs the pipeline in an output directory of its own, and cleans up after it.

    Args:
      config: The configuration.
      directory: The output directory.
      console: Where to show the run.
      run_id: Names the run; None for the time.
      use_cache: Whether what is there already is taken from there.

    Returns:
      How it ended.

    Raises:
      BusyError: If another run uses the directory.
      UserError: If the directory cannot be used.
    """
    with directory.locked():
        record = run_locked(config, directory, console, run_id=run_id, use_cache=use_cache)
        if directory.logs(record.run_id).exists():  # Else nothing was new.
            cleaning.clean_after_run(directory, config.keep_runs)
    return record.outcome


def run_locked(
    config: Config,
    directory: OutputDirectory,
    console: Console,
    *,
    run_id: str | None = None,
    use_cache: bool = True,
    ahead: Following | None = None,
) -> RunRecord:
    """As `run`, for a caller who holds the lock of the directory; cleans nothing.

    Args:
      config: The configuration.
      directory: The output directory.
      console: Where to show the run.
      run_id: Names the run; None for the time.
      use_cache: Whether what is there already is taken from there.
      ahead: The next run, if it is known. Its data nodes run beside the training of this one.

    Returns:
      The record, which is written unless nothing is new.
    """
    began = time.monotonic()
    record = RunRecord(run_id or directory.new_run_id(), started=history.now())
    logs = directory.logs(record.run_id)
    try:
        # First: the imports take longer than all that is done before the nodes run.
        with fork_server(logs / "imports.log"):
            prepared = prepare(config, directory)
            claim(directory, config.model_name)
            situation = prepared.situation
            if use_cache and situation.is_served:
                (logs / "imports.log").unlink()
                with contextlib.suppress(OSError):  # A schedule has what the run shows in it.
                    logs.rmdir()
                console.print(situation.nothing_new, soft_wrap=True)
                return dataclasses.replace(record, outcome=Outcome.NOTHING_NEW)
            record = dataclasses.replace(
                record,
                months=situation.months,
                run_key=situation.run_key,
                settings=changed_settings(config),
                log=str(logs / "runner.log"),
            )
            record.write(directory)
            results = _run_pipeline(prepared, directory, console, record.run_id, use_cache, ahead)
            record = _conclude(record, results, directory, console)
    except UserError as error:
        show_error(console, str(error))
        record = _failed(record, str(error).splitlines(), lasting=lasts(error))
    except KeyboardInterrupt:
        console.print("Stopped. The next run resumes from the nodes that are complete.")
        record = dataclasses.replace(record, outcome=Outcome.INTERRUPTED)
    except Exception:
        # Output is in the log by now, so a traceback would not be seen: say where it is.
        traceback.print_exc()
        reason = f"The run failed: {traceback.format_exc().splitlines()[-1]}"
        show_error(console, reason)
        if record.log:
            show_log(console, Path(record.log))
        record = _failed(record, [reason])
    try:
        seconds = round(time.monotonic() - began, 1)
        record = dataclasses.replace(record, ended=history.now(), seconds=seconds)
        record.write(directory)
    except OSError as error:  # What was done is done.
        show_error(console, f"the record of the run cannot be written: {error}")
    if record.outcome != Outcome.INTERRUPTED:  # Who stops a run does not wait for a page.
        report_run(directory, record, console)
    return record


def _failed(record: RunRecord, reasons: Iterable[str], *, lasting: bool = False) -> RunRecord:
    return dataclasses.replace(
        record, outcome=Outcome.FAILED, reasons=tuple(reasons), lasting=lasting
    )


def _run_pipeline(
    prepared: Prepared,
    directory: OutputDirectory,
    console: Console,
    run_id: str,
    use_cache: bool,
    ahead: Following | None,
) -> dict[str, NodeResult]:
    config, situation = prepared.config, prepared.situation
    # First: a key that cannot be used would be found out last.
    keys = {
        "signing_key": signing_key(config, directory),
        "encryption_keys": encryption_keys(config),
    }
    redirect_output(str(directory.logs(run_id) / "runner.log"))
    recipe = _recipe(
        config,
        directory,
        run_id,
        fingerprint=prepared.window.fingerprint,
        served_version=situation.served or 0,
        run_key=situation.run_key,
        origin=json.dumps(describe_origin(config, prepared.code_version, situation.served or 0)),
        public_keys=public_keys(config, directory),
        enable_cache=use_cache,
        **keys,
    )
    following = _look_ahead(ahead, directory) if ahead and use_cache else None
    with show_imports(console):
        nodes = compile_apart(recipe, prepared.code_version, directory, following)
    environment = {STORE_VARIABLE: str(directory.spans) if use_cache else ""}
    begin_imports()
    return run_nodes(nodes, config, directory, run_id, console, environment)


def _recipe(config: Config, directory: OutputDirectory, run_id: str, **arguments: Any) -> Recipe:
    return Recipe(
        run_id,
        {
            "config": config,
            "pipeline_root": str(directory.artifacts),
            "serving_dir": str(directory.serving),
            "metadata_path": str(directory.metadata),
            **arguments,
        },
    )


def _look_ahead(following: Following, directory: OutputDirectory) -> Recipe | None:
    """What can be run of the next run; None if its data cannot be used, as that run will show."""
    config = following.config
    try:
        window = resolve_window(config.data.source, config.data.as_of, config.data.window)
    except UserError:
        traceback.print_exc()
        return None
    return _recipe(config, directory, following.run_id, fingerprint=window.fingerprint)


def _show_details(results: Mapping[str, NodeResult], console: Console) -> None:
    """Shows what is worth reading of nodes that neither failed nor refused the model."""
    for node_id, result in results.items():
        # Of what was pushed, `_conclude` says more.
        if (
            node_id != "Pusher"
            and result.state in (COMPLETE, CACHED)
            and result.facts.blessed is not False
        ):
            for line in result.summary.details:
                console.print(Text(f"{node_id}: {line}"), soft_wrap=True)


def _conclude(
    record: RunRecord,
    results: Mapping[str, NodeResult],
    directory: OutputDirectory,
    console: Console,
) -> RunRecord:
    """Shows how a run ended, and returns its record with that."""
    notes = {
        node_id: NodeNote(result.state, result.summary.line, result.summary.details)
        for node_id, result in results.items()
    }
    record = dataclasses.replace(record, nodes=notes)
    console.print()
    _show_details(results, console)
    failed = show_failures(results, directory, record.run_id, console)
    if failed:
        stopped = all(result.error == BlockingAnomalies.__name__ for result in failed.values())
        return dataclasses.replace(
            record,
            outcome=Outcome.STOPPED_BY_GATE if stopped else Outcome.FAILED,
            reasons=tuple(
                line for node, result in failed.items() for line in error_lines(node, result)
            ),
            log=str(directory.node_log(record.run_id, next(iter(failed)))),
            lasting=any(result.lasting for result in failed.values()),
        )
    reasons: list[str] = []
    for node_id, result in results.items():
        if result.facts.blessed is False:
            lines = [f"{node_id}: the model is not blessed:", *result.summary.details]
            reasons += lines
            show_error(console, "\n  ".join(lines))
    if reasons:
        return dataclasses.replace(record, outcome=Outcome.NOT_BLESSED, reasons=tuple(reasons))
    pushed = results["Pusher"].facts
    if pushed.version:
        console.print(
            Text(f"Pushed version {pushed.version} to {pushed.destination}"), soft_wrap=True
        )
        folder = Path(pushed.destination).parent
        files = pushed_files(ModelDirectory(str(folder.parent), folder.name), pushed.version)
        return dataclasses.replace(
            record, outcome=Outcome.PUSHED, version=pushed.version, files=files
        )
    console.print("Nothing new was pushed.")
    reasons = [f"not pushed: {pushed.reason}"]
    return dataclasses.replace(record, outcome=Outcome.NOTHING_NEW, reasons=tuple(reasons))
