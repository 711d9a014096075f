"""Runs one node in its own process and reports the result."""

from __future__ import annotations

import atexit
import contextlib
import importlib
import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from orchestration.local.node_facts import NodeFacts, read_facts
from orchestration.local.proxies import spare_loopback
from storage.errors import UserError, failure_of_job, from_worker_traceback, lasts

if TYPE_CHECKING:
    from tfx import v1 as tfx

COMPLETE = "complete"
CACHED = "cached"
FAILED = "failed"

_CLEAN_UP_SECONDS = 5.0


@dataclass(frozen=True)
class NodeTask:
    """The task of a node process.

    Attributes:
      node_id: Id of the node.
      pipeline: Serialized intermediate representation of the run.
      metadata_path: SQLite file of ML Metadata.
      lock_path: Lock file of ML Metadata.
      log_path: File that takes everything the process prints and logs.
      summarize: Import path of the function that makes a `Summary` from the id of a node and its
        output artifacts by key.
      environment: Environment variables to set.
      niceness: Niceness of the process over that of the runner.
    """

    node_id: str
    pipeline: bytes
    metadata_path: str
    lock_path: str
    log_path: str
    summarize: str
    environment: dict[str, str]
    niceness: int = 0


@dataclass(frozen=True)
class Summary:
    """A description of a node's outputs, for a person; decisions use `NodeFacts`.

    Attributes:
      line: One line.
      details: Further lines, worth reading after the run.
    """

    line: str
    details: tuple[str, ...] = ()


@dataclass(frozen=True)
class NodeResult:
    """The result of a node.

    Attributes:
      state: `complete`, `cached` or `failed`.
      summary: What it produced, or the error's message.
      error: Name of the error's class; empty unless failed.
      lasting: Whether it would fail again if nothing changes.
      facts: Its facts for the outcome of the run.
    """

    state: str
    summary: Summary
    error: str = ""
    lasting: bool = False
    facts: NodeFacts = field(default_factory=NodeFacts)


class Interrupted(Exception):
    """The runner asked this process to stop. Not a KeyboardInterrupt, so that TFX cleans up."""


def run_node(task: NodeTask, answer: Connection) -> None:
    """Runs one node; the target of its process.

    Sends progress lines (`str`), and at last one `NodeResult`, through `answer`.
    """
    begin()
    os.nice(task.niceness)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        redirect_output(task.log_path)
        result = _launch(task, answer)
    except (Exception, SystemExit) as error:
        result = _failure(error)
        with contextlib.suppress(OSError):  # The disk may be full.
            traceback.print_exc()
    answer.send(result)
    answer.close()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # All that is left to do is to clean up.
    clean_up()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    # The node is done; threads that its libraries left behind must not hold up the run.
    os._exit(0)


def begin() -> None:
    """What a process does first that is forked for the runner."""
    # The runner decides what Ctrl-C means. Ignored by SIG_IGN, it would be ignored by what this
    # process starts as well, and SIGINT is how Beam ends its job server.
    signal.signal(signal.SIGINT, lambda *_: None)
    os.setpgid(0, 0)  # What it starts can be ended with it.
    # TFX has absl read it for flags of Beam: `-v` of another program would be its verbosity.
    del sys.argv[1:]
    spare_loopback(os.environ)
    threading.Thread(target=_end_with_runner, daemon=True).start()


def _end_with_runner() -> None:
    """Ends this process when the runner has, however it did: another run may have the lock then."""
    runner = multiprocessing.parent_process()
    assert runner is not None
    runner.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_CLEAN_UP_SECONDS)
    os.killpg(0, signal.SIGKILL)


def redirect_output(log_path: str) -> None:
    """Sends all output of this process, that of C++ libraries included, to the end of a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]


def clean_up() -> None:
    """Lets libraries stop what they started, as they would when Python ends, but not for ever.

    Beam's job servers and temporary files go so. `os._exit` would leave them behind.
    """
    cleaning = threading.Thread(target=atexit._run_exitfuncs, daemon=True)
    cleaning.start()
    cleaning.join(_CLEAN_UP_SECONDS)


def _launch(task: NodeTask, answer: Connection) -> NodeResult:
    os.environ.update(task.environment)
    tempfile.tempdir = None  # Found out in the fork server, which has another one.
    # Imported here, in the process that the fork server has them preloaded for.
    from absl import logging as absl_logging
    from tfx.proto.orchestration import pipeline_pb2

    from ml import progress
    from orchestration.local import tfx_internals

    absl_logging.use_absl_handler()
    absl_logging.set_verbosity(absl_logging.INFO)
    logging.getLogger().setLevel(logging.INFO)
    progress.subscribe(answer.send)
    store = tfx_internals.LockedMetadata(task.metadata_path, task.lock_path)
    compiled = pipeline_pb2.Pipeline.FromString(task.pipeline)
    execution = tfx_internals.launch_node(compiled, task.node_id, store)
    outputs = tfx_internals.read_outputs(store, execution)
    state = CACHED if tfx_internals.is_cached(store, execution) else COMPLETE
    summary = describe(task.summarize, task.node_id, outputs)
    return NodeResult(state, summary, facts=read_facts(outputs.values()))


def describe(summarize: str, node_id: str, outputs: dict[str, tfx.dsl.Artifact]) -> Summary:
    """Describes what a node produced; a node whose outputs cannot be described is complete anyway.

    Args:
      summarize: Import path of what makes the summary, see `NodeTask`.
      node_id: Id of the node.
      outputs: Its output artifacts, by key.

    Returns:
      The summary, or a warning in its place.
    """
    module, _, function = summarize.rpartition(".")
    try:
        summary: Summary = getattr(importlib.import_module(module), function)(node_id, outputs)
    except Exception as error:
        logging.warning("What %s produced cannot be described", node_id, exc_info=True)
        return Summary(f"warning: no summary: {type(error).__name__}: {error}".splitlines()[0])
    return summary


def _failure(error: Exception | SystemExit) -> NodeResult:
    """Keeps the message of an error meant for a person; names the kind of any other."""
    if not isinstance(error, UserError):
        error = from_worker_traceback(str(error)) or error
    kind = type(error).__name__
    text = str(error).strip() or kind
    if isinstance(error, UserError):
        line, *details = text.splitlines()
        return NodeResult(FAILED, Summary(line, tuple(details)), kind, lasts(error))
    line = failure_of_job(error) or f"{kind}: {text.splitlines()[-1]}"
    return NodeResult(FAILED, Summary(line[:500]), kind)


def _interrupt(signum: int, frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Interrupted("stopped by the runner")
