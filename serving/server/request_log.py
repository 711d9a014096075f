"""A sampled, rotating log of requests and predictions: TFRecords, as `request_records` has them.

Files are `<folder>/<model>/requests-<time>-<number>.tfrecord.gz`. The one that is being written
ends in `.part` and is renamed when it is whole, so a reader that takes `*.tfrecord.gz` never sees
half a file. Where there are keys the files are encrypted (see `storage.encryption`), under the name
`<model>/<file>`. Nobody but the server's user can read them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

import numpy as np
from filelock import FileLock, Timeout

from serving.server.logs import log_event
from serving.server.metrics import ServerMetrics
from serving.server.request_log_file import FLUSH_SECONDS, LogFile, recover
from serving.server.request_records import TrafficFields, count_common_rows, make_records
from serving.server.tensors import count_bytes
from storage.atomic_write import PART
from storage.encryption_keys import Keys
from storage.names import REQUEST_LOG_SUFFIX

_QUEUED_REQUESTS = 1000
_QUEUED_BYTES = 32 << 20  # They keep their memory when they have got their responses.
_END_SECONDS = 10.0

_Arrays: TypeAlias = Mapping[str, np.ndarray]


class RequestLogError(Exception):
    """A request log that cannot be written."""


class RequestLog:
    """Writes a sample of requests to files.

    Args:
      folder: Where the files go, in a folder for each model.
      sampling: Share of the requests that are logged, 0 to 1.
      metrics: Where rows are counted.
      max_file_bytes: Size at which a file is closed and the next begun, before compression.
      max_file_seconds: Age at which a file is closed, in seconds.
      max_files: Files to keep of each model; the oldest goes first.
      retry_seconds: Time for which a model is not logged after its file could not be written.
      load_keys: Gives the keys that a file is encrypted with, None to leave it plain; called for
        each file, so that a log goes on with a new key.

    Raises:
      RequestLogError: If another server writes to the folder.
    """

    def __init__(
        self,
        folder: str,
        sampling: float,
        metrics: ServerMetrics,
        *,
        max_file_bytes: int = 64 << 20,
        max_file_seconds: float = 3600.0,
        max_files: int = 500,
        retry_seconds: float = 10.0,
        load_keys: Callable[[], Keys | None] = lambda: None,
    ):
        self._folder = Path(folder)
        self._sampling = sampling
        self._metrics = metrics
        self._max_file_bytes = max_file_bytes
        self._max_file_seconds = max_file_seconds
        self._max_files = max_files
        self._retry_seconds = retry_seconds
        self._load_keys = load_keys
        self._random = random.Random()
        self._queue: queue.Queue[_Request | None] = queue.Queue(_QUEUED_REQUESTS)
        self._queued_bytes = 0
        self._counting = threading.Lock()
        self._files: dict[str, LogFile] = {}
        self._retries: dict[str, float] = {}
        self._left: dict[str, Path] = {}
        self._folder.mkdir(parents=True, exist_ok=True)
        # The thread that writes gives it back.
        self._lock = FileLock(
            self._folder / ".lock", mode=0o600, thread_local=False, fallback_to_soft=False
        )
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            raise RequestLogError(f"another server writes its request log to {folder}") from None
        for part in self._folder.glob(f"*/*{REQUEST_LOG_SUFFIX}{PART}"):
            try:
                recover(part, load_keys())
            except Exception as error:  # A full disk, or a key that is missing: it can wait.
                reason = str(error)
                log_event("request log not mended", logging.ERROR, file=str(part), reason=reason)
        self._thread = threading.Thread(target=self._write, name="request-log", daemon=True)
        self._thread.start()

    def samples(self) -> bool:
        """Whether the sample takes the next request."""
        return self._random.random() < self._sampling

    def offer(
        self,
        name: str,
        version: int,
        inputs: _Arrays,
        outputs: _Arrays,
        *,
        by_name: bool = False,
        traffic: TrafficFields | None = None,
        sampled: bool | None = None,
    ) -> None:
        """Logs a request and its prediction, if the sample takes it; never waits.

        Args:
          name: Name of the model.
          version: Version that predicted.
          inputs: Inputs by name, each [batch, ...].
          outputs: Outputs by name, each [batch, ...].
          by_name: Whether the inputs are features; if not, a single one of strings is taken for
            serialized tf.Examples.
          traffic: What a model with a traffic policy adds.
          sampled: Whether the sample takes it, if that was asked before; see `samples`.
        """
        if not (self.samples() if sampled is None else sampled):
            return
        now = int(time.time() * 1e6)
        request = _Request(name, version, inputs, outputs, now, by_name, traffic)
        size = request.bytes
        with self._counting:
            # One that is too large by itself is taken alone.
            if not self._queued_bytes or self._queued_bytes + size <= _QUEUED_BYTES:
                with contextlib.suppress(queue.Full):
                    self._queue.put_nowait(request)
                    self._queued_bytes += size
                    return
        self._metrics.logged.labels(name, "dropped").inc(request.rows)

    def close(self) -> None:
        """Writes what waits, closes the files and lets others write to the folder."""
        if not self._thread.is_alive():
            return
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=_END_SECONDS)
        self._thread.join(timeout=_END_SECONDS)

    def _write(self) -> None:
        while True:
            try:
                request = self._queue.get(timeout=FLUSH_SECONDS)
            except queue.Empty:
                pass
            else:
                if request is None:
                    break
                self._append(request)
                with self._counting:
                    self._queued_bytes -= request.bytes
                del request  # Its memory goes before it waits for the next one.
            for name, file in list(self._files.items()):
                if file.bytes >= self._max_file_bytes or file.age >= self._max_file_seconds:
                    self._settle(name, file.close)
                elif file.is_behind:
                    self._settle(name, file.flush)
        for name, file in list(self._files.items()):
            self._settle(name, file.close)
        self._lock.release()

    def _append(self, request: _Request) -> None:
        name = request.name
        rows = request.rows
        if not rows:
            return
        if time.monotonic() < self._retries.get(name, 0.0):
            self._metrics.logged.labels(name, "dropped").inc(rows)
            return
        try:
            records = make_records(
                request.version,
                request.inputs,
                request.outputs,
                request.time_us,
                by_name=request.by_name,
                traffic=request.traffic,
            )
            if name not in self._files:
                self._files[name] = self._open(name)
            self._files[name].write(records)
        except Exception as error:  # A full disk must not end the log for good.
            self._give_up(name, rows, error)

    def _open(self, name: str) -> LogFile:
        keys = self._load_keys()
        # While this fails no other file is begun, so that they do not pile up.
        if left := self._left.get(name):
            recover(left, keys)
            del self._left[name]
        folder = self._folder / name
        folder.mkdir(parents=True, exist_ok=True)
        now = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        return LogFile(folder / f"requests-{now}-{os.getpid()}{REQUEST_LOG_SUFFIX}", keys)

    def _settle(self, name: str, write_out: Callable[[], None]) -> None:
        """Closes or flushes a file; what it holds is then written, or lost."""
        file = self._files[name]
        try:
            write_out()
        except Exception as error:
            self._give_up(name, 0, error)
            return
        self._metrics.logged.labels(name, "written").inc(file.settle())
        if file.is_closed:
            del self._files[name]
            self._forget_oldest(name)

    def _give_up(self, name: str, rows: int, error: Exception) -> None:
        if file := self._files.pop(name, None):
            rows += file.settle()
            if left := file.abandon():
                self._left[name] = left
        self._retries[name] = time.monotonic() + self._retry_seconds
        self._metrics.logged.labels(name, "dropped").inc(rows)
        log_event("request log failed", logging.ERROR, model=name, reason=str(error))

    def _forget_oldest(self, name: str) -> None:
        files = sorted((self._folder / name).glob(f"*{REQUEST_LOG_SUFFIX}"))
        for path in files[: max(0, len(files) - self._max_files)]:
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Request:
    """A request that got its prediction."""

    name: str
    version: int
    inputs: _Arrays
    outputs: _Arrays
    time_us: int
    by_name: bool
    traffic: TrafficFields | None

    @property
    def rows(self) -> int:
        return count_common_rows(self.inputs, self.outputs)

    @property
    def bytes(self) -> int:
        return count_bytes(self.inputs) + count_bytes(self.outputs)
