"""Runs programs of the project in processes forked from one that has TFX imported.

Each process of pytest has one such server. A program starts at once, and so do the processes that
it forks itself, as the local runner does for its nodes: they come from the same server. What is
about starting, such as imports, streams and Ctrl-C, is tested with `subprocess` instead.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import psutil

from orchestration.local import dag_runner
from orchestration.local.dag_runner import start_fork_server
from orchestration.local.node_process import redirect_output

PROJECT = Path(__file__).parents[1]
# The first, since IPython, which TFMA imports, has a package of its own named `tests`.
_PRELOAD = (__name__, "local_runner", "pipeline.pipeline", "kfp.components", "kfp.local")
_LONGEST = 600.0


def start_server() -> psutil.Process:
    """Starts the server, unless this process has one."""
    state = forkserver._forkserver
    if state._forkserver_pid is None:  # type: ignore[attr-defined]
        preload = dag_runner.PRELOAD
        dag_runner.PRELOAD = [*_PRELOAD[:1], *preload, *_PRELOAD[1:]]
        try:
            start_fork_server(Path(os.devnull))
        finally:
            dag_runner.PRELOAD = preload
    return psutil.Process(state._forkserver_pid)  # type: ignore[attr-defined]


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


def _run(command: list[str], screen: str, environment: dict[str, str]) -> None:
    os.chdir(PROJECT)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # That of the server, until here.
    redirect_output(screen)
    # The server that this process comes from; Python would start another one.
    forkserver._forkserver.ensure_running = lambda: None  # type: ignore[method-assign]
    forkserver.ensure_running = lambda: None
    sys.argv = command
    runpy.run_path(command[0], run_name="__main__")
