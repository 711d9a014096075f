"""Decides whether to retrain, does it in a process of its own, and tells of the outcome.

A *firing* is one look at what there is: nothing new, not complete yet, or a run with its retries.
`Schedule.fire` does one; `Schedule.keep_firing` does one whenever a cron expression says so. All
that has to outlive a crash is in one file, written whole before and after each step.

Imports neither TFX nor TensorFlow, so that a firing that finds nothing new costs next to nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import signal
import subprocess
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa
from pyarrow import fs
from pydantic import AwareDatetime, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from orchestration.local.history import (
    FAILED,
    INTERRUPTED,
    NOT_BLESSED,
    NOTHING_NEW,
    PUSHED,
    RUNNING,
    STOPPED_BY_GATE,
    RunRecord,
    read_run,
)
from orchestration.local.output_directory import BusyError, OutputDirectory, write_whole
from orchestration.schedule.hooks import Hooks, kill_session
from storage import spans
from storage.errors import DataError, UserError

if TYPE_CHECKING:
    from orchestration.schedule.cron import Cron

# Of a firing without a run.
WAITING = "waiting"
BUSY = "busy"

# Exit statuses of `run`, which those of a firing follow.
BUSY_STATUS = 75  # EX_TEMPFAIL of sysexits.h: try again later.
STATUS = {
    PUSHED: 0,
    NOTHING_NEW: 0,
    WAITING: 0,
    FAILED: 1,
    STOPPED_BY_GATE: 3,
    NOT_BLESSED: 4,
    BUSY: BUSY_STATUS,
    INTERRUPTED: 130,
}
_WRONG_USAGE = 2
_OUTCOMES = {
    0: NOTHING_NEW,
    3: STOPPED_BY_GATE,
    4: NOT_BLESSED,
    130: INTERRUPTED,
    -signal.SIGINT: INTERRUPTED,
    -signal.SIGTERM: INTERRUPTED,
}

_LONGEST_BACKOFF = timedelta(hours=6)
# A firing that lies further ahead than this was noted by a clock that has been put back since.
_CLOCK_SLACK = timedelta(hours=1)
_POLL_SECONDS = 15.0
_CHILD_POLL_SECONDS = 0.2
_STOP_SECONDS = 30.0
_SETTLE_TIMES = 10
_REMEMBERED = 50
_LAST_LINES = 5


@dataclass(frozen=True)
class Situation:
    """What a run would start from, and what is served.

    Attributes:
      model_name: Name of the model.
      run_key: Identifies data, configuration and code.
      data: Identifies the data alone.
      configuration: Identifies the configuration alone.
      data_uri: Directory of the spans.
      files: Paths of the window's files, in the file system of `data_uri`.
      months: Months of the window, by split.
      served: The version that is served, or None.
      served_key: The `run_key` that it was made from; "" if unknown.
      served_months: Months that it was made from, by split.
      rolled_back: A version that was made from this very `run_key` and rolled back, or None.
    """

    model_name: str
    run_key: str
    data: str
    configuration: str
    data_uri: str
    files: tuple[str, ...]
    months: dict[str, tuple[int, ...]]
    served: int | None = None
    served_key: str = ""
    served_months: dict[str, tuple[int, ...]] = field(default_factory=dict)
    rolled_back: int | None = None

    @property
    def is_served(self) -> bool:
        """Whether what is served was made from this."""
        return self.served is not None and self.served_key == self.run_key

    @property
    def nothing_new(self) -> str:
        """Says so, if it is."""
        return (
            f"Nothing new: version {self.served} of {self.model_name} was made from this data, "
            "configuration and code."
        )


@dataclass(frozen=True)
class Alarm:
    """What asks for a new model although nothing is new.

    Attributes:
      id: Each is obeyed once.
      reason: Why, for a person.
      created: When.
    """

    id: str
    reason: str = ""
    created: str = ""


@dataclass(frozen=True)
class Attempt:
    """What the last run of one subject came to.

    Attributes:
      outcome: As in `RunRecord`.
      number: How many runs of it there were.
      ended: When the last one ended.
      run_id: The last one.
      reasons: Why it ended as it did.
      lasting: Whether it would fail again, if nothing but time passes.
    """

    outcome: str
    number: int
    ended: AwareDatetime
    run_id: str = ""
    reasons: tuple[str, ...] = ()
    lasting: bool = False

    def is_over(self, retries: int) -> bool:
        """Whether it is not tried again within a firing: it did not fail, or once too often."""
        return self.outcome != FAILED or self.lasting or self.number > retries


@dataclass(frozen=True)
class Launched:
    """A run that was started and is not accounted for yet.

    Attributes:
      subjects: What its outcome is that of.
      run_id: Identifies it.
      number: Which attempt it is.
      started: When it was started.
      why: Why it was.
      alarm: The alarm that it obeys, or "".
      months: Months of the data, by split.
      model_name: Name of the model.
    """

    subjects: tuple[str, ...]
    run_id: str
    number: int
    started: AwareDatetime
    why: tuple[str, ...]
    alarm: str
    months: dict[str, tuple[int, ...]]
    model_name: str


@dataclass(frozen=True)
class Problem:
    """What kept a firing from a run.

    Attributes:
      text: What it was.
      since: When it was seen first.
      reported: Whether the hooks were told.
    """

    text: str
    since: AwareDatetime
    reported: bool = False


@dataclass
class State:
    """What a schedule remembers.

    Attributes:
      last_firing: When the last firing began that came to its end.
      obeyed_alarm: Id of the alarm that was obeyed last.
      attempts: What runs came to, by subject.
      inputs: What a run key was made of: "data" and "configuration", by run key.
      launched: A run that is not accounted for yet.
      problem: What kept the last firing from a run.
      untold: Outcome that the hooks were not told yet.
    """

    last_firing: AwareDatetime | None = None
    obeyed_alarm: str = ""
    attempts: dict[str, Attempt] = field(default_factory=dict)
    inputs: dict[str, dict[str, str]] = field(default_factory=dict)
    launched: Launched | None = None
    problem: Problem | None = None
    untold: dict[str, Any] | None = None


@dataclass(frozen=True)
class Backoff:
    """How failed runs are tried again.

    Attributes:
      retries: How often within a firing.
      seconds: Pause after the first failure; each further one doubles it, up to six hours.
    """

    retries: int = 2
    seconds: float = 300.0

    def pause(self, failures: int) -> timedelta:
        """The pause after so many failures."""
        longest = _LONGEST_BACKOFF.total_seconds()
        doublings = min(failures - 1, 64)
        return timedelta(seconds=min(self.seconds * 2**doublings, longest))


@dataclass(frozen=True)
class Idle:
    """There is nothing to do."""

    reason: str


@dataclass(frozen=True)
class Later:
    """What there is to do failed a moment ago."""

    until: datetime
    reason: str


@dataclass(frozen=True)
class Retrain:
    """There is something to do.

    Attributes:
      why: Why, in lines for a person.
      afresh: Whether everything is computed again, because nothing but an alarm asks for it.
    """

    why: tuple[str, ...]
    afresh: bool = False


def subject(situation: Situation, alarm: Alarm | None) -> str:
    """Identifies what a run would be about: when it is the same, so would be the outcome."""
    parts = [situation.run_key, str(situation.served or 0), alarm.id if alarm else ""]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def decide(
    situation: Situation, alarm: Alarm | None, state: State, now: datetime, backoff: Backoff
) -> Idle | Later | Retrain:
    """Decides what a firing does.

    Args:
      situation: What there is.
      alarm: The alarm that is on and was not obeyed yet, or None.
      state: What the schedule remembers.
      now: The time.
      backoff: How failed runs are tried again.

    Returns:
      The decision.
    """
    new = not situation.is_served
    if not new and not alarm:
        return Idle(situation.nothing_new)
    if new and not alarm and situation.rolled_back is not None:
        return Idle(
            f"Nothing new: version {situation.rolled_back} of {situation.model_name} was made from "
            "this data, configuration and code, and was rolled back."
        )
    last = state.attempts.get(subject(situation, alarm))
    if last and (last.outcome != FAILED or last.lasting):
        reasons = "".join(f"\n  {line}" for line in last.reasons)
        return Idle(
            f"Nothing new: run {last.run_id} of this data, configuration and code ended "
            f"{last.outcome}; it is not tried again until one of them, or what is served, "
            f"changes, or somebody starts `run`.{reasons}"
        )
    if last:
        due = last.ended + backoff.pause(last.number)
        if last.ended <= now < due:  # Else the clock has been put back.
            again = _show(due.astimezone())
            return Later(due, f"{_times(last.number)} failed; tried again no sooner than {again}.")
    why = _differences(situation, state) if new else []
    if alarm:
        why.append(f"alarm {alarm.id}: {alarm.reason}")
    return Retrain(tuple(why), afresh=not new)


def _differences(situation: Situation, state: State) -> list[str]:
    """What is new, as far as is known of what the served version was made from."""
    if situation.served is None:
        return ["nothing is served yet"]
    there, before = _months(situation.months), _months(situation.served_months)
    lines = []
    if before and situation.months != situation.served_months:
        lines = [f"span-{month} is new" for month in sorted(there) if month > max(before)]
        lines = lines or [f"the window was {_range(before)} and is {_range(there)} now"]
    known = state.inputs.get(situation.served_key)
    if known is None:
        return lines or ["the data, the configuration or the code changed"]
    if known.get("data") != situation.data and not lines:
        lines.append("files of the window changed")
    if known.get("configuration") != situation.configuration:
        lines.append("the configuration changed")
    return lines or ["the code changed"]


def _months(by_split: Mapping[str, Sequence[int]]) -> set[int]:
    return {month for months in by_split.values() for month in months}


def _range(months: set[int]) -> str:
    return f"{min(months)} to {max(months)}"


def unfinished(situation: Situation, now: datetime, settle_seconds: float) -> tuple[str, float]:
    """Looks whether the files of a window are complete.

    Args:
      situation: What there is.
      now: The time.
      settle_seconds: Files younger than this may not be complete.

    Returns:
      What is not complete, "" if all is; and after how many seconds it may be, 0 for who knows.
    """
    # Here, because a firing that finds nothing new needs it not.
    from storage.parquet import open_file

    files, _ = spans.filesystem(situation.data_uri)
    young, wait = "", 0.0
    for info in files.get_file_info(list(situation.files)):
        if info.type == fs.FileType.NotFound:
            return f"{info.path} is gone again", min(1.0, settle_seconds)
        try:
            open_file(info.path, files)
        except (OSError, pa.ArrowException) as error:
            reason = " ".join(str(error).split())
            return f"{info.path} ({info.size:,} bytes) is not a whole Parquet file: {reason}", 0.0
        age = (now - info.mtime).total_seconds() if info.mtime else settle_seconds
        if abs(age) < settle_seconds and settle_seconds - age > wait:
            young, wait = f"{info.path} was written just now", settle_seconds - age
    return young, min(wait, settle_seconds)


class Clock(Protocol):
    """The time, and what ends the schedule."""

    @property
    def stopping(self) -> bool:
        """Whether the schedule is to end."""

    def now(self) -> datetime:
        """The time, UTC."""

    def wait(self, seconds: float) -> bool:
        """Waits; returns at once, and True, when the schedule is to end."""


class SystemClock:
    """The clock of this machine; SIGTERM and Ctrl-C end the schedule."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop.set())

    @property
    def stopping(self) -> bool:
        """Whether the schedule is to end."""
        return self._stop.is_set()

    def now(self) -> datetime:
        """The time, UTC."""
        return datetime.now(UTC)

    def wait(self, seconds: float) -> bool:
        """Waits; returns at once, and True, when the schedule is to end."""
        return self._stop.wait(seconds)


@dataclasses.dataclass
class Schedule:
    """Retrains when there is a reason to.

    Attributes:
      directory: Output directory of the runs.
      look: Tells what there is.
      command: Gives the command of a run from its id and whether it starts afresh. Its exit status
        is that of `local_runner.py run`.
      say: Tells a person.
      clock: The time, and what ends the schedule.
      backoff: How failed runs are tried again.
      settle_seconds: Files younger than this may not be complete.
      hooks: Who is told what a run came to.
    """

    directory: OutputDirectory
    look: Callable[[], Situation]
    command: Callable[[str, bool], Sequence[str]]
    say: Callable[[str], None]
    clock: Clock
    backoff: Backoff = field(default_factory=Backoff)
    settle_seconds: float = 60.0
    hooks: Hooks = field(default_factory=Hooks)

    def keep_firing(self, cron: Cron) -> None:
        """Fires whenever it is time to, until it is to end.

        What was missed, because this process or the machine was down or busy, is made up once. The
        time is read anew every few seconds, so that a clock that is put forward or back, or a
        machine that slept, changes no more than that.

        Args:
          cron: When it is time to.

        Raises:
          UserError: If the output directory cannot be written.
        """
        last = self._begin()
        outcome = ""
        if cron.after(last) > self.clock.now():
            self.say(f"Next firing: {_show(cron.after(last))}.")
        while not self.clock.stopping:
            now, due = self.clock.now(), cron.after(last)
            if last - now > _CLOCK_SLACK:
                last = now
                self.say(f"The clock was put back. Next firing: {_show(cron.after(last))}.")
            elif due > now:
                self.clock.wait(min(_POLL_SECONDS, (due - now).total_seconds()))
            else:
                if now - due > timedelta(seconds=2 * _POLL_SECONDS) and outcome != BUSY:
                    self.say(f"Making up for the firing of {_show(due)}.")
                outcome = self.fire(quiet=outcome)
                if outcome == BUSY:
                    self.clock.wait(_POLL_SECONDS)
                elif not self._cut_off(outcome):
                    last = now
                    self.say(f"Next firing: {_show(cron.after(last))}.")
        self.say("Stopped.")

    def _begin(self) -> datetime:
        """When the last firing was; now, if there was none."""
        while True:
            try:
                with self.directory.scheduling():
                    now, state = self.clock.now(), self._load()
                    if state.last_firing is None or state.last_firing - now > _CLOCK_SLACK:
                        state.last_firing = now
                        self._save(state)
                    return state.last_firing
            except BusyError:
                if self.clock.wait(_POLL_SECONDS):
                    return self.clock.now()

    def _cut_off(self, outcome: str) -> bool:
        """Whether a firing ended before its end, because the schedule is to end."""
        return outcome == INTERRUPTED and self.clock.stopping

    def fire(self, quiet: str = "") -> str:
        """Looks once whether there is something to do, and does it.

        Args:
          quiet: An outcome that is not worth saying again.

        Returns:
          What it came to: the outcome of the run, "nothing new", "waiting" or "busy".
        """
        began = self.clock.now()
        try:
            with self.directory.scheduling():
                state = self._load()
                try:
                    outcome = self._fire(state)
                except BusyError:
                    raise
                except UserError as error:
                    outcome = self._hold_up(state, str(error), certain=True)
                except Exception as error:  # One firing must not stop those after it.
                    self.say(traceback.format_exc())
                    outcome = self._hold_up(state, f"{type(error).__name__}: {error}", certain=True)
                if not self._cut_off(outcome):
                    state.last_firing = began
                    self._save(state)
                return outcome
        except BusyError as error:
            if quiet != BUSY:
                self.say(f"Missed, and to be made up for: {error}.")
            return BUSY
        except Exception as error:  # The disk is full, for instance.
            self.say(f"Failed: {type(error).__name__}: {error}")
            return FAILED

    def _fire(self, state: State) -> str:
        self._tell(state)
        self._settle_launched(state)
        waited = 0.0
        while not self.clock.stopping:
            if self.directory.in_use():
                raise BusyError(f"a run is using the output directory {self.directory.root}")
            try:
                situation = self.look()
            except DataError as error:
                return self._hold_up(state, str(error))
            alarm = self._read_alarm(state)
            decision = decide(situation, alarm, state, self.clock.now(), self.backoff)
            if isinstance(decision, Idle):
                state.problem = None
                self.say(decision.reason)
                return NOTHING_NEW
            if isinstance(decision, Later):
                self.say(decision.reason)
                if state.attempts[subject(situation, alarm)].number > self.backoff.retries:
                    return WAITING
                self._wait_until(decision.until)
                continue
            problem, seconds = unfinished(situation, self.clock.now(), self.settle_seconds)
            if problem:
                if not seconds or waited >= _SETTLE_TIMES * self.settle_seconds:
                    return self._hold_up(state, problem)
                self.say(f"{problem}: waiting {seconds:.0f} s for more.")
                self.clock.wait(seconds)
                waited += seconds
                continue
            state.problem = None
            outcome = self._run(state, situation, alarm, decision)
            last = state.attempts.get(subject(situation, alarm))
            if outcome != FAILED or (last and last.is_over(self.backoff.retries)):
                return outcome
        return INTERRUPTED

    def _wait_until(self, due: datetime) -> None:
        """Waits for a time, or until the schedule is to end, or the clock is put back."""
        began = self.clock.now()
        while began <= (now := self.clock.now()) < due:
            if self.clock.wait(min(_POLL_SECONDS, (due - now).total_seconds())):
                return

    def _read_alarm(self, state: State) -> Alarm | None:
        """The alarm that is on and was not obeyed yet."""
        try:
            alarm = TypeAdapter(Alarm).validate_json(self.directory.alarm.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError):
            self.say(f"{self.directory.alarm} is not an alarm: it is ignored.")
            return None
        return None if alarm.id == state.obeyed_alarm else alarm

    def _hold_up(self, state: State, text: str, *, certain: bool = False) -> str:
        """Ends a firing that something keeps from a run; tells the hooks if it stays.

        Args:
          state: What the schedule remembers.
          text: What it is; it stays while this does.
          certain: Whether it is known that waiting will not help.

        Returns:
          "waiting", or "failed" if it stays.
        """
        now = self.clock.now()
        before = state.problem if state.problem and state.problem.text == text else None
        since = before.since if before else now
        if not certain and not before:
            state.problem = Problem(text, since)
            self.say(f"Not complete yet: {text}. The next firing looks again.")
            return WAITING
        reported = bool(before and before.reported)
        state.problem = Problem(text, since, reported=True)
        self.say(f"Failed: {text}")
        if not reported:
            ended = _iso(now)
            state.untold = _message(FAILED, reasons=(text,), started=_iso(since), ended=ended)
            self._save(state)
            self._tell(state)
        return FAILED

    def _run(
        self, state: State, situation: Situation, alarm: Alarm | None, decision: Retrain
    ) -> str:
        """Does one run in a process of its own, and returns its outcome."""
        # With the alarm, and without it once it is obeyed.
        subjects = (subject(situation, alarm), subject(situation, None))
        before = state.attempts.get(subjects[0])
        number = before.number + 1 if before else 1
        run_id = self.directory.new_run_id()
        state.launched = Launched(
            subjects=subjects,
            run_id=run_id,
            number=number,
            started=self.clock.now(),
            why=decision.why,
            alarm=alarm.id if alarm else "",
            months=situation.months,
            model_name=situation.model_name,
        )
        made_of = {"data": situation.data, "configuration": situation.configuration}
        _remember(state.inputs, situation.run_key, made_of)
        self._save(state)
        log = self._screen(run_id)
        log.parent.mkdir(parents=True, exist_ok=True)
        self.say(f"Retraining: {'; '.join(decision.why)}.")
        self.say(f"Run {run_id}, attempt {number}; follow it in {log}")
        with open(log, "ab") as file:
            # In a session of its own: Ctrl-C reaches it through this process alone.
            child = subprocess.Popen(
                self.command(run_id, decision.afresh),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self._account(state, state.launched, self._wait_for(child))

    def _wait_for(self, child: subprocess.Popen[bytes]) -> int:
        """The exit status of a run, which is stopped when the schedule is to end."""
        while not self.clock.stopping:
            try:
                return child.wait(_CHILD_POLL_SECONDS)
            except subprocess.TimeoutExpired:
                continue
        child.terminate()
        try:
            return child.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            kill_session(child)
            return -signal.SIGTERM

    def _settle_launched(self, state: State) -> None:
        """Accounts for a run whose schedule was killed."""
        if not state.launched:
            return
        record = read_run(self.directory, state.launched.run_id)
        if self.directory.in_use() and (not record or record.outcome == RUNNING):
            raise BusyError(f"run {state.launched.run_id}, started earlier, is still going")
        self._account(state, state.launched, None)

    def _account(self, state: State, launched: Launched, status: int | None) -> str:
        """Takes down what a run came to, and tells of it unless it is tried again.

        Args:
          state: What the schedule remembers.
          launched: The run.
          status: Its exit status; None if nobody was there to see it.

        Returns:
          The outcome.

        Raises:
          BusyError: If it did not come to run, because another one did.
        """
        state.launched = None
        if status == BUSY_STATUS:
            self._save(state)
            raise BusyError(f"a run is using the output directory {self.directory.root}")
        record = self._close_record(launched, status)
        if record.outcome == INTERRUPTED:
            self._save(state)
            self.say(f"Run {launched.run_id} was interrupted.")
            return INTERRUPTED
        attempt = Attempt(
            record.outcome,
            launched.number,
            self.clock.now(),
            launched.run_id,
            record.reasons,
            record.lasting,
        )
        for name in launched.subjects:
            _remember(state.attempts, name, attempt)
        if record.outcome != FAILED and launched.alarm:
            state.obeyed_alarm = launched.alarm
        version = f" version {record.version}" if record.version else ""
        reasons = "".join(f"\n  {line}" for line in record.reasons)
        self.say(f"Run {launched.run_id}: {record.outcome}{version}.{reasons}")
        if attempt.is_over(self.backoff.retries):
            state.untold = _message(
                record.outcome,
                model=launched.model_name,
                version=record.version,
                reasons=record.reasons,
                why=launched.why,
                run_id=launched.run_id,
                log=record.log,
                started=record.started,
                ended=record.ended,
                months=launched.months,
                attempt=launched.number,
            )
        self._save(state)
        self._tell(state)
        return record.outcome

    def _close_record(self, launched: Launched, status: int | None) -> RunRecord:
        """The record of a run that is over; completed where the run could not do so itself."""
        screen = self._screen(launched.run_id)
        started = _iso(launched.started)
        record = read_run(self.directory, launched.run_id)
        if record and record.outcome != RUNNING:
            return record
        silent = record is None
        record = record or RunRecord(launched.run_id, started, log=str(screen))
        outcome, reasons = _read_status(status, silent=silent)
        record = dataclasses.replace(
            record,
            ended=_iso(self.clock.now()),
            outcome=outcome,
            reasons=reasons or _last_lines(screen),
            lasting=status == _WRONG_USAGE,
            months=record.months or launched.months,
        )
        record.write(self.directory)
        return record

    def _screen(self, run_id: str) -> Path:
        """File that takes what a run shows."""
        return self.directory.logs(run_id) / "screen.log"

    def _tell(self, state: State) -> None:
        """Tells the hooks what they were not told yet; once more, if this is killed meanwhile."""
        if state.untold is not None:
            self.hooks.tell(state.untold, self.say)
            state.untold = None
            self._save(state)

    def _load(self) -> State:
        try:
            return TypeAdapter(State).validate_json(self.directory.schedule.read_bytes())
        except FileNotFoundError:
            return State()
        except ValidationError:
            self.say(f"{self.directory.schedule} is not what a schedule wrote: it begins anew.")
            return State()

    def _save(self, state: State) -> None:
        text = TypeAdapter(State).dump_json(state, indent=2).decode()
        write_whole(self.directory.schedule, text + "\n")


def _read_status(status: int | None, *, silent: bool) -> tuple[str, tuple[str, ...]]:
    """Outcome of a run that did not say it, and why, from its exit status.

    Args:
      status: The exit status; None if nobody was there to see it.
      silent: Whether it left no record at all: then "0" means that it had nothing to do.
    """
    if status is None:
        return FAILED, ("the run was killed, or the machine went down",)
    if status < 0 and status not in _OUTCOMES:
        return FAILED, (f"the run was killed by {signal.Signals(-status).name}",)
    if status == 0 and not silent:
        return FAILED, ("the run ended without an outcome",)
    return _OUTCOMES.get(status, FAILED), ()


def _last_lines(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return ()
    return tuple([line.strip() for line in lines if line.strip()][-_LAST_LINES:])


def _message(outcome: str, **facts: Any) -> dict[str, Any]:
    """What the hooks are told."""
    names = ("model", "version", "reasons", "why", "run_id", "log", "started", "ended", "months")
    return {"outcome": outcome, **{name: facts.get(name) for name in (*names, "attempt")}}


def _remember(known: dict[str, Any], name: str, value: Any) -> None:
    """Adds what is the newest now, and forgets what is old."""
    known.pop(name, None)
    known[name] = value
    for old in list(known)[:-_REMEMBERED]:
        del known[old]


def _times(number: int) -> str:
    return "1 run" if number == 1 else f"{number} runs"


def _show(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M:%S %Z}"


def _iso(time: datetime) -> str:
    return time.isoformat(timespec="seconds")
