"""The outcomes of commands, with their exit statuses.

Records, schedule, hooks, help texts and both runners take names and numbers from here.
"""

from __future__ import annotations

import signal
from enum import StrEnum

# Of click, for wrong usage; of the runners also for a configuration that is not allowed.
USAGE_STATUS = 2


class Outcome(StrEnum):
    """The outcome of a run, a firing of the schedule or another command.

    Attributes:
      exit_status: Exit status of the command.
      meaning: What it means, for a person.

    Examples:
      >>> Outcome("not blessed").exit_status
      4
      >>> str(Outcome.STOPPED_BY_GATE)
      'stopped by the gate'
    """

    exit_status: int
    meaning: str

    def __new__(cls, value: str, exit_status: int = 1, meaning: str = "") -> Outcome:
        """Makes a member, which is the string `value`."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.exit_status = exit_status
        member.meaning = meaning
        return member

    PUSHED = "pushed", 0, "a version was pushed"
    NOTHING_NEW = "nothing new", 0, "there is nothing new"
    PROMOTED = "promoted", 0, "the challenger is the champion now"
    ROLLED_BACK = "rolled back", 0, "the challenger was rolled back"
    WAITING = "waiting", 0, "the data is not complete yet"
    DECIDED = "decided", 0, "all months were run, with any outcome"
    SAME = "same", 0, "all files are the same"
    CLEAN = "clean", 0, "everything unneeded is deleted"
    NO_ALARM = "no alarm", 0, "no alarm"
    PREDICTED = "predicted", 0, "the table is predicted"
    FAILED = "failed", 1, "failed"
    STOPPED_BY_GATE = "stopped by the gate", 3, "stopped by DataGate"
    NOT_BLESSED = "not blessed", 4, "not blessed"
    ALARM = "alarm", 5, "alarm"
    DIFFERENT = "different", 6, "a file differs"
    # EX_TEMPFAIL of sysexits.h: try again later.
    BUSY = "busy", 75, "another run is using the output directory"
    # As a shell reports a process that SIGINT ended.
    INTERRUPTED = "interrupted", 130, "stopped by Ctrl-C or SIGTERM"
    # Of records alone; no command ends so.
    RUNNING = "running", 1, "still running"
    KILLED = "killed", 1, "the run was killed: its record is unfinished"
    UNKNOWN = "unknown", 1, "there is no record that can be read"

    @classmethod
    def of_exit_status(cls, status: int) -> Outcome:
        """The outcome of a `run` that left no record, from the exit status of its process.

        Args:
          status: As `subprocess` has it: negative for a signal.

        Examples:
          >>> Outcome.of_exit_status(0)
          <Outcome.NOTHING_NEW: 'nothing new'>
          >>> Outcome.of_exit_status(-15)
          <Outcome.INTERRUPTED: 'interrupted'>
        """
        if status in (-signal.SIGINT, -signal.SIGTERM):
            return cls.INTERRUPTED
        told = (cls.NOTHING_NEW, cls.STOPPED_BY_GATE, cls.NOT_BLESSED, cls.BUSY, cls.INTERRUPTED)
        return next((outcome for outcome in told if outcome.exit_status == status), cls.FAILED)
