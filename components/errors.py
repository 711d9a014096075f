"""Errors whose message alone tells a person what is wrong, where, and what is allowed."""

from __future__ import annotations

import re


class UserError(Exception):
    """Something the person running the pipeline can mend; shown without a traceback."""


class DataError(UserError):
    """The data is missing, unreadable, or not what the schema describes."""


class BlockingAnomalies(UserError):
    """The data gate found anomalies that stop the run."""


def from_worker_traceback(text: str) -> UserError | None:
    """Recovers the `UserError` behind a failed Beam pipeline.

    A Beam runner hands back an exception of a worker only as the text of its traceback.

    Args:
      text: The message of the exception that the Beam runner raised.

    Returns:
      The last `UserError` that the traceback names, or None if there is none.
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
    return kinds[name](message)
