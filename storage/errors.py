"""Errors whose messages say what is wrong, where, and what to do."""

from __future__ import annotations

import builtins
import itertools
import re
import sys

_OS_ERRORS = "|".join(
    name
    for name, kind in vars(builtins).items()
    if isinstance(kind, type) and issubclass(kind, OSError)
)
_LONGEST_DETAIL = 400


class UserError(Exception):
    """An error that the person running the pipeline can fix; shown without a traceback."""


class DataError(UserError):
    """The data is missing, unreadable, or not what the schema describes."""


class SurroundingsError(UserError):
    """Keys, a store or the Serving directory are unusable.

    Fixing them changes neither the data nor the configuration nor the code of a run.
    """


class ApiError(UserError):
    """Something that the API of another program refused, or did not answer.

    Attributes:
      status: HTTP status of the response; 0 if there was none.
      unsure: Whether the request may have been carried out nevertheless.
      passing: Whether the same request may succeed later.
    """

    def __init__(
        self, message: str, *, status: int = 0, unsure: bool = False, passing: bool = False
    ) -> None:
        super().__init__(message)
        self.status = status
        self.unsure = unsure
        self.passing = passing


class BlockingAnomalies(UserError):
    """The data gate found anomalies that stop the run."""


def lasts(error: BaseException) -> bool:
    """Whether a failed run would fail again in the same way.

    A `UserError` lasts until it is fixed. Not so a `SurroundingsError`, since nothing shows when
    the surroundings are fixed, nor an error of files, network or time, which may pass by itself,
    nor an unforeseen error.
    """
    if not isinstance(error, UserError) or isinstance(error, SurroundingsError):
        return False
    cause = error.__cause__
    while cause:
        if isinstance(cause, OSError):  # A TimeoutError is one.
            return False
        cause = cause.__cause__
    return True


def one_line(said: object) -> str:
    """What an error, or another program, says: without line breaks, cut where it is long.

    Example:
      >>> one_line(ValueError("no such\\n  host."))
      'no such host'
    """
    line = " ".join(str(said).split()).rstrip(".")
    return line if len(line) <= _LONGEST_DETAIL else f"{line[:_LONGEST_DETAIL]} …"


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


_ENDPOINT = "--job_endpoint in beam_args"
_TRACEBACK = "Traceback (most recent call last):\n"
_FAILED_JOB = re.compile(r"Pipeline \S+ failed in state \w+: ")


def failure_of_job(error: BaseException) -> str | None:
    """Tells in one line why a job failed that was handed to Flink or another job server.

    Args:
      error: What Beam raised: an error of gRPC, or one with the text of an exception of Java in
        which the traceback of a worker may stand.

    Returns:
      The exception at the bottom of it, or None if the error is of another kind.
    """
    # In the process of a node, that of a job server, gRPC is there already.
    grpc = sys.modules.get("grpc")
    if grpc and isinstance(error, grpc.FutureTimeoutError):
        return f"Beam's job server does not answer: look at {_ENDPOINT}"
    if grpc and isinstance(error, grpc.RpcError) and isinstance(error, grpc.Call):
        said = " ".join(f"{error.code().name}: {error.details()}".split())
        if error.code() == grpc.StatusCode.UNAVAILABLE:
            return f"Beam's job server has gone ({said}): look at its log, and at {_ENDPOINT}"
        return f"the job server, or what it calls, failed: {said}"
    found = _FAILED_JOB.match(str(error))
    if not found:
        return None
    text = str(error)[found.end() :]
    if _TRACEBACK in text:  # A worker's; the last one, since the others are what led to it.
        lines = text.rpartition(_TRACEBACK)[2].splitlines()
        lines = list(itertools.dropwhile(lambda line: line.startswith(" "), lines))
        raised = itertools.takewhile(lambda line: not _of_java(line), lines)
        return " ".join(" ".join(raised).split()) or None
    causes = [line for line in text.splitlines() if line.startswith("Caused by: ")]
    return (causes[-1].removeprefix("Caused by: ") if causes else text.splitlines()[0]) or None


def _of_java(line: str) -> bool:
    return line.startswith(("\tat ", "\t... ", "Caused by: "))
