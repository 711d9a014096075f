"""Ends a command that runs a pipeline: shows what went wrong, and exits with its status."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from rich.console import Console

from orchestration.local.display import show_error
from orchestration.local.output_directory import BusyError
from orchestration.outcome import Outcome
from storage.errors import UserError

Work = Callable[[], Outcome]


def finish(console: Console, work: Work, stopped: str = "") -> NoReturn:
    """Does the work of a command and exits with the status of its outcome.

    Args:
      console: Where to show what went wrong.
      work: The work; SIGTERM stops it as Ctrl-C does.
      stopped: What to show when it is stopped.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        outcome = work()
    except BusyError as error:
        show_error(console, str(error))
        outcome = Outcome.BUSY
    except UserError as error:
        show_error(console, str(error))
        outcome = Outcome.FAILED
    except KeyboardInterrupt:
        if stopped:
            console.print(stopped)
        outcome = Outcome.INTERRUPTED
    sys.exit(outcome.exit_status)
