"""Ends the processes of nodes, and those that they started."""

from __future__ import annotations

import contextlib
import os
import signal
from multiprocessing.context import ForkServerProcess

import psutil

from orchestration.local.node_process import FAILED, NodeResult, Summary

# Time for a process to end by itself.
STOP_SECONDS = 10.0


def end(process: ForkServerProcess, seconds: float) -> None:
    """Waits for a process to end, kills it if it does not, and kills what it left behind."""
    process.join(max(0.0, seconds))
    if process.is_alive():
        kill(process)
        process.join()
    signal_group(process, signal.SIGKILL)


def kill(process: ForkServerProcess) -> None:
    """Kills a process, its group, and those that it started and that left the group."""
    family = descendants(process)
    process.kill()  # It may not have made its group yet.
    signal_group(process, signal.SIGKILL)
    kill_each(family)


def descendants(process: ForkServerProcess) -> list[psutil.Process]:
    """The processes that a process started, and those that they did."""
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def kill_each(processes: list[psutil.Process]) -> None:
    """Kills those of the processes that are still there."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def signal_group(process: ForkServerProcess, number: signal.Signals) -> None:
    """Sends a signal to a node's process and all that it started; to what there is of them."""
    assert process.pid is not None
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def death(process: ForkServerProcess) -> NodeResult:
    """What to say of a node whose process ended, or fell silent, without a result."""
    end(process, STOP_SECONDS)
    code = process.exitcode or 0
    if code >= 0:
        how = f"exited with status {code}"
    else:
        names = {number.value: number.name for number in signal.Signals}
        how = f"was killed by {names.get(-code, f'signal {-code}')}"
    return NodeResult(FAILED, Summary(f"the process of the node {how}"), "Died")
