"""The folder that predictions are written to: a dataset of files, and what makes it resumable.

    <output>/predictions-00000.csv ...   all columns of the input, and the predictions
    <output>/_rejected/00000.csv ...     rows without a prediction, with the reason
    <output>/_manifest.json              written last: version, input, settings, files
    <output>/_work/                      while predictions are made: job.json, a record of each
                                         finished shard, and Parquet copies of text files

Readers of datasets (Spark, pyarrow) skip names that begin with an underscore.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from filelock import FileLock, Timeout
from pyarrow import fs
from pydantic import TypeAdapter, ValidationError

from storage.atomic_write import PART, write_whole
from storage.errors import DataError, SurroundingsError, UserError
from storage.uris import (
    NotAFileError,
    delete_tree,
    list_folder,
    local_path,
    open_uri,
    read_file,
    read_json,
)

_MANIFEST, _WORK, _JOB, _REJECTED = "_manifest.json", "_work", "job.json", "_rejected"
_RECORD = "shard-"
# Parts of a job, and what it means if they differ.
_PARTS = {
    "input": "the input has changed",
    "model": "the version is another one",
    "settings": "the settings have changed",
}
# What tells one job from another: JSON objects by the names in `_PARTS`.
Job = Mapping[str, Any]


@dataclass(frozen=True)
class ShardRecord:
    """What was written for a shard.

    Attributes:
      rows: Rows with a prediction.
      rejected: Rows without one.
      reason: Why the first of them has none; "" if there is none.
      files: SHA-256 of each file, by its path below the output folder.
    """

    rows: int
    rejected: int
    reason: str
    files: dict[str, str]


@dataclass(frozen=True)
class OutputFolder:
    """The folder of predictions.

    Attributes:
      uri: A path, `gs://...` or `s3://...`.
    """

    uri: str

    @property
    def manifest_uri(self) -> str:
        """URI of the manifest."""
        return f"{self.uri}/{_MANIFEST}"

    @property
    def copies_uri(self) -> str:
        """URI of the folder of Parquet copies."""
        return f"{self.uri}/{_WORK}/copies"

    def check_apart(self, input_uri: str) -> None:
        """Checks that neither of output and input is within the other.

        Raises:
          UserError: If one is.
        """
        ours, theirs = _place(self.uri), _place(input_uri)
        if ours == theirs:
            raise UserError(f"--output {self.uri} is the input: name another folder")
        if ours.startswith(f"{theirs}/"):
            raise UserError(f"--output {self.uri} is inside the input {input_uri}: name another")
        if theirs.startswith(f"{ours}/"):
            raise UserError(f"the input {input_uri} is inside --output {self.uri}: name another")

    @contextlib.contextmanager
    def opened(self, job: Job) -> Iterator[dict[str, Any] | None]:
        """Begins a job in the folder, or goes on with it.

        Args:
          job: What is to be written.

        Yields:
          The manifest, if the folder is complete already, else None.

        Raises:
          UserError: If the folder has other content, or another process is writing to it.
        """
        if manifest := self._check(job):
            yield manifest
            return
        try:
            with self._locked():
                # Another process may have begun, or ended, meanwhile.
                manifest = self._check(job)
                if not manifest:
                    self._delete_parts()
                    write_whole(f"{self.uri}/{_WORK}/{_JOB}", _encode(job))
                try:
                    yield manifest
                except BaseException:
                    self._forget_nothing()
                    raise
        except OSError as error:
            raise UserError(f"--output {self.uri} cannot be written: {error}") from error

    def write_shard(
        self,
        number: int,
        ending: str,
        predictions: bytes,
        rejected: bytes | None,
        record: Mapping[str, Any],
    ) -> None:
        """Writes the files of a shard, each of them whole or not at all, then its record.

        Args:
          number: Number of the shard.
          ending: Ending of their names, such as ".parquet".
          predictions: The file of rows with a prediction.
          rejected: That of the others; None if there are none.
          record: The other fields of the `ShardRecord`.
        """
        files = {f"predictions-{number:05d}{ending}": predictions}
        if rejected is not None:
            files[f"{_REJECTED}/{number:05d}{ending}"] = rejected
        for name, content in files.items():
            write_whole(f"{self.uri}/{name}", content)
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        write_whole(self._record_uri(number), _encode({**record, "files": digests}))

    def read_shard(self, number: int) -> ShardRecord | None:
        """The record of a shard whose files are all there as they were written, or None."""
        try:
            content = read_file(self._record_uri(number), 1 << 20)
            record = TypeAdapter(ShardRecord).validate_json(content)
        except (OSError, ValidationError):
            return None
        return None if self._damaged(record.files) else record

    def finish(self, job: Job, records: list[ShardRecord], facts: Mapping[str, Any]) -> Any:
        """Writes the manifest, deletes what is no longer needed, and returns the manifest."""
        manifest = {
            **job,
            **facts,
            "rows": sum(record.rows for record in records),
            "rejected": sum(record.rejected for record in records),
            "shards": [asdict(record) for record in records],
        }
        write_whole(self.manifest_uri, _encode(manifest))
        delete_tree(f"{self.uri}/{_WORK}")
        return manifest

    def _record_uri(self, number: int) -> str:
        return f"{self.uri}/{_WORK}/{_RECORD}{number:05d}.json"

    def _read(self, name: str) -> dict[str, Any]:
        try:
            return read_json(f"{self.uri}/{name}")
        except (OSError, ValueError) as error:
            raise UserError(f"--output {self.uri} cannot be used: {error}") from error

    def _check(self, job: Job) -> dict[str, Any] | None:
        """Checks that the folder is free for a job; the manifest if the job is done."""
        files, root = open_uri(self.uri)
        try:
            kind = files.get_file_info(root).type
        except OSError as error:
            raise UserError(f"--output {self.uri} cannot be used: {error}") from error
        if kind not in (fs.FileType.NotFound, fs.FileType.Directory):
            raise UserError(f"--output {self.uri} is no folder: name one that is not there yet")
        manifest, begun = self._read(_MANIFEST), self._read(f"{_WORK}/{_JOB}")
        if manifest or begun:
            self._check_same(manifest or begun, job)
        elif found := self._first_entry():
            raise UserError(
                f"--output {self.uri} is not empty, it has {found!r}: name a folder that is not "
                "there yet"
            )
        if manifest:
            self._check_complete(manifest)
        return manifest or None

    def _first_entry(self) -> str:
        files, root = open_uri(self.uri)
        try:
            names = {info.base_name for info in list_folder(files, root)}
        except OSError as error:
            raise UserError(f"--output {self.uri} cannot be read: {error}") from error
        # A process that is killed before it has written anything leaves an empty folder of work.
        return min(names - {_WORK}, default="")

    def _check_same(self, found: Mapping[str, Any], job: Job) -> None:
        for part, meaning in _PARTS.items():
            if found.get(part) != json.loads(json.dumps(job[part])):
                raise DataError(
                    f"--output {self.uri} was begun otherwise: {meaning} "
                    f"({_difference(found.get(part), job[part])}); name another folder, or go on "
                    "as it was begun"
                )

    def _check_complete(self, manifest: Mapping[str, Any]) -> None:
        try:
            records = TypeAdapter(list[ShardRecord]).validate_python(manifest.get("shards"))
        except ValidationError as error:
            raise UserError(f"{self.manifest_uri} is damaged: name another --output") from error
        for record in records:
            if name := self._damaged(record.files):
                raise UserError(
                    f"--output {self.uri} is complete, but {name} is gone or changed since: name "
                    "another folder"
                )

    def _damaged(self, digests: Mapping[str, str]) -> str:
        """The first file that is not there as it was written, or ""."""
        for name, digest in digests.items():
            try:
                content = read_file(f"{self.uri}/{name}")
            except (FileNotFoundError, NotAFileError):
                return name
            if hashlib.sha256(content).hexdigest() != digest:
                return name
        return ""

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Holds the folder, if it is on a disk, against another process that writes to it."""
        path = local_path(self.uri)
        if path is None:
            yield
            return
        try:
            os.makedirs(f"{path}/{_WORK}", exist_ok=True)
            lock = FileLock(f"{path}/{_WORK}/lock", mode=0o644, fallback_to_soft=False)
            lock.acquire(timeout=0)
        except Timeout:
            raise SurroundingsError(f"another process is writing to {self.uri}") from None
        try:
            yield
        finally:
            lock.release()

    def _forget_nothing(self) -> None:
        """Gives the folder back if no shard was written, as when the input is refused."""
        files, root = open_uri(self.uri)
        work = list_folder(files, f"{root}/{_WORK}")
        if any(info.base_name.startswith(_RECORD) for info in work):
            return
        delete_tree(f"{self.uri}/{_WORK}")
        if path := local_path(self.uri):
            with contextlib.suppress(OSError):
                os.rmdir(path)

    def _delete_parts(self) -> None:
        """Deletes files that a process which was killed has not finished."""
        path = local_path(self.uri)
        for folder in ("", _REJECTED, _WORK) if path else ():
            with contextlib.suppress(FileNotFoundError):
                for name in os.listdir(os.path.join(str(path), folder)):
                    if name.startswith(".") and name.endswith(PART):
                        os.remove(os.path.join(str(path), folder, name))


def _place(uri: str) -> str:
    path = local_path(uri)
    return uri.rstrip("/") if path is None else os.path.realpath(path)


def _encode(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def _difference(found: Any, wanted: Any) -> str:
    """The first difference of two parts of a job."""
    if not isinstance(found, dict) or not isinstance(wanted, dict):
        return "it cannot be read"
    for name in dict.fromkeys([*wanted, *found]):
        if found.get(name) != wanted.get(name):
            was, now = (json.dumps(part.get(name))[:80] for part in (found, wanted))
            return f"{name}: {was} became {now}"
    return "in its types"
