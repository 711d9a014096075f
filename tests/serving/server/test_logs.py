"""Tests that each line of the log is a JSON object, whatever it tells."""

from __future__ import annotations

import json
import re
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from serving.server.errors import ServingError, invalid
from tests.conftest import PROJECT

SCRIPT = """
import logging, os, sys
import tensorflow
from serving.server.logs import log_event, start_logging
start_logging()
log_event("said", text="delayed\\u2028\\ud800\\n\\0", number=7, none=None)
logging.getLogger("a.library").warning("a warning of %s", "a library")
logging.getLogger("a.library").info("not told")
logging.getLogger("uvicorn.error").warning("not told")
tensorflow.get_logger().error("an error of TensorFlow")
tensorflow.get_logger().warning("not told")
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("serving.server").exception("unforeseen")
"""


def test_every_line_is_an_object_and_nothing_goes_to_the_standard_error() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=PROJECT,
        env={
            "PATH": "",
            "LC_ALL": "C",
            "PYTHONCOERCECLOCALE": "0",
            "PYTHONUTF8": "0",
            "TF_CPP_MIN_LOG_LEVEL": "3",
        },
        capture_output=True,
        check=True,
    )
    said, warning, error, unforeseen = map(json.loads, done.stdout.splitlines())
    assert said["text"] == "delayed\u2028\ud800\n\0"
    assert (said["event"], said["level"], said["number"], said["none"]) == ("said", "info", 7, None)
    assert (warning["event"], warning["level"]) == ("a warning of a library", "warning")
    assert error["event"] == "an error of TensorFlow"
    assert unforeseen["traceback"].splitlines()[-1].startswith("ZeroDivisionError")
    assert not re.search(b"Logging error|an error of TensorFlow|Traceback", done.stderr)


@given(st.text(st.characters(exclude_categories=())))
def test_any_message_of_an_error_can_be_sent_by_grpc(text: str) -> None:
    """Which takes UTF-8, sends three bytes for each that is not ASCII, and 8 KB at most."""
    message = invalid(text).message
    assert len(message.encode()) * 3 < 8000
    if len(text) < 100 and not any("\ud800" <= c <= "\udfff" for c in text):
        assert message == text


def test_a_long_message_keeps_its_beginning() -> None:
    error: ServingError = invalid(f"input {10_000 * 'ä'}")
    assert error.message.startswith(f"input {900 * 'ä'}")
    assert str(error) == error.message
    assert len(error.message) < 1100
