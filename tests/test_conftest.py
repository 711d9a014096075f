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
