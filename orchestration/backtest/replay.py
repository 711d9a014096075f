"""Lives through past months as the schedule would have, and shows what retraining was worth.

A *life* is a run for each month, one after the other, into an output directory of its own. What was
lived is kept after each month, so a life that was stopped goes on where it was.

Imports neither TFX nor TensorFlow.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from rich.table import Table
from rich.text import Text

from orchestration.local.helper_process import Helper, HelperError
from orchestration.local.history import (
    INTERRUPTED,
    NOT_BLESSED,
    NOTHING_NEW,
    PUSHED,
    STOPPED_BY_GATE,
    RunRecord,
    list_runs,
)
from orchestration.local.output_directory import OutputDirectory, write_whole
from storage.errors import UserError

STATE_FILE = "replay.json"

_LIVED = (PUSHED, NOTHING_NEW, NOT_BLESSED, STOPPED_BY_GATE)
_MEASURE = "orchestration.backtest.measurement.measure"
_AUCS = {
    "new_auc": "new model",
    "served_auc": "served model",
    "first_auc": "without retraining",
    "reference_auc": "gradient boosting",
}


class ForeignDirectoryError(UserError):
    """The directory holds something else than this very replay."""


@dataclass(frozen=True)
class Month:
    """What came of one month.

    Attributes:
      month: The month, YYYYMM, that the run judged on.
      run_id: The run; "" if it left no record.
      outcome: As `RunRecord` has it.
      version: The version that it pushed, or None.
      reasons: Why it ended as it did, in lines for a person.
      seconds: What the run took.
      new_auc: AUC of its model on the month; None where there is none.
      served_version: The version that was served on the month; None if there was none.
      served_auc: AUC of that version.
      first_auc: AUC of the first version that was ever pushed: what would have been served had it
        never been retrained.
      reference_auc: AUC of the reference that is no part of the pipeline; None if it failed.
      drift: Feature, drift and limit of the feature that came nearest to its limit.
    """

    month: int
    run_id: str
    outcome: str
    version: int | None = None
    reasons: tuple[str, ...] = ()
    seconds: float = 0.0
    new_auc: float | None = None
    served_version: int | None = None
    served_auc: float | None = None
    first_auc: float | None = None
    reference_auc: float | None = None
    drift: tuple[str, float, float] | None = None

    @property
    def is_lived(self) -> bool:
        """Whether the run came to a decision."""
        return self.outcome in _LIVED

    @property
    def decision(self) -> str:
        """What the run decided, and why."""
        if self.outcome == PUSHED:
            return f"pushed version {self.version}"
        return "\n".join([self.outcome, *self.reasons])


@dataclass(frozen=True)
class _State:
    """What is kept of a life: what identifies each of its months, and what came of them so far."""

    run_keys: dict[int, str]
    months: list[Month] = field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Life:
    """Months that are lived through with the same settings.

    Attributes:
      name: Distinguishes it from others.
      directory: Where its runs go.
      run_keys: What identifies data, configuration and code of each month; oldest first.
      run: Runs a month.
      served: Version and run key of what is served now; None if nothing is.
      reference: Import path of the reference, which returns an AUC, and its arguments by month.
      label: Name of the label.
      prepare: Called before the first month that is not lived yet; starts the fork server.
      say: Says what is going on, a line each.
    """

    name: str
    directory: OutputDirectory
    run_keys: Mapping[int, str]
    run: Callable[[int], RunRecord]
    served: Callable[[], tuple[int, str] | None]
    reference: tuple[str, Mapping[int, tuple[Any, ...]]]
    label: str
    prepare: Callable[[], None]
    say: Callable[[str], None]

    def check(self) -> None:
        """Finds out whether the directory may be used.

        Raises:
          ForeignDirectoryError: If it holds something else than the beginning of this life.
        """
        self._read()

    def live(self, known_references: dict[tuple[Any, ...], float]) -> list[Month]:
        """Lives through the months, but for those that are lived through already.

        Args:
          known_references: Results of the reference by its arguments; added to.

        Returns:
          The months, up to the first one whose run failed.

        Raises:
          BusyError: If a run is using the directory.
          ForeignDirectoryError: See `check`.
          HelperError: If a finished run could not be measured.
          KeyboardInterrupt: If it was stopped.
        """
        with self.directory.locked():
            state = self._read()
            state = _State({**state.run_keys, **self.run_keys}, state.months)
            self._write(state)
            wanted = list(self.run_keys)
            for number, month in enumerate(wanted, 1):
                arguments = self.reference[1][month]
                if number > len(state.months):
                    self.say(f"{self.name}: {month}, {number} of {len(wanted)}")
                    lived = self._live_month(month, state.months, known_references.get(arguments))
                    if not lived.is_lived:
                        return [*state.months, lived]
                    state.months.append(lived)
                    self._write(state)
                if (auc := state.months[number - 1].reference_auc) is not None:
                    known_references[arguments] = auc
        return state.months[: len(wanted)]

    def _read(self) -> _State:
        path = self.directory.root / STATE_FILE
        advice = "choose another directory by --output"
        try:
            state = TypeAdapter(_State).validate_json(path.read_bytes())
        except FileNotFoundError:
            state = _State({})
        except (ValidationError, OSError) as error:
            raise ForeignDirectoryError(f"{path} cannot be read; {advice}: {error}") from error
        if state.run_keys and min(state.run_keys) != min(self.run_keys):
            raise ForeignDirectoryError(
                f"{self.directory.root} holds a replay from {min(state.run_keys)} on, not from "
                f"{min(self.run_keys)}; {advice}"
            )
        for month, key in self.run_keys.items():
            if state.run_keys.get(month, key) != key:
                raise ForeignDirectoryError(
                    f"{self.directory.root} holds a replay with another configuration, code or "
                    f"data (of {month}); {advice}"
                )
        keys = {*state.run_keys.values(), *self.run_keys.values()}
        for record in list_runs(self.directory):
            if record.run_key and record.run_key not in keys:
                raise ForeignDirectoryError(
                    f"{self.directory.root} holds the run {record.run_id}, which is not of this "
                    f"replay; {advice}"
                )
        if not state.run_keys and (served := self.served()):
            raise ForeignDirectoryError(
                f"{self.directory.root} serves version {served[0]} before the first month; {advice}"
            )
        return state

    def _write(self, state: _State) -> None:
        text = json.dumps(dataclasses.asdict(state), indent=2, ensure_ascii=False)
        write_whole(self.directory.root / STATE_FILE, text + "\n")

    def _live_month(self, month: int, before: list[Month], reference: float | None) -> Month:
        self.prepare()
        logs = self.directory.logs("replay")
        logs.mkdir(parents=True, exist_ok=True)
        log = str(logs / f"{month}.log")
        beside = None
        if reference is None:
            # The nodes of a run leave much of a second core idle.
            beside = Helper(self.reference[0], self.reference[1][month], log)
        try:
            record = self._find_lived(month) or self.run(month)
            if record.outcome == INTERRUPTED:
                raise KeyboardInterrupt
            lived = Month(
                month=month,
                run_id=record.run_id,
                outcome=record.outcome,
                version=record.version,
                reasons=record.reasons,
                seconds=_seconds(record),
            )
            if not lived.is_lived:
                return lived
            pushed = [m for m in before if m.outcome == PUSHED]
            first = (pushed[0].version, pushed[0].run_id) if pushed else None
            files = (str(self.directory.metadata), str(self.directory.metadata_lock))
            measuring = Helper(_MEASURE, (*files, record.run_id, first, self.label), log)
            try:
                measured = dataclasses.asdict(measuring.result())
            finally:
                measuring.stop()
            if beside:
                try:
                    reference = beside.result()
                except HelperError as error:  # What the gate stopped may be of no use to it either.
                    self.say(f"no reference for {month}: {error}")
            return dataclasses.replace(lived, reference_auc=reference, **measured)
        finally:
            if beside:
                beside.stop()

    def _find_lived(self, month: int) -> RunRecord | None:
        """The record of a run for the month that came to a decision before the replay was stopped.

        A run that was killed right after its push left a record that does not know of it.
        """
        key = self.run_keys[month]
        records = [r for r in list_runs(self.directory) if r.run_key == key]
        decided = [r for r in records if r.outcome in _LIVED]
        served = self.served()
        if not decided and records and served and served[1] == key:
            return dataclasses.replace(records[0], outcome=PUSHED, version=served[0])
        return decided[0] if decided else None


def parse_variant(text: str) -> tuple[str, list[str]]:
    """Reads `NAME:KEY=VALUE[,KEY=VALUE]...`; a comma inside a list does not end a value.

    Returns:
      The name, and the settings.

    Raises:
      ValueError: If it is not of that form.
    """
    name, _, settings = text.partition(":")
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name) or "=" not in settings:
        raise ValueError(
            f"{text!r}: NAME:KEY=VALUE[,KEY=VALUE] is expected, as in few:data.window=2"
        )
    return name, re.split(r",(?=[\w.]+=)", settings)


def make_table(lives: Mapping[str, Sequence[Month]]) -> Table:
    """A row for each month of each life, and the means over months that have all AUCs."""
    table = Table(title="AUC on each month", title_justify="left", box=None, pad_edge=False)
    several = len(lives) > 1
    if several:
        table.add_column("settings", no_wrap=True)
    table.add_column("month", no_wrap=True)
    for label in _AUCS.values():
        table.add_column(label, justify="right")
    table.add_column("drift nearest its limit", overflow="fold")
    table.add_column("decision", overflow="fold")
    for name, months in lives.items():
        for row in months:
            values = (_show(getattr(row, key)) for key in _AUCS)
            style = "" if row.outcome == PUSHED else "yellow"
            texts = (_show_drift(row.drift), Text(row.decision, style))
            table.add_row(*[name] * several, str(row.month), *values, *texts)
        means = mean_aucs(months)
        if means:
            values = (_show(means[key]) for key in _AUCS)
            table.add_row(*[name] * several, "mean", *values, style="bold", end_section=True)
    return table


def mean_aucs(months: Iterable[Month]) -> dict[str, float]:
    """The mean of each AUC over the months that have all of them; empty if none has."""
    whole = [m for m in months if all(getattr(m, key) is not None for key in _AUCS)]
    return {key: sum(getattr(m, key) for m in whole) / len(whole) for key in _AUCS if whole}


def conclusion(lives: Mapping[str, Sequence[Month]]) -> list[str]:
    """What retraining was worth, a line for each life in which another version came to serve."""
    lines = []
    for name, months in lives.items():
        means = mean_aucs(months)
        if means and len({m.served_version for m in months} - {None}) > 1:
            gain = means["served_auc"] - means["first_auc"]
            lines.append(
                f"{f'{name}: ' * (len(lives) > 1)}the served model, retrained each month, had an "
                f"AUC of {means['served_auc']:.4f}, the first one would have had "
                f"{means['first_auc']:.4f}: retraining was worth {gain:+.4f}."
            )
    return lines


def write_csv(lives: Mapping[str, Sequence[Month]], path: Path) -> None:
    """Writes a line for each month of each life."""
    text = io.StringIO()
    names = [f.name for f in dataclasses.fields(Month) if f.name not in ("reasons", "drift")]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["settings", *names, "drift_feature", "drift", "drift_limit", "reasons"])
    for name, months in lives.items():
        for row in months:
            values = [getattr(row, key) for key in names]
            drift = row.drift or ("", "", "")
            writer.writerow([name, *values, *drift, "; ".join(row.reasons)])
    write_whole(path, text.getvalue())


def _show(auc: float | None) -> str:
    return "-" if auc is None else f"{auc:.4f}"


def _show_drift(drift: tuple[str, float, float] | None) -> str:
    return "-" if drift is None else f"{drift[0]} {drift[1]:.2g} of {drift[2]:g}"


def _seconds(record: RunRecord) -> float:
    if not (record.started and record.ended):
        return 0.0
    took = datetime.fromisoformat(record.ended) - datetime.fromisoformat(record.started)
    return took.total_seconds()
