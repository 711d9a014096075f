"""The history: a record of each run.

Imports neither TFX nor TensorFlow.
"""

from __future__ import annotations

import dataclasses
import json
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from orchestration.local.output_directory import OutputDirectory, write_whole
from orchestration.outcome import Outcome
from report.run import Setting


def _known(outcome: Any) -> Any:
    """An outcome that this version does not have, of a record that another one wrote."""
    return outcome if outcome in list(Outcome) else Outcome.UNKNOWN


@dataclass(frozen=True)
class NodeNote:
    """What a run showed of a node.

    Attributes:
      state: As in `NodeResult`.
      line: What it produced, or its error.
      details: Further lines.
    """

    state: str
    line: str = ""
    details: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunRecord:
    """The record of one run.

    Attributes:
      run_id: Identifies the run; names its record, its logs and its artifacts.
      started: When it began, ISO 8601, UTC.
      ended: When it ended; "" if it did not say.
      seconds: How long it took, whatever the clock was set to meanwhile; None if it did not say.
      outcome: How it ended.
      version: The version that it pushed, or None.
      reasons: Why it ended as it did, in lines for a person.
      months: Months of the data, by split.
      run_key: Identifies data, configuration and code.
      log: Its most useful log.
      files: Bytes of each file of the version that it pushed, by path in the Serving directory.
      lasting: Whether it would fail again if nothing changes.
      nodes: What it showed of its nodes.
      settings: The settings that differ from the engine's defaults; None if it did not say.
    """

    run_id: str
    started: str
    ended: str = ""
    seconds: float | None = None
    outcome: Annotated[Outcome, BeforeValidator(_known)] = Outcome.RUNNING
    version: int | None = None
    reasons: tuple[str, ...] = ()
    months: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    run_key: str = ""
    log: str = ""
    files: dict[str, int] = dataclasses.field(default_factory=dict)
    lasting: bool = False
    nodes: dict[str, NodeNote] = dataclasses.field(default_factory=dict)
    settings: tuple[Setting, ...] | None = None

    def write(self, directory: OutputDirectory) -> None:
        """Writes the record, over the one that the run has."""
        text = json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False)
        write_whole(_path(directory, self.run_id), text + "\n")

    @property
    def duration(self) -> float | None:
        """Seconds that it took, or its start and end lie apart; None if unknown."""
        seconds = self.seconds
        if seconds is None:
            with suppress(ValueError, TypeError):
                took = datetime.fromisoformat(self.ended) - datetime.fromisoformat(self.started)
                seconds = took.total_seconds()
        return None if seconds is None or seconds < 0 else seconds


def read_run(directory: OutputDirectory, run_id: str) -> RunRecord | None:
    """The record of a run; None if there is none, or it is not one."""
    try:
        return TypeAdapter(RunRecord).validate_json(_path(directory, run_id).read_bytes())
    except (OSError, ValidationError):
        return None


def list_runs(directory: OutputDirectory) -> list[RunRecord]:
    """All runs that left a record or logs, newest first."""
    names = {path.stem for path in directory.runs.glob("[!.]*.json")}
    names |= {path.parent.name for path in (directory.root / "logs").glob("*/runner.log")}
    in_use = directory.in_use()
    return [_read(directory, name, in_use) for name in sorted(names, reverse=True)]


def _read(directory: OutputDirectory, run_id: str, in_use: bool) -> RunRecord:
    record = read_run(directory, run_id)
    if record is None:
        return RunRecord(run_id, started="", outcome=Outcome.UNKNOWN)
    if record.outcome == Outcome.RUNNING and not in_use:
        return dataclasses.replace(record, outcome=Outcome.KILLED)
    return record


def _path(directory: OutputDirectory, run_id: str) -> Path:
    return directory.runs / f"{run_id}.json"


def now() -> str:
    """The time, as records have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
