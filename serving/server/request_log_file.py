"""A file of the request log: gzip, maybe encrypted, under another name until it is whole.

What a process that was killed left of a file is kept: see `recover`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from serving.server.logs import log_event
from serving.tensorflow_import import import_tensorflow
from storage.atomic_write import PART
from storage.encryption import Encryptor, decrypt, key_of
from storage.encryption_keys import Keys
from storage.memory import in_memory

_MENDED = ".mended"
_GZIP = 31  # zlib's `wbits`
_WAITING_BYTES = 1 << 20
FLUSH_SECONDS = 1.0


class LogFile:
    """A file that is being written, under another name until it is whole.

    Args:
      path: The file.
      keys: What it is encrypted with; None leaves it plain.
      ending: What its name ends in meanwhile.
    """

    def __init__(self, path: Path, keys: Keys | None, ending: str = PART):
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
        """Seconds since it was opened."""
        return time.monotonic() - self._opened

    @property
    def is_behind(self) -> bool:
        """Whether records wait for the disk for too long."""
        return self._waiting > 0 and time.monotonic() - self._flushed >= FLUSH_SECONDS

    def write(self, records: list[bytes]) -> None:
        """Adds records, which may wait for the disk."""
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
        """Writes the end of the file, and gives it its name."""
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
        with import_tensorflow().io.TFRecordWriter(path) as writer:
            for record in records:
                writer.write(record)
        return Path(path).read_bytes()


def recover(part: Path, keys: Keys | None) -> None:
    """Keeps what can be read of a file that was never finished.

    Raises:
      OSError: If it cannot be written; the part is then left as it is.
      EncryptionError: If its key is not among those given; the same.
    """
    path = part.with_name(part.name.removesuffix(PART))
    mended = LogFile(path, keys, _MENDED)
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
    tf = import_tensorflow()
    from storage.tfrecords import read_records

    with contextlib.ExitStack() as stack:
        file = stack.enter_context(part.open("rb"))
        readable = str(part)
        if key_of(file.read(128)):
            file.seek(0)
            segments = decrypt(file, _name(path), keys, unfinished=True)
            readable = stack.enter_context(in_memory(b"".join(segments)))
        try:
            yield from read_records(readable).as_numpy_iterator()
        except tf.errors.OpError as error:
            log_event("request log was cut", logging.WARNING, file=str(path), reason=error.message)


def _name(path: Path) -> str:
    """What a file is called when it is encrypted."""
    return f"{path.parent.name}/{path.name}"
