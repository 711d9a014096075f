"""The output directory of local runs: what lies where, who may use it, and whether it is sound."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from components.errors import UserError


@dataclass(frozen=True)
class OutputDirectory:
    """Where local runs keep their files, below one folder."""

    root: Path

    @property
    def metadata(self) -> Path:
        """SQLite file of ML Metadata."""
        return self.root / "metadata.sqlite"

    @property
    def metadata_lock(self) -> Path:
        """Lock of whoever is connected to ML Metadata."""
        return self.root / ".metadata.lock"

    @property
    def artifacts(self) -> Path:
        """Root under which TFX keeps artifacts."""
        return self.root / "artifacts"

    @property
    def serving(self) -> Path:
        """The Serving directory."""
        return self.root / "serving_model"

    @property
    def signing_key(self) -> Path:
        """The private key that signs what is pushed, unless another one is named."""
        return self.root / "keys" / "signing.key"

    def logs(self, run_id: str) -> Path:
        """Folder of a run's logs."""
        return self.root / "logs" / run_id

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Makes the directory and keeps other runs out of it.

        Raises:
          UserError: If it cannot be written, another run uses it, or its metadata is corrupt.
        """
        path = self.root / ".run.lock"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UserError(
                f"output directory {self.root} cannot be written: {error.strerror}"
            ) from error
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(f"another run is using the output directory {self.root}") from error
            self._check_space(lock)
            self._check_metadata()
            yield
        finally:
            os.close(lock)

    def _check_space(self, lock: int) -> None:
        """Writes what a run writes at once, so that a full disk shows before anything is lost."""
        try:
            # Not os.write: on a full disk that writes a part, and raises nothing.
            with open(lock, "wb", closefd=False) as file:
                file.write(bytes(1 << 20))
                file.flush()
                os.fsync(lock)
        except OSError as error:
            raise UserError(
                f"output directory {self.root} cannot be written: {error.strerror}"
            ) from error
        finally:
            os.ftruncate(lock, 0)

    def _check_metadata(self) -> None:
        if not self.metadata.exists():
            return
        try:
            with closing(sqlite3.connect(self.metadata)) as database:
                (verdict,) = database.execute("PRAGMA quick_check(1)").fetchone()
        except sqlite3.OperationalError as error:  # Locked by another program, not readable, ...
            raise UserError(f"{self.metadata} cannot be read: {error}") from error
        except sqlite3.DatabaseError as error:
            verdict = str(error)
        if verdict != "ok":
            raise UserError(
                f"{self.metadata} is corrupt ({verdict}): move it away and run again; the Serving "
                "directory does not need it, only the cache and the history of runs are lost"
            )


def new_run_id() -> str:
    """An id for a new run, which sorts by time and is a good file name."""
    return datetime.now().strftime("%Y%m%d-%H%M%S-%f")[:-3]
