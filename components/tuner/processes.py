"""Runs trainings side by side, each in a process of its own, and keeps their results."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import psutil

from components.tuner.results import Result, Training
from components.tuner.training import LOG, Subject, train
from storage.span_store import SpanStore

# Imported once, in the server that the processes are forked from.
_PRELOAD = ["tfx.v1", "tensorflow", "tf_keras", "tensorflow_transform", "components.tuner.training"]
# The results in the store are of no single span.
_KIND, _NO_SPAN = "training", 0
_POLL_SECONDS = 1.0
_LOG_BYTES = 20_000


@dataclass
class _Running:
    """A training that runs."""

    training: Training
    process: ForkServerProcess
    answer: Connection
    began: float


class Trainings:
    """Runs trainings, as many at a time as there are cores, and keeps their results.

    What a search has trained before it was killed, the next one takes from the store.

    Args:
      subject: What is trained.
      digest: Digest of the data and the code behind it.
      seconds: Time limit of a training.
      store: Where results are kept.
    """

    def __init__(self, subject: Subject, digest: str, seconds: float, store: SpanStore):
        self._subject, self._digest = subject, digest
        self._seconds, self._store = seconds, store
        self._cores = len(os.sched_getaffinity(0))
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(_PRELOAD)

    def run(self, trainings: Sequence[Training]) -> list[Result]:
        """Runs trainings.

        Returns:
          Their results, in the same order.
        """
        results = [self._read(training) for training in trainings]
        waiting = [number for number, result in enumerate(results) if result is None]
        running: dict[int, _Running] = {}
        with tempfile.TemporaryDirectory() as folder:
            try:
                while waiting or running:
                    while waiting and len(running) < self._cores:
                        number = waiting.pop(0)
                        own = Path(folder, str(number))
                        own.mkdir()
                        running[number] = self._start(trainings[number], own)
                    for number, result in self._finished(running):
                        results[number] = result
                        self._write(trainings[number], result)
                        _show(running.pop(number).training, result, Path(folder, str(number), LOG))
            finally:
                for job in running.values():
                    _end(job.process)
        return [result for result in results if result is not None]

    def _start(self, training: Training, folder: Path) -> _Running:
        ours, theirs = multiprocessing.Pipe(duplex=False)
        process = self._context.Process(
            target=train, args=(self._subject, training, str(folder), theirs)
        )
        process.start()
        theirs.close()
        return _Running(training, process, ours, time.monotonic())

    def _finished(self, running: dict[int, _Running]) -> list[tuple[int, Result]]:
        """Waits a moment, and returns what has ended, by itself or because it took too long."""
        # What a training starts may outlive it, and hold its end of the pipe.
        deaths = [job.process.sentinel for job in running.values()]
        connection.wait([*deaths, *(job.answer for job in running.values())], _POLL_SECONDS)
        finished = []
        for number, job in running.items():
            took = time.monotonic() - job.began
            dead = not job.process.is_alive()
            if job.answer.poll():
                result = _receive(job, took)
            elif dead:
                result = _death(job, took)
            elif took > self._seconds:
                limit = f"{self._seconds / 60:g} minutes"
                result = Result(seconds=took, why=f"stopped, for it took longer than {limit}")
            else:
                continue
            _end(job.process)
            job.answer.close()
            finished.append((number, result))
        return finished

    def _key(self, training: Training) -> str:
        """Digest of all that a result depends on."""
        facts = [self._digest, self._subject.run_fn, self._subject.config(training)]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]

    def _read(self, training: Training) -> Result | None:
        """The kept result; None if there is none."""
        content = self._store.read(_KIND, _NO_SPAN, self._key(training))
        return None if content is None else parse_result(content)

    def _write(self, training: Training, result: Result) -> None:
        """Keeps a result, unless another attempt may have another."""
        if result.metrics or result.lasting:
            content = json.dumps(asdict(result)).encode()
            self._store.write(_KIND, _NO_SPAN, self._key(training), content)


def parse_result(content: bytes) -> Result | None:
    """Reads a kept result; None if it is none."""
    try:
        facts = json.loads(content)
        metrics = {
            str(name): None if value is None else float(value)
            for name, value in facts["metrics"].items()
        }
        why, epochs, seconds = facts["why"], facts["epochs"], facts["seconds"]
        known = all(value is None or math.isfinite(value) for value in metrics.values())
        types = isinstance(why, str) and type(epochs) is int and type(seconds) in (int, float)
        if known and types and math.isfinite(seconds) and bool(metrics) != bool(why):
            return Result(metrics, epochs, seconds, why, lasting=bool(why), kept=True)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        pass
    logging.warning("A kept result of a training is damaged; it is trained again")
    return None


def _receive(job: _Running, took: float) -> Result:
    """The result that a process sent, or how it died."""
    try:
        result = job.answer.recv()
    except (EOFError, OSError):
        return _death(job, took)
    assert isinstance(result, Result)
    return result


def _death(job: _Running, took: float) -> Result:
    """How a process died."""
    job.process.join()
    code = job.process.exitcode or 0
    why = f"it ended with status {code}"
    if code < 0:
        why = f"it was killed by {signal.Signals(-code).name}"
        why += ", as when memory runs out" if -code == signal.SIGKILL else ""
    return Result(seconds=took, why=why)


def _end(process: ForkServerProcess) -> None:
    """Ends a process, and what it started."""
    family = []
    with contextlib.suppress(psutil.NoSuchProcess):
        family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.join()
    for child in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


def _show(training: Training, result: Result, log: Path) -> None:
    """Puts the outcome of a training into the node's log, and what it printed if it failed."""
    rows = f"{training.rows:,} rows" if training.rows else "all rows"
    logging.info(
        "trial %d, %s, seed %d, %.1f s: %s: %s",
        *(training.trial, rows, training.seed, result.seconds),
        *(dict(training.settings), result.why or dict(result.metrics)),
    )
    if result.why and log.exists():
        print(log.read_bytes()[-_LOG_BYTES:].decode(errors="replace"), flush=True)
