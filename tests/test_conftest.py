"""Tests of what `conftest.py` has all tests do."""

from __future__ import annotations

import os

import pytest


def test_os_exit_fails_a_test_and_ends_processes_that_it_starts() -> None:
    with pytest.raises(pytest.fail.Exception, match=r"os\._exit\(0\) in the process of the tests"):
        os._exit(0)
    if not (child := os.fork()):
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


@pytest.mark.parametrize("content", [os.urandom(8) + b"\xff", b"text"])
def test_no_test_is_named_by_bytes_that_other_processes_may_have_otherwise(
    request: pytest.FixtureRequest, content: bytes
) -> None:
    name = "text" if content == b"text" else "content"
    assert request.node.name.endswith(f"[{name}]")
