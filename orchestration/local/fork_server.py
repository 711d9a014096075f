"""The server that node processes are forked from, with the libraries imported that they need."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import tempfile
from collections.abc import Iterator
from multiprocessing import util
from pathlib import Path

import psutil

from orchestration.hash_seed import HASH_SEED, HASH_SEED_VARIABLE
from storage.errors import SurroundingsError

# Imported once, in the server that node processes are forked from. The server itself only imports:
# a process that has started TensorFlow's threads cannot be forked safely.
PRELOAD = [
    "orchestration.local.preloading",
    "tfx.v1",
    "tensorflow",
    "tf_keras",
    "tensorflow_model_analysis",
    "tensorflow_model_optimization",
    "sklearn.metrics",
    "pipeline.pipeline",
    "orchestration.local.tfx_internals",
    "orchestration.local.summaries",
    "orchestration.local.beam_specs",
]

# Of 107 bytes of a socket's path, `multiprocessing` adds 31.
_LONGEST_SOCKET_FOLDER = 70


@contextlib.contextmanager
def fork_server(log_path: Path) -> Iterator[None]:
    """Has a server as long as the context lasts, as `start_fork_server` starts it.

    One that was there before stays. Another would go on importing after this process has ended.
    """
    before = psutil.Process().children()
    try:
        start_fork_server(log_path)
        yield
    finally:
        for process in psutil.Process().children():
            if process not in before:
                process.terminate()


def start_fork_server(log_path: Path) -> None:
    """Starts importing the libraries that node processes need, in the background.

    Args:
      log_path: File that takes what the libraries print while they are imported; its folder is
        made.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    from multiprocessing import forkserver

    _place_sockets()
    # Of the server and so of all that is forked from it, and of what these start.
    os.environ[HASH_SEED_VARIABLE] = HASH_SEED
    log_path.parent.mkdir(parents=True, exist_ok=True)
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    kept = [os.dup(1), os.dup(2)]
    try:
        os.dup2(log, 1)
        os.dup2(log, 2)
        forkserver.ensure_running()
    finally:
        for descriptor, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, descriptor)
            os.close(copy)
        os.close(log)


def _place_sockets() -> None:
    """Chooses a folder for the sockets of `multiprocessing`, whose paths must be short.

    Raises:
      UserError: If there is none.
    """
    kept = tempfile.tempdir
    try:
        for folder in (tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm"):
            if len(os.fsencode(folder)) <= _LONGEST_SOCKET_FOLDER and os.access(folder, os.W_OK):
                tempfile.tempdir = folder
                util.get_temp_dir()  # Makes a folder there, and remembers it.
                return
    finally:
        tempfile.tempdir = kept
    raise SurroundingsError(
        f"TMPDIR is {tempfile.gettempdir()}, which is too long for sockets, and /tmp cannot be "
        f"written: set TMPDIR to a path of at most {_LONGEST_SOCKET_FOLDER} bytes"
    )
