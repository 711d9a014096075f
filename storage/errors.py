"""Errors whose message alone tells a person what is wrong, where, and what is allowed."""

from __future__ import annotations

import builtins
import re

_OS_ERRORS = "|".join(
    name
    for name, kind in vars(builtins).items()
    if isinstance(kind, type) and issubclass(kind, OSError)
)


class UserError(Exception):
    """Something the person running the pipeline can mend; shown without a traceback."""


class DataError(UserError):
    """The data is missing, unreadable, or not what the schema describes."""


class SurroundingsError(UserError):
    """Keys, a store or the Serving directory are not as they have to be.

    Mending them changes neither the data nor the configuration nor the code of a run.
    """


class BlockingAnomalies(UserError):
    """The data gate found anomalies that stop the run."""


def lasts(error: BaseException) -> bool:
    """Whether a failure comes back whenever the same is tried again.

    What a person can mend stays until somebody has; but nobody sees when the surroundings are
    mended, and where its cause is an error of files, network or time, it may pass by itself. So may
    all that nobody foresaw.
    """
    if not isinstance(error, UserError) or isinstance(error, SurroundingsError):
        return False
    cause = error.__cause__
    while cause:
        if isinstance(cause, OSError):  # A TimeoutError is one.
            return False
        cause = cause.__cause__
    return True


def from_worker_traceback(text: str) -> UserError | None:
    """Recovers the `UserError` behind a failed Beam pipeline.

    A Beam runner hands back an exception of a worker only as the text of its traceback.

    Args:
      text: The message of the exception that the Beam runner raised.

    Returns:
      The last `UserError` that the traceback names, or None if there is none; with an `OSError` as
      its cause if the traceback names one.
    """
    kinds = {kind.__name__: kind for kind in (UserError, DataError, BlockingAnomalies)}
    # A message ends where Beam adds the step, where the next traceback begins, or with the text.
    end = r" \[while running |\n\n(?:During handling|The above exception)|\s*\Z"
    found = re.findall(
        rf"{re.escape(__name__)}\.({'|'.join(kinds)}): (.+?)(?={end})", text, flags=re.DOTALL
    )
    if not found:
        return None
    name, message = found[-1]
    error = kinds[name](message)
    failed = re.search(rf"\b(?:{_OS_ERRORS}|\w*(?:Connection|Timeout)\w*Error): .*", text)
    if failed:
        error.__cause__ = OSError(failed[0])
    return error
