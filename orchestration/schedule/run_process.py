"""A run in a process of its own, and its record where the run could not write one."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from orchestration.local.history import RunRecord, read_run
from orchestration.local.output_directory import OutputDirectory
from orchestration.outcome import USAGE_STATUS, Outcome
from orchestration.schedule.clock import Clock, iso
from orchestration.schedule.hooks import kill_session
from orchestration.schedule.state import Launched

_POLL_SECONDS = 0.2
_STOP_SECONDS = 30.0
_LAST_LINES = 5


def screen(directory: OutputDirectory, run_id: str) -> Path:
    """File that takes what a run shows."""
    return directory.logs(run_id) / "screen.log"


def run_process(command: Sequence[str], log: Path, clock: Clock) -> int:
    """Runs a command and waits for it; stops it when the schedule is to end.

    Args:
      command: The command.
      log: File that takes what it shows.
      clock: What ends the schedule.

    Returns:
      Its exit status, negative for a signal.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as file:
        # In a session of its own: Ctrl-C reaches it through this process alone.
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    while not clock.stopping:
        try:
            return child.wait(_POLL_SECONDS)
        except subprocess.TimeoutExpired:
            continue
    child.terminate()
    try:
        return child.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        kill_session(child)
        return -signal.SIGTERM


def close_record(
    directory: OutputDirectory, launched: Launched, status: int | None, clock: Clock
) -> RunRecord:
    """The record of a run that is over; completed where the run could not do so itself.

    Args:
      directory: Where the record is.
      launched: The run.
      status: Its exit status; None if no schedule was there to see it.
      clock: The time.
    """
    log = screen(directory, launched.run_id)
    record = read_run(directory, launched.run_id)
    if record and record.outcome != Outcome.RUNNING:
        return record
    outcome, reasons = _read_status(status, silent=record is None)
    record = record or RunRecord(launched.run_id, iso(launched.started), log=str(log))
    record = dataclasses.replace(
        record,
        ended=iso(clock.now()),
        outcome=outcome,
        reasons=reasons or _last_lines(log),
        lasting=status == USAGE_STATUS,
        months=record.months or launched.months,
    )
    record.write(directory)
    return record


def _read_status(status: int | None, *, silent: bool) -> tuple[Outcome, tuple[str, ...]]:
    """Outcome of a run that did not say it, and why, from its exit status.

    Args:
      status: The exit status; None if no schedule was there to see it.
      silent: Whether it left no record at all: then 0 means that it had nothing to do.
    """
    if status is None:
        return Outcome.FAILED, ("the run was killed, or the machine went down",)
    if status == 0 and not silent:
        return Outcome.FAILED, ("the run ended without an outcome",)
    outcome = Outcome.of_exit_status(status)
    if outcome == Outcome.FAILED and status < 0:
        return outcome, (f"the run was killed by {signal.Signals(-status).name}",)
    return outcome, ()


def _last_lines(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return ()
    return tuple([line.strip() for line in lines if line.strip()][-_LAST_LINES:])
