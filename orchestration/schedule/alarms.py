"""Keeps the reports of monitoring, and raises the alarm that makes the schedule retrain."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from orchestration.local.output_directory import OutputDirectory, write_whole
from orchestration.schedule.state import Alarm, State

_REPORT = "report.json"
_PAGE = "report.html"
_NAMED = 3


class Published(NamedTuple):
    """Where a report was kept, and what was done about the alarm, in a sentence; "" without one."""

    page: Path
    said: str
    raised: bool


def waiting_alarm(
    directory: OutputDirectory, state: State, say: Callable[[str], None]
) -> Alarm | None:
    """The alarm that is on and was not obeyed yet."""
    try:
        alarm = TypeAdapter(Alarm).validate_json(directory.alarm.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError):
        say(f"{directory.alarm} is not an alarm: it is ignored.")
        return None
    return None if alarm.id == state.obeyed_alarm else alarm


def publish(directory: OutputDirectory, made: Path) -> Published:
    """Keeps a report by its period and version, and raises an alarm if it calls for one.

    What is wrong with one period raises one alarm, however often the period is looked at.

    Args:
      directory: Where local runs, and so the schedule, keep their files.
      made: Folder with the `report.json` and `report.html` of ServingMonitor.

    Returns:
      The report to look at, and whether it raised an alarm.
    """
    report = json.loads((made / _REPORT).read_text(encoding="utf-8"))
    name = f"{report['since']}_{report['until']}_{report['version']}".replace(":", "")
    folder = directory.monitoring / name
    alarm = make_alarm(report)
    said, known = "", False
    if alarm:
        known = alarm.id == _read_json(folder / _REPORT).get("alarm")
        said = f"Alarm {alarm.id} was raised before." if known else raise_alarm(directory, alarm)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(made / _PAGE, folder / _PAGE)
    # Last: what it says was raised, was.
    report["alarm"] = alarm.id if alarm else ""
    write_whole(folder / _REPORT, json.dumps(report, indent=2) + "\n")
    return Published(folder / _PAGE, said, alarm is not None and not known)


def make_alarm(report: Mapping[str, Any]) -> Alarm | None:
    """The alarm that a report of ServingMonitor calls for; its id says period, version and what.

    Args:
      report: What its `report.json` holds.
    """
    texts = report["alarms"]
    if not texts:
        return None
    wrong = sorted(
        f"{check['kind']} {check['subject']} {check['against']}"
        for check in report["checks"]
        if check["alarms"]
    )
    subject = [report["model"], report["version"], report["since"], report["until"], wrong]
    digest = hashlib.sha256(json.dumps(subject).encode()).hexdigest()[:8]
    more = f"; and {len(texts) - _NAMED} more" if len(texts) > _NAMED else ""
    reason = (
        f"requests of {report['since']} to {report['until']} to version {report['version']}: "
        f"{'; '.join(texts[:_NAMED])}{more}"
    )
    created = datetime.now(UTC).isoformat(timespec="seconds")
    return Alarm(id=f"monitor-{report['since']}-{digest}", reason=reason, created=created)


def raise_alarm(directory: OutputDirectory, alarm: Alarm) -> str:
    """Writes the alarm that the schedule is to obey.

    One that waits to be obeyed is not lost: its reason is kept in the new one, since one run
    answers both.

    Returns:
      What was done, in a sentence.
    """
    path = directory.alarm
    waiting = _read(path, Alarm)
    state = _read(directory.schedule, State) or State()
    said = f"Alarm {alarm.id} is raised: {path}"
    if waiting and waiting.id not in (alarm.id, state.obeyed_alarm):
        said += f"; it takes in {waiting.id}, which was not obeyed yet"
        alarm = Alarm(alarm.id, f"{alarm.reason}; before that, {waiting.reason}", alarm.created)
    write_whole(path, TypeAdapter(Alarm).dump_json(alarm, indent=2).decode() + "\n")
    return f"{said}."


def _read(path: Path, kind: Any) -> Any:
    """What a file holds; None if there is none, or it holds something else, as for the schedule."""
    try:
        return TypeAdapter(kind).validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
