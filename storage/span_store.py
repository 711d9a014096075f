"""Keeps results of single spans from run to run, so that no month is processed twice."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from pyarrow import fs

from storage.atomic_write import PART, write_whole
from storage.uris import open_uri, read_file

# Age at which an entry is deleted when its span is written again, because it is unknown which
# entries are still read. A month in use for longer is not written again.
_KEPT = timedelta(days=400)
_WRITTEN = timedelta(days=1)  # Writing an entry never takes longer.
# A variable and not a node parameter, since the place of the store must not be part of cache keys.
STORE_VARIABLE = "FLIGHTDECK_SPAN_STORE"
_SHARD = re.compile(r"span-(\d+)-(\d+)-(\d+)-([0-9a-f]+)\.gz")


class ShardName(NamedTuple):
    """The parts of the name of a file of examples.

    Attributes:
      span: Number of the span of its rows.
      piece: Position, among the parts into which the span is cut, of the one it is of.
      number: Its own position in the span.
      key: Digest of all that its content depends on.
    """

    span: int
    piece: int
    number: int
    key: str

    def __str__(self) -> str:
        return f"span-{self.span}-{self.piece}-{self.number:04d}-{self.key}.gz"

    @classmethod
    def parse(cls, name: str) -> ShardName | None:
        """Reads a name; None if it is another one's."""
        match = _SHARD.fullmatch(name)
        if not match:
            return None
        span, piece, number, key = match.groups()
        return cls(int(span), int(piece), int(number), key)


@dataclass(frozen=True)
class SpanStore:
    """Keeps results under the digest of their inputs.

    Entries are written atomically, and may be deleted at any time, since they can be made again.

    Attributes:
      uri: Folder of the entries, a path, `gs://...` or `s3://...`; "" keeps nothing.
    """

    uri: str

    @classmethod
    def of_environment(cls) -> SpanStore:
        """The store that the environment names by `STORE_VARIABLE`, or one that keeps nothing."""
        return cls(os.environ.get(STORE_VARIABLE, ""))

    def read(self, kind: str, span: int, key: str) -> bytes | None:
        """Reads an entry; None if there is none."""
        if not self.uri:
            return None
        try:
            return read_file(f"{self.uri}/{span}/{kind}-{key}")
        except FileNotFoundError:
            return None
        except OSError as error:
            logging.warning("The kept result of %d cannot be read: %s", span, error)
            return None

    def holds(self, kind: str, span: int, key: str) -> bool:
        """Whether an entry is there, be it intact or not."""
        if not self.uri:
            return False
        files, path = open_uri(f"{self.uri}/{span}/{kind}-{key}")
        return bool(files.get_file_info(path).type == fs.FileType.File)

    def write(self, kind: str, span: int, key: str, content: bytes) -> None:
        """Writes an entry, and removes the span's old ones of its kind.

        Where it cannot be written the next run makes it again: that is no reason to end this one.
        """
        if self.uri:
            try:
                self._write(kind, span, key, content)
            except OSError as error:
                logging.warning("The result of %d cannot be kept: %s", span, error)

    def outdated(self) -> Iterator[str]:
        """Paths of old entries whose span was written again, and of what was never written whole.

        For a store on this machine; in a bucket, writing again deletes old ones.
        """
        before = datetime.now(UTC) - _KEPT
        store = Path(self.uri)
        # The first entry makes the folder.
        for span in sorted(store.iterdir()) if store.is_dir() else ():
            if not span.name.isdecimal() or span.is_symlink() or not span.is_dir():
                continue
            written = {
                path: datetime.fromtimestamp(path.stat().st_mtime, UTC)
                for path in sorted(span.iterdir())
                if not path.is_symlink() and path.is_file()
            }
            current = {path.name.rpartition("-")[0] for path, t in written.items() if t >= before}
            for path, time in written.items():
                if path.suffix == PART:
                    is_old = time < datetime.now(UTC) - _WRITTEN
                else:
                    is_old = time < before and path.name.rpartition("-")[0] in current
                if is_old:
                    yield str(path)

    def _write(self, kind: str, span: int, key: str, content: bytes) -> None:
        write_whole(f"{self.uri}/{span}/{kind}-{key}", content)
        self._remove_old(*open_uri(f"{self.uri}/{span}"), kind)

    def _remove_old(self, files: fs.FileSystem, root: str, kind: str) -> None:
        before = datetime.now(UTC) - _KEPT
        for info in files.get_file_info(fs.FileSelector(root)):
            # Somebody else deleted it; or gave it a name that is no UTF-8.
            with contextlib.suppress(FileNotFoundError, UnicodeDecodeError):
                if info.base_name.startswith(f"{kind}-") and info.mtime < before:
                    files.delete_file(info.path)
