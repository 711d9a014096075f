"""Backtests a configuration: runs past months as the schedule would have run them.

The runs have their own output directory. Results are saved after each month, so a backtest that was
stopped can continue.

Imports neither TFX nor TensorFlow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from typing import Any

from ml.tasks import Task
from orchestration.backtest.months import DECIDED, Month, Served, State
from orchestration.local.helper_process import Helper
from orchestration.local.history import RunRecord, list_runs
from orchestration.local.output_directory import OutputDirectory
from orchestration.outcome import Outcome
from pipeline.challenger_config import ChallengerConfig
from storage.errors import UserError

_MEASURE = "orchestration.backtest.measurement.measure"
_PLAY = "orchestration.backtest.played_months.play"
_ADVICE = "choose another directory by --output"


class ForeignDirectoryError(UserError):
    """The directory holds something other than this backtest."""


@dataclasses.dataclass(frozen=True)
class Backtest:
    """A run for each month, with the same settings.

    Attributes:
      name: Distinguishes it from others.
      directory: Output directory of its runs.
      run_keys: Identifies data, configuration and code of each month; oldest first.
      run_month: Runs the pipeline as of a month.
      served: Function for version and run key of the served model; None if nothing is served.
      task: The task of the model.
      prepare: Called before each run; starts the fork server.
      say: Called with each line of progress.
      time_column: Column with the time of a row; "" for none.
      challenger: How a challenger is compared with the champion.
    """

    name: str
    directory: OutputDirectory
    run_keys: Mapping[int, str]
    run_month: Callable[[int], RunRecord]
    served: Callable[[], tuple[int, str] | None]
    task: Task
    prepare: Callable[[], None]
    say: Callable[[str], None]
    time_column: str = ""
    challenger: ChallengerConfig = field(default_factory=ChallengerConfig)

    def check(self) -> None:
        """Checks that the directory can be used.

        Raises:
          ForeignDirectoryError: If it holds something other than the beginning of this backtest.
        """
        self._read()

    def run(self) -> list[Month]:
        """Runs the months that were not run before.

        Returns:
          The results by month, up to the first failed run.

        Raises:
          BusyError: If a run is using the directory.
          ForeignDirectoryError: See `check`.
          HelperError: If a finished run cannot be measured.
          KeyboardInterrupt: If it was stopped.
        """
        with self.directory.locked():
            state = self._read()
            state = State({**state.run_keys, **self.run_keys}, state.months)
            state.write(self.directory.backtest)
            wanted = list(self.run_keys)
            for number, month in enumerate(wanted, 1):
                if number > len(state.months):
                    self.say(f"{self.name}: {month}, {number} of {len(wanted)}")
                    found = self._backtest(month, state.months)
                    if not found.is_decided:
                        return [*state.months, found]
                    state.months.append(found)
                    state.write(self.directory.backtest)
        return state.months[: len(wanted)]

    def play(self, months: Sequence[Month]) -> list[Served]:
        """Plays the strategies of serving on the rows of the months.

        Raises:
          HelperError: If artifacts of the runs are gone.
        """
        self.prepare()
        logs = self.directory.logs("backtest")
        logs.mkdir(parents=True, exist_ok=True)
        rules = self.challenger.comparison
        playing = Helper(
            _PLAY,
            (
                *(str(self.directory.metadata), str(self.directory.metadata_lock), tuple(months)),
                *(self.task.to_json(), self.time_column, rules.pop("block_seconds"), rules),
                self.challenger.actions,
            ),
            str(logs / "strategies.log"),
        )
        try:
            return [Served(**one) for one in playing.result()]
        finally:
            playing.stop()

    def _read(self) -> State:
        root = self.directory.root
        try:
            state = State.read(self.directory.backtest)
        except UserError as error:
            raise ForeignDirectoryError(f"{error}; {_ADVICE}: {error.__cause__}") from error
        if state.run_keys and min(state.run_keys) != min(self.run_keys):
            raise ForeignDirectoryError(
                f"{root} holds a backtest from {min(state.run_keys)} on, not from "
                f"{min(self.run_keys)}; {_ADVICE}"
            )
        for month, key in self.run_keys.items():
            if state.run_keys.get(month, key) != key:
                raise ForeignDirectoryError(
                    f"{root} holds a backtest with another configuration, code or data (of "
                    f"{month}); {_ADVICE}"
                )
        keys = {*state.run_keys.values(), *self.run_keys.values()}
        for record in list_runs(self.directory):
            if record.run_key and record.run_key not in keys:
                raise ForeignDirectoryError(
                    f"{root} holds the run {record.run_id}, which is not of this backtest; "
                    f"{_ADVICE}"
                )
        if not state.run_keys and (served := self.served()):
            raise ForeignDirectoryError(
                f"{root} serves version {served[0]} before the first month; {_ADVICE}"
            )
        return state

    def _backtest(self, month: int, before: list[Month]) -> Month:
        self.prepare()
        logs = self.directory.logs("backtest")
        logs.mkdir(parents=True, exist_ok=True)
        record = self._find_decided(month) or self.run_month(month)
        if record.outcome == Outcome.INTERRUPTED:
            raise KeyboardInterrupt
        found = Month(
            month=month,
            run_id=record.run_id,
            outcome=record.outcome,
            version=record.version,
            reasons=record.reasons,
            seconds=record.duration or 0.0,
        )
        if not found.is_decided:
            return found
        measured = self._measure(record, before, str(logs / f"{month}.log"))
        return dataclasses.replace(found, **measured)

    def _measure(self, record: RunRecord, before: list[Month], log: str) -> dict[str, Any]:
        pushed = [month for month in before if month.outcome == Outcome.PUSHED]
        first = (pushed[0].version, pushed[0].run_id) if pushed else None
        files = (str(self.directory.metadata), str(self.directory.metadata_lock))
        measuring = Helper(_MEASURE, (*files, record.run_id, first, self.task.to_json()), log)
        try:
            return dataclasses.asdict(measuring.result())
        finally:
            measuring.stop()

    def _find_decided(self, month: int) -> RunRecord | None:
        """The record of a completed run of the month, from before the backtest was stopped.

        The record of a run that was killed right after its push lacks the version.
        """
        key = self.run_keys[month]
        records = [r for r in list_runs(self.directory) if r.run_key == key]
        decided = [r for r in records if r.outcome in DECIDED]
        served = self.served()
        if not decided and records and served and served[1] == key:
            return dataclasses.replace(records[0], outcome=Outcome.PUSHED, version=served[0])
        return decided[0] if decided else None
