"""Whether a run of a schedule has something to train on: data that is new, or an alarm.

`SpanExampleGen` looks, and passes on what it found. If that is nothing, the back end skips
`StatisticsGen`, by the condition of its task, and omits all tasks that need it: the run ends as
SUCCEEDED. Otherwise `Pusher` notes, at the end, what the run was about.

The back end decides after `backend/src/v2` of Kubeflow Pipelines: `driver/container.go` evaluates
`triggerPolicy.condition`, `compiler/argocompiler/dag.go` makes it the `when` of the task, and has
each task depend on the success of those before it.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from orchestration.local.output_directory import OutputDirectory
from orchestration.schedule.alarms import waiting_alarm
from orchestration.schedule.state import State, remember
from storage.errors import one_line
from storage.spans import DataSource, resolve_window

# The environment variable that names the directory in which runs of a model leave notes.
STATE_VARIABLE = "FLIGHTDECK_KUBEFLOW_STATE"

# The task that looks, the task that has a condition, and the task that notes.
FIRST, CONDITIONAL, LAST = "SpanExampleGen", "StatisticsGen", "Pusher"
# Parameter of the run: what `run_key` returned; "" to train in any case.
ONLY_IF_NEW = "only_if_new"
# Parameter that the first task passes to the two others.
NEWS = "news"
NOTHING = "nothing new"
_NOT_ASKED = "not asked"
CONDITION = f"inputs.parameter_values['{NEWS}'] != '{NOTHING}'"


@dataclass(frozen=True)
class _Subject:
    """What a run is about.

    Attributes:
      key: Identifies the package and the parameters.
      data: Fingerprint of the window.
      alarm: Id of the alarm that it obeys, or "".
    """

    key: str
    data: str
    alarm: str


def run_key(version: str, values: Mapping[str, Any]) -> str:
    """Identifies a package and the values of its parameters.

    Args:
      version: Digest of the package.
      values: The values of all parameters.
    """
    text = json.dumps([version, {**values, ONLY_IF_NEW: ""}], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def state_directory() -> OutputDirectory | None:
    """Where runs leave notes; None if nothing is kept."""
    path = os.environ.get(STATE_VARIABLE)
    return OutputDirectory(Path(path)) if path else None


def look(key: str, parameters: Mapping[str, Any]) -> str:
    """Looks whether there is something to train on.

    Args:
      key: The parameter `only_if_new` of the run.
      parameters: Those of the task `FIRST`.

    Returns:
      `NOTHING`, or what there is, for `note`.

    Raises:
      DataError: If the data cannot be found.
    """
    directory = state_directory()
    if not key or directory is None:
        return _NOT_ASKED
    source = DataSource.of(parameters["data_uri"], parameters["layout"])
    window = resolve_window(source, int(parameters["as_of"]), int(parameters["window"]))
    try:
        state = State.read(directory.schedule, _say)
    except OSError as error:
        _say(f"warning: what is new is not known: {directory.schedule}: {one_line(error)}")
        return _NOT_ASKED
    alarm = waiting_alarm(directory, state, _say)
    if alarm is None and state.inputs.get(key) == {"data": window.fingerprint}:
        return NOTHING
    if alarm:
        _say(f"alarm {alarm.id}: {alarm.reason}")
    news = _Subject(key, window.fingerprint, alarm.id if alarm else "")
    return TypeAdapter(_Subject).dump_json(news).decode()


def note(news: str) -> None:
    """Notes that a run has ended, pushed or not, so that the next one does not train on the same.

    A run that cannot is none that failed: the next one trains again.

    Args:
      news: What `look` returned.
    """
    directory = state_directory()
    if directory is None or news == _NOT_ASKED:
        return
    try:
        subject = TypeAdapter(_Subject).validate_json(news)
        state = State.read(directory.schedule, _say)
        remember(state.inputs, subject.key, {"data": subject.data})
        state.obeyed_alarm = subject.alarm or state.obeyed_alarm
        state.write(directory.schedule)
    except (OSError, ValidationError) as error:
        _say(f"warning: the next run trains again: {directory.schedule}: {one_line(error)}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
