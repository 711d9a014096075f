"""What a task does when monitoring calls for a new model: it raises an alarm, and starts a run."""

from __future__ import annotations

import os
from pathlib import Path

from orchestration.kubeflow import news
from orchestration.kubeflow.errors import KubeflowError
from orchestration.schedule import alarms
from storage.errors import SurroundingsError

# Environment variables: where the API is, and the schedule of which a run is started.
API_VARIABLE = "FLIGHTDECK_KUBEFLOW_API"
SCHEDULE_VARIABLE = "FLIGHTDECK_KUBEFLOW_SCHEDULE"


def publish(report: Path) -> str:
    """Keeps a report of ServingMonitor; if it calls for that, raises the alarm and starts a run.

    The run is of the training schedule, which obeys the alarm. If it cannot be started, the next
    run of the schedule obeys it.

    Args:
      report: Folder of the report.

    Returns:
      What was done about an alarm, in sentences; "" without one, or if no state is kept.

    Raises:
      SurroundingsError: If the report cannot be kept, or the alarm not be raised.
    """
    directory = news.state_directory()
    if directory is None:
        return ""
    try:
        published = alarms.publish(directory, report)
    except OSError as error:
        raise SurroundingsError(f"the alarm cannot be raised: {error}") from error
    api, schedule = os.environ.get(API_VARIABLE), os.environ.get(SCHEDULE_VARIABLE)
    if not (published.raised and api and schedule):
        return published.said
    from orchestration.kubeflow.client import KubeflowPipelines

    try:
        run_id = KubeflowPipelines(api).start_schedule(schedule)
    except KubeflowError as error:
        return f"{published.said} No run was started: {error}"
    return f"{published.said} Run {run_id} of the schedule {schedule} was started."
