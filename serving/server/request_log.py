"""A sampled, rotating log of requests and answers, as TFRecords of tf.Examples.

A record is a row: the features that were sent, as the pipeline's data has them (an absent one is
absent), and beside them what was answered and by whom:

    prediction.<output>     float_list, int64_list or bytes_list
    request.time            int64_list: Unix time in microseconds
    request.version         int64_list: version of the model

Files are `<folder>/<model>/requests-<time>-<number>.tfrecord.gz`. The one that is being written
ends in `.part` and is renamed when it is whole, so a reader that takes `*.tfrecord.gz` never sees
half a file. Where there are keys the files are encrypted (see `storage.encryption`), under the name
`<model>/<file>`. Nobody but the server's user can read them.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import queue
import random
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from serving.server.logs import log_event
from serving.server.metrics import ServerMetrics
from serving.server.tensors import count_bytes
from storage.encryption import Encryptor, decrypt, key_of
from storage.encryption_keys import Keys
from storage.memory import in_memory

PREDICTION_PREFIX = "prediction."
TIME_FEATURE = "request.time"
VERSION_FEATURE = "request.version"
SUFFIX = ".tfrecord.gz"
_PART = ".part"
_MENDED = ".mended"
_GZIP = 31  # zlib's `wbits`
_WAITING_BYTES = 1 << 20
_QUEUED_REQUESTS = 1000
_QUEUED_BYTES = 32 << 20  # They keep their memory when they have been answered.
_FLUSH_SECONDS = 1.0
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
        self._files: dict[str, _File] = {}
        self._retries: dict[str, float] = {}
        self._left: dict[str, Path] = {}
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self._folder / ".lock", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise RequestLogError(f"another server writes its request log to {folder}") from None
        for part in self._folder.glob(f"*/*{SUFFIX}{_PART}"):
            try:
                _recover(part, load_keys())
            except Exception as error:  # A full disk, or a key that is missing: it can wait.
                reason = str(error)
                log_event("request log not mended", logging.ERROR, file=str(part), reason=reason)
        self._thread = threading.Thread(target=self._write, name="request-log", daemon=True)
        self._thread.start()

    def offer(
        self,
        name: str,
        version: int,
        inputs: _Arrays,
        outputs: _Arrays,
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
        request = _Request(name, version, inputs, outputs, int(time.time() * 1e6))
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
                request = self._queue.get(timeout=_FLUSH_SECONDS)
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
        os.close(self._lock)

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
                request.version, request.inputs, request.outputs, request.time_us
            )
            if name not in self._files:
                self._files[name] = self._open(name)
            self._files[name].write(records)
        except Exception as error:  # A full disk must not end the log for good.
            self._give_up(name, rows, error)

    def _open(self, name: str) -> _File:
        keys = self._load_keys()
        # While this fails no other file is begun, so that they do not pile up.
        if left := self._left.get(name):
            _recover(left, keys)
            del self._left[name]
        folder = self._folder / name
        folder.mkdir(parents=True, exist_ok=True)
        now = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        return _File(folder / f"requests-{now}-{os.getpid()}{SUFFIX}", keys)

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
        files = sorted((self._folder / name).glob(f"*{SUFFIX}"))
        for path in files[: max(0, len(files) - self._max_files)]:
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Request:
    """A request that was answered."""

    name: str
    version: int
    inputs: _Arrays
    outputs: _Arrays
    time_us: int

    @property
    def rows(self) -> int:
        return _rows(self.inputs, self.outputs)

    @property
    def bytes(self) -> int:
        return count_bytes(self.inputs) + count_bytes(self.outputs)


class _File:
    """A file that is being written, under another name until it is whole.

    Args:
      path: The file.
      keys: What it is encrypted with; None leaves it plain.
      ending: What its name ends in meanwhile.
    """

    def __init__(self, path: Path, keys: Keys | None, ending: str = _PART):
        self._path = path
        self._part = path.with_name(path.name + ending)
        descriptor = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        self._file = os.fdopen(descriptor, "wb")
        self._encryptor: Encryptor | None = None
        self._compressor = zlib.compressobj(wbits=_GZIP)
        self._opened = self._flushed = time.monotonic()
        self._records: list[bytes] = []
        self._unflushed = 0
        self._waiting = 0
        self._holds_records = False
        self.bytes = 0
        self.is_closed = False
        if keys is not None:
            self._encryptor = Encryptor(self._file, keys, _name(path))

    @property
    def age(self) -> float:
        return time.monotonic() - self._opened

    @property
    def is_behind(self) -> bool:
        """Whether records wait for the disk for too long."""
        return self._waiting > 0 and time.monotonic() - self._flushed >= _FLUSH_SECONDS

    def write(self, records: list[bytes]) -> None:
        self._waiting += len(records)
        self._records += records
        size = sum(map(len, records))
        self.bytes += size
        self._unflushed += size
        if self._unflushed >= _WAITING_BYTES:
            self.flush()

    def flush(self) -> None:
        """Writes what waits, so that it outlasts the process."""
        framed, self._records, self._unflushed = _frame(self._records), [], 0
        output = self._encryptor or self._file
        output.write(self._compressor.compress(framed))
        output.write(self._compressor.flush(zlib.Z_SYNC_FLUSH))
        output.flush()
        self._holds_records = True

    def close(self) -> None:
        self.flush()
        output = self._encryptor or self._file
        output.write(self._compressor.flush())
        if self._encryptor:
            self._encryptor.end()
        self._file.close()
        self._part.rename(self._path)
        self.is_closed = True

    def abandon(self) -> Path | None:
        """Gives up on a file that cannot be written.

        Returns:
          What is left of it, which can be mended; None if it never held a record.
        """
        with contextlib.suppress(OSError):
            self._file.close()
        if self._holds_records:
            return self._part
        with contextlib.suppress(OSError):
            self._part.unlink()
        return None

    def settle(self) -> int:
        """How many records waited until now."""
        waiting, self._waiting = self._waiting, 0
        self._flushed = time.monotonic()
        return waiting


def _frame(records: Iterable[bytes]) -> bytes:
    """The records as a TFRecord file has them."""
    with in_memory(b"") as path:
        with tf.io.TFRecordWriter(path) as writer:
            for record in records:
                writer.write(record)
        return Path(path).read_bytes()


def _recover(part: Path, keys: Keys | None) -> None:
    """Keeps what can be read of a file that was never finished.

    Raises:
      OSError: If it cannot be written; the part is then left as it is.
      EncryptionError: If its key is not among those given; the same.
    """
    path = part.with_name(part.name.removesuffix(_PART))
    mended = _File(path, keys, _MENDED)
    try:
        for record in _read_part(part, path, keys):
            mended.write([record])
        if mended.bytes:
            mended.close()
    finally:
        if not mended.is_closed and (left := mended.abandon()):
            left.unlink()
    part.unlink()


def _read_part(part: Path, path: Path, keys: Keys | None) -> Iterator[bytes]:
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(part.open("rb"))
        readable = str(part)
        if key_of(file.read(128)):
            file.seek(0)
            segments = decrypt(file, _name(path), keys, unfinished=True)
            readable = stack.enter_context(in_memory(b"".join(segments)))
        try:
            yield from tf.data.TFRecordDataset(readable, "GZIP").as_numpy_iterator()
        except tf.errors.OpError as error:
            log_event("request log was cut", logging.WARNING, file=str(path), reason=error.message)


def _name(path: Path) -> str:
    """What a file is called when it is encrypted."""
    return f"{path.parent.name}/{path.name}"


def make_records(version: int, inputs: _Arrays, outputs: _Arrays, time_us: int) -> list[bytes]:
    """A serialized tf.Example for each row of a request.

    Args:
      version: Version that answered.
      inputs: See `RequestLog.offer`.
      outputs: Outputs by name, each [batch, ...].
      time_us: Unix time in microseconds.

    Returns:
      The records; none if inputs and outputs have no rows in common.
    """
    rows = _rows(inputs, outputs)
    if not rows:
        return []
    answers = [(PREDICTION_PREFIX + name, *_by_row(array)) for name, array in outputs.items()]
    first, *others = inputs.values()
    serialized = not others and first.dtype == object and first.ndim == 1
    columns = [(name, *_by_row(array)) for name, array in inputs.items()]
    records = []
    for row in range(rows):
        example = tf.train.Example()
        features = example.features.feature
        features[TIME_FEATURE].int64_list.value.append(time_us)
        features[VERSION_FEATURE].int64_list.value.append(version)
        for name, kind, values in answers:
            getattr(features[name], kind).value.extend(values[row].tolist())
        if serialized:
            # Concatenated messages are one message with the fields of both.
            records.append(first[row] + example.SerializeToString())
            continue
        for name, kind, values in columns:
            row_values = values[row].tolist()
            if not _is_absent(row_values):
                getattr(features[name], kind).value.extend(row_values)
        records.append(example.SerializeToString())
    return records


def _rows(inputs: _Arrays, outputs: _Arrays) -> int:
    """The rows that inputs and outputs have in common; 0 if they have none."""
    if not inputs or not outputs:
        return 0
    rows = {len(array) if array.ndim else 0 for array in (*inputs.values(), *outputs.values())}
    return rows.pop() if len(rows) == 1 else 0


def _by_row(array: np.ndarray) -> tuple[str, np.ndarray]:
    """The kind of feature for an array [batch, ...], and its values, [batch, n].

    A complex number is its real part and then its imaginary part.
    """
    flat = array.reshape(len(array), -1)
    if array.dtype == object:
        return "bytes_list", flat
    if array.dtype.kind in "iub":
        return "int64_list", flat.astype(np.int64)
    if array.dtype.kind == "c":
        return "float_list", np.stack([flat.real, flat.imag], axis=2).reshape(len(array), -1)
    # bfloat16 is of no kind that numpy knows.
    return "float_list", flat if array.dtype.kind == "f" else flat.astype(np.float32)


def _is_absent(values: list[Any]) -> bool:
    """Whether a row says, as raw columns do, that there is no value: by "" or NaN."""
    return len(values) == 1 and (values[0] == b"" or values[0] != values[0])
