"""Decides whether to retrain, runs the pipeline in a separate process, and reports the outcome.

A *firing* is one check: nothing new, data not complete yet, or a run with its retries.
`Schedule.fire` does one; `Schedule.keep_firing` does one whenever a cron expression says so. All
that has to outlive a crash is in one file, written whole before and after each step.

Imports neither TFX nor TensorFlow, so that a firing that finds nothing new costs next to nothing.
"""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Callable, Sequence
from dataclasses import field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from orchestration.local.history import read_run
from orchestration.local.model_directories import owner_of
from orchestration.local.output_directory import BusyError, OutputDirectory
from orchestration.local.situation import Situation
from orchestration.outcome import Outcome
from orchestration.schedule.alarms import waiting_alarm
from orchestration.schedule.challenger import Settled
from orchestration.schedule.clock import Clock, iso, show
from orchestration.schedule.completeness import unfinished
from orchestration.schedule.decision import Backoff, Idle, Later, Retrain, decide, subject
from orchestration.schedule.hooks import Hooks
from orchestration.schedule.run_process import close_record, run_process, screen
from orchestration.schedule.state import Alarm, Attempt, Launched, Problem, State, remember
from orchestration.schedule.turn import Turn
from storage.errors import DataError, UserError

if TYPE_CHECKING:
    from orchestration.schedule.cron import Cron

# A firing that lies further ahead than this was noted by a clock that has been put back since.
_CLOCK_SLACK = timedelta(hours=1)
_POLL_SECONDS = 15.0
_SETTLE_TIMES = 10


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
      hooks: Who is told the outcome of a run.
      turn: Has one run at a time go on, of all schedules that share it.
      settle: Does what follows from the newest verdict on a challenger, unless it is the one with
        this id; see `schedule.challenger.settle`.
    """

    directory: OutputDirectory
    look: Callable[[], Situation]
    command: Callable[[str, bool], Sequence[str]]
    say: Callable[[str], None]
    clock: Clock
    backoff: Backoff = field(default_factory=Backoff)
    settle_seconds: float = 60.0
    hooks: Hooks = field(default_factory=Hooks)
    turn: Turn = field(default_factory=Turn)
    settle: Callable[[str], Settled | None] = lambda _: None

    def keep_firing(self, cron: Cron) -> None:
        """Fires whenever it is time to, until it is to end.

        What was missed, because this process or the machine was down or busy, is made up once. The
        time is read again every few seconds, so that a clock that is put forward or back, or a
        machine that slept, changes no more than that.

        Args:
          cron: When it is time to.

        Raises:
          UserError: If the output directory cannot be written.
        """
        last = self._begin()
        outcome: Outcome | None = None
        if cron.after(last) > self.clock.now():
            self.say(f"Next firing: {show(cron.after(last))}.")
        while not self.clock.stopping:
            now, due = self.clock.now(), cron.after(last)
            if last - now > _CLOCK_SLACK:
                last = now
                self.say(f"The clock was put back. Next firing: {show(cron.after(last))}.")
            elif due > now:
                self.clock.wait(min(_POLL_SECONDS, (due - now).total_seconds()))
            else:
                if now - due > timedelta(seconds=2 * _POLL_SECONDS) and outcome != Outcome.BUSY:
                    self.say(f"Making up for the firing of {show(due)}.")
                outcome = self.fire(quiet=outcome)
                if outcome == Outcome.BUSY:
                    self.clock.wait(_POLL_SECONDS)
                elif not self._cut_off(outcome):
                    last = now
                    self.say(f"Next firing: {show(cron.after(last))}.")
        self.say("Stopped.")

    def _begin(self) -> datetime:
        """When the last firing was; now, if there was none."""
        while True:
            try:
                with self.directory.scheduling():
                    now, state = self.clock.now(), State.read(self.directory.schedule, self.say)
                    if state.last_firing is None or state.last_firing - now > _CLOCK_SLACK:
                        state.last_firing = now
                        self._save(state)
                    return state.last_firing
            except BusyError:
                if self.clock.wait(_POLL_SECONDS):
                    return self.clock.now()

    def _cut_off(self, outcome: Outcome | None) -> bool:
        """Whether a firing ended before its end, because the schedule is to end."""
        return outcome == Outcome.INTERRUPTED and self.clock.stopping

    def fire(self, quiet: Outcome | None = None) -> Outcome:
        """Checks once whether to retrain, and does it.

        Args:
          quiet: An outcome that is not worth saying again.

        Returns:
          How it ended: the outcome of the run, or that there was none.
        """
        began = self.clock.now()
        try:
            with self.directory.scheduling():
                state = State.read(self.directory.schedule, self.say)
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
            if quiet != Outcome.BUSY:
                self.say(f"Missed, and to be made up for: {error}.")
            return Outcome.BUSY
        except Exception as error:  # The disk is full, for instance.
            self.say(f"Failed: {type(error).__name__}: {error}")
            return Outcome.FAILED

    def _fire(self, state: State) -> Outcome:
        self._tell(state)
        self._settle_launched(state)
        nothing_new = self._settle_challenger(state) or Outcome.NOTHING_NEW
        waited = 0.0
        while not self.clock.stopping:
            if self.directory.in_use():
                raise BusyError(f"a run is using the output directory {self.directory.root}")
            try:
                situation = self.look()
            except DataError as error:
                return self._hold_up(state, str(error))
            alarm = waiting_alarm(self.directory, state, self.say)
            decision = decide(situation, alarm, state, self.clock.now(), self.backoff)
            if isinstance(decision, Idle):
                state.problem = None
                self.say(decision.reason)
                return nothing_new
            if isinstance(decision, Later):
                self.say(decision.reason)
                if state.attempts[subject(situation, alarm)].number > self.backoff.retries:
                    return Outcome.WAITING
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
            if holder := self.turn.take(self.directory.model):
                self.say(f"{'; '.join(decision.why)}: waits until the run of {holder} is over.")
                self.turn.wait(self.clock)  # Then what there is to do may be something else.
                continue
            try:
                outcome = self._run(state, situation, alarm, decision)
            finally:
                self.turn.give()
            last = state.attempts.get(subject(situation, alarm))
            if outcome != Outcome.FAILED or (last and last.is_over(self.backoff.retries)):
                return outcome
        return Outcome.INTERRUPTED

    def _wait_until(self, due: datetime) -> None:
        """Waits for a time, or until the schedule is to end, or the clock is put back."""
        began = self.clock.now()
        while began <= (now := self.clock.now()) < due:
            if self.clock.wait(min(_POLL_SECONDS, (due - now).total_seconds())):
                return

    def _hold_up(self, state: State, text: str, *, certain: bool = False) -> Outcome:
        """Ends a firing that something keeps from a run; tells the hooks if it stays.

        Args:
          state: What the schedule remembers.
          text: What it is; it stays while this does.
          certain: Whether it is known that waiting will not help.

        Returns:
          WAITING, or FAILED if it stays.
        """
        now = self.clock.now()
        before = state.problem if state.problem and state.problem.text == text else None
        since = before.since if before else now
        if not certain and not before:
            state.problem = Problem(text, since)
            self.say(f"Not complete yet: {text}. The next firing looks again.")
            return Outcome.WAITING
        reported = bool(before and before.reported)
        state.problem = Problem(text, since, reported=True)
        self.say(f"Failed: {text}")
        if not reported:
            ended = iso(now)
            state.untold = _message(
                Outcome.FAILED,
                model=self._model_name(),
                reasons=(text,),
                started=iso(since),
                ended=ended,
            )
            self._save(state)
            self._tell(state)
        return Outcome.FAILED

    def _run(
        self, state: State, situation: Situation, alarm: Alarm | None, decision: Retrain
    ) -> Outcome:
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
        remember(state.inputs, situation.run_key, made_of)
        self._save(state)
        log = screen(self.directory, run_id)
        self.say(f"Retraining: {'; '.join(decision.why)}.")
        self.say(f"Run {run_id}, attempt {number}; follow it in {log}")
        status = run_process(self.command(run_id, decision.afresh), log, self.clock)
        return self._account(state, state.launched, status)

    def _settle_launched(self, state: State) -> None:
        """Accounts for a run whose schedule was killed."""
        if not state.launched:
            return
        record = read_run(self.directory, state.launched.run_id)
        if self.directory.in_use() and (not record or record.outcome == Outcome.RUNNING):
            raise BusyError(f"run {state.launched.run_id}, started earlier, is still going")
        self._account(state, state.launched, None)

    def _settle_challenger(self, state: State) -> Outcome | None:
        """Promotes or rolls back a challenger, or leaves it to a person; tells the hooks."""
        settled = self.settle(state.settled_challenger)
        if settled is None:
            return None
        reasons = "".join(f"\n  {line}" for line in settled.reasons)
        self.say(f"Challenger {settled.version}: {settled.outcome}.{reasons}")
        state.settled_challenger = settled.id
        state.untold = _message(
            settled.outcome,
            model=settled.model_name,
            version=settled.version,
            reasons=settled.reasons,
            ended=iso(self.clock.now()),
        )
        self._save(state)
        self._tell(state)
        return settled.outcome

    def _account(self, state: State, launched: Launched, status: int | None) -> Outcome:
        """Records the outcome of a run, and tells the hooks unless the run is tried again.

        Args:
          state: What the schedule remembers.
          launched: The run.
          status: Its exit status; None if no schedule was there to see it.

        Returns:
          The outcome.

        Raises:
          BusyError: If it did not run, because another run used the directory.
        """
        state.launched = None
        if status == Outcome.BUSY.exit_status:
            self._save(state)
            raise BusyError(f"a run is using the output directory {self.directory.root}")
        record = close_record(self.directory, launched, status, self.clock)
        if record.outcome == Outcome.INTERRUPTED:
            self._save(state)
            self.say(f"Run {launched.run_id} was interrupted.")
            return Outcome.INTERRUPTED
        attempt = Attempt(
            record.outcome,
            launched.number,
            self.clock.now(),
            launched.run_id,
            record.reasons,
            record.lasting,
        )
        for name in launched.subjects:
            remember(state.attempts, name, attempt)
        if record.outcome != Outcome.FAILED and launched.alarm:
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

    def _tell(self, state: State) -> None:
        """Tells the hooks what they were not told yet; once more, if this is killed meanwhile."""
        if state.untold is not None:
            self.hooks.tell(state.untold, self.say)
            state.untold = None
            self._save(state)

    def _model_name(self) -> str | None:
        """The model's name for servers as its last run had it, else the name of its folder."""
        owner = owner_of(self.directory)
        return owner.names[-1] if owner and owner.names else self.directory.model or None

    def _save(self, state: State) -> None:
        state.write(self.directory.schedule)


def _message(outcome: Outcome, **facts: Any) -> dict[str, Any]:
    """What the hooks are told."""
    names = ("model", "version", "reasons", "why", "run_id", "log", "started", "ended", "months")
    return {"outcome": outcome, **{name: facts.get(name) for name in (*names, "attempt")}}
