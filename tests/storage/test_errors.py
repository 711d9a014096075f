"""Tests that the error of a Beam worker reaches a person as it was raised."""

import traceback
from itertools import pairwise

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import (
    BlockingAnomalies,
    DataError,
    SurroundingsError,
    UserError,
    failure_of_job,
    from_worker_traceback,
    lasts,
)

LINE_BREAKS = "\n\v\f\r\x1c\x1d\x1e\x85\u2028\u2029"
one_line = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters=LINE_BREAKS), min_size=1
).filter(lambda text: "[while running" not in text)


def worker_text(*errors: Exception, step: str = "Write-ptransform-7") -> str:
    """What a Beam runner says when a worker raised the last of `errors` because of the others."""
    chained = None
    for error in errors:
        error.__cause__ = chained
        chained = error
    assert chained is not None
    lines = "".join(traceback.format_exception(chained)).rstrip("\n")
    return f"bundle inst002 stage-007 failed:{lines} [while running '{step}']\n"


@pytest.mark.parametrize("kind", [UserError, DataError, BlockingAnomalies])
def test_worker_error_keeps_its_type_and_message(kind: type[UserError]) -> None:
    recovered = from_worker_traceback(worker_text(kind("a.parquet: row group 3 cannot be read")))
    assert type(recovered) is kind
    assert str(recovered) == "a.parquet: row group 3 cannot be read"


@given(one_line)
def test_worker_error_keeps_any_message_of_one_line(message: str) -> None:
    assert str(from_worker_traceback(worker_text(DataError(message)))) == message


def test_worker_error_keeps_a_message_of_several_lines() -> None:
    message = "2 blocking anomalies in the data:\n  train: temp: out of range\n  train: origin: new"
    assert str(from_worker_traceback(worker_text(BlockingAnomalies(message)))) == message


def test_worker_error_is_the_one_raised_last() -> None:
    text = worker_text(DataError("the cause"), UserError("what it meant"))
    recovered = from_worker_traceback(text)
    assert type(recovered) is UserError
    assert str(recovered) == "what it meant"


def test_worker_error_is_found_behind_another_kind() -> None:
    text = worker_text(DataError("row group 3 cannot be read"), RuntimeError("bundle failed"))
    assert str(from_worker_traceback(text)) == "row group 3 cannot be read"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "RuntimeError: worker was killed",
        "other.components.DataError: not of this project",
        worker_text(ValueError("storage.errors is only named here")),
    ],
)
def test_worker_error_is_none_for_a_failure_without_user_error(text: str) -> None:
    assert from_worker_traceback(text) is None


@pytest.mark.parametrize("kind", [DataError, BlockingAnomalies])
def test_user_error_catches_all_that_a_person_can_correct(kind: type[UserError]) -> None:
    assert issubclass(kind, UserError)


def caused(error: Exception, *causes: Exception) -> Exception:
    for effect, cause in pairwise((error, *causes)):
        effect.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "lasting"),
    [
        (UserError("no such setting"), True),
        (DataError("all labels are 0"), True),
        (BlockingAnomalies("1 blocking anomaly"), True),
        (SurroundingsError("there is no key to encrypt with"), False),
        (caused(DataError("a.parquet is no Parquet file"), ValueError("magic bytes")), True),
        (caused(DataError("a.parquet cannot be read"), OSError("input/output error")), False),
        (caused(UserError("locked"), ValueError(), TimeoutError("for 600 seconds")), False),
        (caused(DataError("a.parquet cannot be read"), ConnectionResetError()), False),
        (OSError("no space left on device"), False),
        (MemoryError(), False),
        (ValueError("math domain error"), False),
    ],
)
def test_lasts_tells_lasting_errors_from_passing_ones(error: Exception, lasting: bool) -> None:
    assert lasts(error) is lasting


@pytest.mark.parametrize(
    ("cause", "lasting"),
    [
        (ValueError("magic bytes"), True),
        (OSError("input/output error"), False),
        (PermissionError("the share is not mounted"), False),
    ],
)
def test_lasts_knows_the_cause_of_a_worker_error(cause: Exception, lasting: bool) -> None:
    text = worker_text(cause, DataError("a.parquet cannot be read"))
    recovered = from_worker_traceback(text)
    assert recovered is not None
    assert lasts(recovered) is lasting


# As Beam 2.70 with Flink 1.19 raised them.
JOB = "Pipeline BeamApp-me-1127044722-51ed_5be4c44b-017d failed in state FAILED: "
TRACEBACK = """Traceback (most recent call last):
  File "apache_beam/runners/common.py", line 1498, in apache_beam.runners.common.DoFnRunner.process
  File "/work.py", line 6, in process
    raise ValueError(text)
    ^^^^^^^^^^^^^^^^^^^^^^
"""
LOST = "org.apache.flink.runtime.jobmaster.JobMasterException: TaskManager with id a is no longer"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (f"{LOST} reachable.", f"{LOST} reachable."),
        (
            f"java.lang.RuntimeException: failed\n\tat a.B.c(B.java:1)\nCaused by: {LOST}\n"
            "\tat d.E.f(E.java:2)\n\t... 3 more",
            LOST,
        ),
        (
            "java.lang.RuntimeException: Error received from SDK harness for instruction 1: "
            + f"{TRACEBACK}KeyError: 'first'\n\nDuring handling of the above exception, another "
            f"exception occurred:\n\n{TRACEBACK}"
            "ValueError: one line\nand another [while running 'Do it']\n\n",
            "ValueError: one line and another [while running 'Do it']",
        ),
    ],
)
def test_failure_of_job_is_the_innermost_exception_in_one_line(text: str, line: str) -> None:
    assert failure_of_job(RuntimeError(JOB + text)) == line


def test_failure_of_job_ends_where_java_goes_on() -> None:
    text = f"{TRACEBACK}ValueError: bad\n\tat a.B.c(B.java:1)\nCaused by: a.B: what\n"
    assert failure_of_job(RuntimeError(JOB + text)) == "ValueError: bad"


def test_failure_of_job_tells_that_no_job_server_answers() -> None:
    channel = grpc.insecure_channel("localhost:9")
    with pytest.raises(grpc.FutureTimeoutError) as unanswered:
        grpc.channel_ready_future(channel).result(timeout=0.01)
    line = failure_of_job(unanswered.value)
    assert line
    assert line.startswith("Beam's job server does not answer")
    with pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary("/job/Run", request_serializer=bytes)(b"", timeout=5)
    line = failure_of_job(refused.value)
    assert line
    assert line.startswith("Beam's job server has gone (UNAVAILABLE: ")
    assert line.endswith("): look at its log, and at --job_endpoint in beam_args")


@pytest.mark.parametrize("error", [ValueError("bad"), RuntimeError("Pipeline failed"), OSError(2)])
def test_failure_of_job_is_none_for_any_other_error(error: Exception) -> None:
    assert failure_of_job(error) is None
