"""Tests that a process which waits ends by a signal, whenever it comes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from terminal.signals import StopSignal

PROJECT = Path(__file__).parents[1]

# Sends SIGTERM to itself before the step of `wait` with this number, of all that it calls too, and
# waits again.
PROGRAM = """
import signal, sys
from terminal.signals import StopSignal

def trace(frame, event, _):
    global left
    frame.f_trace_opcodes = True
    if event == "opcode":
        left -= 1
        if left == 0:
            signal.raise_signal(signal.SIGTERM)
    return trace

for step in range(1, 100_000):
    stop, left = StopSignal(), step
    sys.settrace(trace)
    stop.wait(0)
    sys.settrace(None)
    assert bool(stop) == (left <= 0)
    if not stop:
        break
    assert stop.wait(60)
print(step)
"""


@pytest.fixture
def stop() -> Iterator[StopSignal]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield StopSignal()
    for number, handler in before.items():
        signal.signal(number, handler)


def test_stop_signal_reaches_who_waits_between_any_two_steps_of_waiting() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, cwd=PROJECT
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 50


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_signal_wakes_all_threads_that_wait(stop: StopSignal, number: signal.Signals) -> None:
    woken: list[bool] = []
    threads = [threading.Thread(target=lambda: woken.append(stop.wait(60))) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert not stop
    assert not stop.wait(0.01)
    os.kill(os.getpid(), number)
    assert stop.wait(60)
    for thread in threads:
        thread.join(60)
    assert woken == [True] * 3
