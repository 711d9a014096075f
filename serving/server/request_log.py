"""A sampled, rotating log of requests and answers, as TFRecords of tf.Examples.

A record is a row: the features that were sent, as the pipeline's data has them (an absent one is
absent), and beside them what was answered and by whom:

    prediction.<output>     float_list, int64_list or bytes_list
    request.time            int64_list: Unix time in microseconds
    request.version         int64_list: version of the model

Files are `<folder>/<model>/requests-<time>-<number>.tfrecord.gz`. The one that is being written
ends in `.part` and is renamed when it is whole, so a reader that takes `*.tfrecord.gz` never sees
half a file.
"""

from __future__ import annotations

import fcntl
import logging
import os
import queue
import random
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from serving.server.logs import log_event
from serving.server.metrics import ServerMetrics

PREDICTION_PREFIX = "prediction."
TIME_FEATURE = "request.time"
VERSION_FEATURE = "request.version"
SUFFIX = ".tfrecord.gz"
_PART = ".part"
_WAITING_REQUESTS = 1000


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
    ):
        self._folder = Path(folder)
        self._sampling = sampling
        self._metrics = metrics
        self._max_file_bytes = max_file_bytes
        self._max_file_seconds = max_file_seconds
        self._max_files = max_files
        self._random = random.Random()
        self._queue: queue.Queue[tuple[str, list[bytes]] | None] = queue.Queue(_WAITING_REQUESTS)
        self._files: dict[str, _File] = {}
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(
            self._folder / ".lock", os.O_CREAT | os.O_RDWR
        )  # Until this process ends.
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RequestLogError(f"another server writes its request log to {folder}") from None
        for part in self._folder.glob(f"*/*{SUFFIX}{_PART}"):
            _recover(part)
        self._thread = threading.Thread(target=self._write, name="request-log", daemon=True)
        self._thread.start()

    def offer(
        self,
        name: str,
        version: int,
        inputs: Mapping[str, np.ndarray],
        outputs: Mapping[str, np.ndarray],
    ) -> None:
        """Logs a request and its answer, if the sample takes it; never waits.

        Args:
          name: Name of the model.
          version: Version that answered.
          inputs: Inputs by name, each [batch, ...]; a single one of strings is taken for serialized
            tf.Examples.
          outputs: Outputs by name, each [batch, ...].
        """
        if self._random.random() >= self._sampling:
            return
        records = make_records(version, inputs, outputs, int(time.time() * 1e6))
        try:
            self._queue.put_nowait((name, records))
        except queue.Full:
            self._metrics.logged.labels(name, "dropped").inc(len(records))

    def close(self) -> None:
        """Writes what waits and closes the files."""
        self._queue.put(None)
        self._thread.join(timeout=10)

    def _write(self) -> None:
        while True:
            try:
                item = self._queue.get(timeout=1.0)
            except queue.Empty:
                item = ("", [])
            try:
                if item is None:
                    for file in self._files.values():
                        file.close()
                    return
                self._append(*item)
            except Exception as error:  # A full disk must not end the log for good.
                log_event("request log failed", logging.ERROR, reason=str(error))

    def _append(self, name: str, records: list[bytes]) -> None:
        for model, file in list(self._files.items()):
            if file.bytes >= self._max_file_bytes or file.age >= self._max_file_seconds:
                del self._files[model]
                file.close()
                self._forget_oldest(model)
        if not records:
            for file in self._files.values():
                file.flush()
            return
        if name not in self._files:
            self._files[name] = _File(self._folder / name)
        try:
            self._files[name].write(records)
        except Exception:
            self._metrics.logged.labels(name, "dropped").inc(len(records))
            del self._files[name]
            raise
        self._metrics.logged.labels(name, "written").inc(len(records))

    def _forget_oldest(self, name: str) -> None:
        files = sorted((self._folder / name).glob(f"*{SUFFIX}"))
        for path in files[: max(0, len(files) - self._max_files)]:
            path.unlink(missing_ok=True)


class _File:
    """A file that is being written."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        now = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        self._path = folder / f"requests-{now}-{os.getpid()}{SUFFIX}"
        self._part = self._path.with_name(self._path.name + _PART)
        self._writer = tf.io.TFRecordWriter(str(self._part), options="GZIP")
        self._opened = time.monotonic()
        self.bytes = 0

    @property
    def age(self) -> float:
        return time.monotonic() - self._opened

    def write(self, records: list[bytes]) -> None:
        for record in records:
            self._writer.write(record)
            self.bytes += len(record)

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
        self._part.rename(self._path)


def _recover(part: Path) -> None:
    """Keeps what can be read of a file that a server was killed over."""
    path = part.with_name(part.name.removesuffix(_PART))
    mended = path.with_name(path.name + ".mended")
    with tf.io.TFRecordWriter(str(mended), options="GZIP") as writer:
        try:
            for record in tf.data.TFRecordDataset(str(part), "GZIP").as_numpy_iterator():
                writer.write(record)
        except tf.errors.OpError as error:
            log_event("request log was cut", logging.WARNING, file=str(path), reason=error.message)
    mended.rename(path)
    part.unlink()


def make_records(
    version: int,
    inputs: Mapping[str, np.ndarray],
    outputs: Mapping[str, np.ndarray],
    time_us: int,
) -> list[bytes]:
    """A serialized tf.Example for each row of a request.

    Args:
      version: Version that answered.
      inputs: See `RequestLog.offer`.
      outputs: Outputs by name, each [batch, ...].
      time_us: Unix time in microseconds.

    Returns:
      The records; none if inputs and outputs have no rows in common.
    """
    rows = {len(array) if array.ndim else 0 for array in (*inputs.values(), *outputs.values())}
    if len(rows) != 1:
        return []
    (only, *others) = inputs.values()
    serialized = not others and only.dtype == object and only.ndim == 1
    records = []
    for row in range(rows.pop()):
        example = tf.train.Example()
        features = example.features.feature
        features[TIME_FEATURE].int64_list.value.append(time_us)
        features[VERSION_FEATURE].int64_list.value.append(version)
        for name, array in outputs.items():
            _put(features[PREDICTION_PREFIX + name], array[row])
        if serialized:
            # Concatenated messages are one message with the fields of both.
            records.append(only[row] + example.SerializeToString())
            continue
        for name, array in inputs.items():
            if not _is_absent(array[row]):
                _put(features[name], array[row])
        records.append(example.SerializeToString())
    return records


def _put(feature: tf.train.Feature, value: Any) -> None:
    values = np.ravel(value)
    if values.dtype == object:
        feature.bytes_list.value.extend(values.tolist())
    elif np.issubdtype(values.dtype, np.floating):
        feature.float_list.value.extend(values.tolist())
    else:
        feature.int64_list.value.extend(values.astype(np.int64).tolist())


def _is_absent(value: Any) -> bool:
    """Whether it says, as raw columns do, that there is no value."""
    return value == b"" or (isinstance(value, np.floating) and bool(np.isnan(value)))
