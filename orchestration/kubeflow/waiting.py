"""Waits until a run is over, on Kubeflow or Vertex AI."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from orchestration.kubeflow.task_states import PENDING, TaskStatus
from storage.errors import UserError

if TYPE_CHECKING:
    from orchestration.kubeflow.runs import RunStatus

_PATIENCE = 10  # polls in a row that may fail before waiting is given up


def wait(
    look: Callable[[], RunStatus],
    final: Collection[str],
    on_change: Callable[[TaskStatus], None] | None,
    poll_seconds: float,
) -> RunStatus:
    """Looks at a run until it is over.

    Args:
      look: Looks once.
      final: States in which it is over.
      on_change: Called with a task whenever its state has changed.
      poll_seconds: Time between two looks.

    Returns:
      How it ended.

    Raises:
      UserError: What a look raised, if it does not pass, or after several in a row.
    """
    states: dict[str, str] = {}
    failures = 0
    while True:
        try:
            status = look()
        except UserError as error:
            failures += 1
            if not getattr(error, "passing", False) or failures >= _PATIENCE:
                raise
        else:
            failures = 0
            for task in status.tasks:
                if states.get(task.name, PENDING) != task.state and on_change:
                    on_change(task)
                states[task.name] = task.state
            if status.state in final:
                return status
        time.sleep(poll_seconds)
