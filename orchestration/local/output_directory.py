"""The output directory of local runs: its layout, locks and checks."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from filelock import FileLock, Timeout

from storage.atomic_write import whole_file
from storage.errors import UserError

# A process that only looks whether the directory is in use holds its lock for less than this.
_LOOK_SECONDS = 0.2
_RUN_ID = "%Y%m%d-%H%M%S-%f"
# Ends what ML Metadata calls a run of which some nodes go ahead: its id and this.
AHEAD = "-ahead"
# TFMA, TFT, TensorFlow's checkpoints and Beam's files look for what they wrote by patterns in which
# a path cannot be quoted: they would find nothing, or the files of another folder.
_PATTERN_CHARACTERS = "*?[\\"


class BusyError(UserError):
    """Another process is using the output directory."""


@dataclass(frozen=True)
class OutputDirectory:
    """Where local runs keep their files, below one folder.

    Attributes:
      root: The folder.
      shared: Folder of the Serving directory and the keys, which models share; None for `root`.
      model: The model whose runs these are; "" if there is no need to know.
    """

    root: Path
    shared: Path | None = None
    model: str = ""

    @property
    def metadata(self) -> Path:
        """SQLite file of ML Metadata."""
        return self.root / "metadata.sqlite"

    @property
    def metadata_lock(self) -> Path:
        """Lock that a process holds while it is connected to ML Metadata."""
        return self.root / ".metadata.lock"

    @property
    def artifacts(self) -> Path:
        """Root under which TFX keeps artifacts."""
        return self.root / "artifacts"

    @property
    def spans(self) -> Path:
        """The span store."""
        return self.root / "spans"

    @property
    def serving(self) -> Path:
        """The Serving directory."""
        return (self.shared or self.root) / "serving_model"

    @property
    def signing_key(self) -> Path:
        """The private key that signs what is pushed, unless another one is named."""
        return (self.shared or self.root) / "keys" / "signing.key"

    @property
    def runs(self) -> Path:
        """Folder of a record of each run."""
        return self.root / "runs"

    @property
    def reports(self) -> Path:
        """Folder of the pages of runs, see `reports`."""
        return self.root / "reports"

    @property
    def index(self) -> Path:
        """The page over the runs of all models of the output directory."""
        return (self.shared or self.root) / "index.html"

    @property
    def schedule(self) -> Path:
        """State of the schedule."""
        return self.root / "schedule.json"

    @property
    def backtest(self) -> Path:
        """State of a backtest."""
        return self.root / "backtest.json"

    @property
    def alarm(self) -> Path:
        """The alarm that makes the schedule retrain."""
        return self.root / "alarm.json"

    @property
    def challenger(self) -> Path:
        """The verdict on the challenger, for the schedule."""
        return self.root / "challenger.json"

    @property
    def monitoring(self) -> Path:
        """Folder of monitoring: its reports, runs, metadata and lock."""
        return self.root / "monitoring"

    @property
    def owner(self) -> Path:
        """Says which model's runs these are; see `model_directories`."""
        return self.root / "model.json"

    @property
    def temporary(self) -> Path:
        """Says where runs, the killed ones too, have their temporary files."""
        return self.root / ".temporary.json"

    @property
    def _run_lock(self) -> Path:
        return self.root / ".run.lock"

    def logs(self, run_id: str) -> Path:
        """Folder of a run's logs."""
        return self.root / "logs" / run_id

    def node_log(self, run_id: str, node_id: str) -> Path:
        """File that takes what a node of a run prints and logs."""
        return self.logs(run_id) / f"{node_id}.log"

    def new_run_id(self, after: str = "") -> str:
        """An id for a new run: the time, UTC, but later than all ids there are.

        So ids sort as the runs began, also where the clock was put back. It is a good file name.

        Args:
          after: The id of a run that has not begun, to be later than that one too.
        """
        now = datetime.now(UTC)
        names = [path.stem for path in (*self.runs.glob("*.json"), *self.root.glob("logs/*"))]
        names.append(after)
        for name in names:
            with suppress(ValueError, OverflowError):
                then = datetime.strptime(name, _RUN_ID).replace(tzinfo=UTC)
                now = max(now, then + timedelta(milliseconds=1))
        return f"{now:{_RUN_ID}}"[:-3]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Makes the directory and keeps other runs out of it.

        Raises:
          BusyError: If another run uses it.
          UserError: If it cannot be written, or its metadata is corrupt.
        """
        busy = f"another run is using the output directory {self.root}"
        with self._lock(self._run_lock, busy):
            self._check_space()
            self._check_metadata()
            yield

    def is_there(self) -> bool:
        """Whether this is an output directory: runs were made in it."""
        return self._run_lock.is_file() or self.metadata.is_file()

    @contextmanager
    def cleaned(self) -> Iterator[None]:
        """As `locked`, but the disk may be full.

        Raises:
          BusyError: If a run uses it.
          UserError: If its metadata is corrupt.
        """
        with self._lock(self._run_lock, f"a run is using the output directory {self.root}"):
            self._check_metadata()
            yield

    def in_use(self) -> bool:
        """Whether a run is using the directory."""
        # Not by filelock: this is for those too who may only read, and two at once may look.
        try:
            lock = os.open(self._run_lock, os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(lock)
        return False

    @contextmanager
    def scheduling(self) -> Iterator[None]:
        """Makes the directory and keeps other schedules from deciding on it at the same time.

        Raises:
          BusyError: If another schedule does.
          UserError: If the directory cannot be written.
        """
        busy = f"another schedule is using the output directory {self.root}"
        with self._lock(self.root / ".schedule.lock", busy):
            yield

    @contextmanager
    def metadata_locked(self) -> Iterator[None]:
        """Waits until no process is connected to ML Metadata, and keeps others from it.

        SQLite would fail a run that writes at that moment.
        """
        # Not by filelock, which opens the file for writing: lineage is for those too who only read.
        lock = os.open(self.metadata_lock, os.O_RDONLY | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    @contextmanager
    def _lock(self, path: Path, busy: str) -> Iterator[None]:
        """Holds a lock of the kernel's, which ends with the process however that ends."""
        if found := [c for c in _PATTERN_CHARACTERS if c in str(self.root)]:
            raise UserError(
                f"the path of the output directory {self.root} has {' and '.join(found)}, which "
                "TensorFlow and Beam read as a pattern of other names: choose another --output"
            )
        lock = FileLock(path, mode=0o644)
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=_LOOK_SECONDS, poll_interval=_LOOK_SECONDS / 10)
        except Timeout as error:
            raise BusyError(busy) from error
        except OSError as error:
            raise self._not_written(error) from error
        try:
            yield
        finally:
            lock.release()

    def _check_space(self) -> None:
        """Writes what a run writes at once, so that a full disk shows before anything is lost."""
        try:
            # Not os.write: on a full disk that writes a part, and raises nothing.
            with open(self._run_lock, "r+b") as file:
                file.write(bytes(1 << 20))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise self._not_written(error) from error
        finally:
            os.truncate(self._run_lock, 0)

    def _not_written(self, error: OSError) -> UserError:
        return UserError(f"output directory {self.root} cannot be written: {error.strerror}")

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


def write_whole(path: Path, text: str) -> None:
    """Writes a file that is never seen half written, be the process killed or the power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(str(path), part=str(path.with_name(f".{path.name}.new"))) as file:
        file.write(text.encode())
