"""Runs programs of the project in processes forked from one that has TFX imported.

Each process of pytest has one such server. A program starts at once, and so do the processes that
it forks itself, as the local runner does for its nodes: they come from the same server. What is
about starting, such as imports, streams and Ctrl-C, is tested with `subprocess` instead.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import psutil
import pytest

from orchestration.local import fork_server
from orchestration.local.fork_server import start_fork_server
from orchestration.local.node_process import redirect_output

PROJECT = Path(__file__).parents[1]
# The first, since IPython, which TFMA imports, has a package of its own named `tests`.
_PRELOAD = (
    *(__name__, "local_runner", "pipeline.pipeline", "serving.server.app"),
    *("kfp.components", "kfp.local"),
)
_LONGEST = 600.0


def start_server() -> psutil.Process:
    """Starts the server, unless this process has one."""
    state = forkserver._forkserver
    if state._forkserver_pid is None:  # type: ignore[attr-defined]
        preload = [*_PRELOAD[:1], *fork_server.PRELOAD, *_PRELOAD[1:]]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fork_server, "PRELOAD", preload)
            patch.delenv("PYTHONUNBUFFERED", raising=False)  # Not everybody's shell sets it.
            start_fork_server(Path(os.devnull))
    return psutil.Process(state._forkserver_pid)  # type: ignore[attr-defined]


class Program:
    """A program that was started, with what `subprocess.Popen` has to look at and to end it.

    Attributes:
      pid: Its process.
      stdout: What it prints.
      stderr: What it prints on standard error.
    """

    def __init__(self, command: list[str]):
        """Starts it.

        Args:
          command: Path of the program, or "-m" and the module, and its arguments.
        """
        start_server()
        pipes = [multiprocessing.Pipe(duplex=False) for _ in range(2)]
        theirs = [ends[1] for ends in pipes]
        self._process = multiprocessing.get_context("forkserver").Process(
            target=_run, args=(command, theirs, dict(os.environ))
        )
        self._process.start()
        self.pid = self._process.pid or 0
        for end in theirs:
            end.close()
        self.stdout, self.stderr = (os.fdopen(os.dup(end.fileno())) for end, _ in pipes)

    @property
    def returncode(self) -> int | None:
        """Its exit status, or the signal that ended it, negative; None if it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("the program", timeout or 0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def start(command: list[str], screen: Path) -> ForkServerProcess:
    """Starts a program.

    Args:
      command: Path of the program and its arguments.
      screen: File that takes what it prints.
    """
    start_server()
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=_run, args=(command, str(screen), dict(os.environ)))
    process.start()
    return process


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end; all that it prints is in `stdout`."""
    with tempfile.TemporaryDirectory() as folder:
        screen = Path(folder, "screen")
        process = start(command, screen)
        process.join(_LONGEST)
        if process.exitcode is None:
            process.kill()
            process.join()
        printed = screen.read_text() if screen.exists() else ""
    assert process.exitcode is not None
    return subprocess.CompletedProcess(command, process.exitcode, printed)


def _run(command: list[str], output: str | list[Connection], environment: dict[str, str]) -> None:
    os.chdir(PROJECT)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # That of the server, until here.
    if isinstance(output, str):
        redirect_output(output)
    else:
        for descriptor, end in zip((1, 2), output, strict=True):
            os.dup2(end.fileno(), descriptor)
            end.close()
    # The server that this process comes from; Python would start another one.
    forkserver._forkserver.ensure_running = lambda: None  # type: ignore[method-assign]
    forkserver.ensure_running = lambda: None
    if command[0] == "-m":
        sys.argv = command[1:]
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = command
        runpy.run_path(command[0], run_name="__main__")
