"""The layout of the Serving directory: versions that a model server reads, and their provenance.

    <serving dir>/<model name>/<version>/                          what TensorFlow Serving loads
    <serving dir>/<model name>/.flightdeck/<version>/              where it came from, and signature
    <serving dir>/<model name>/.flightdeck/rolled_back/<version>/  a version that was moved aside
    <serving dir>/<model name>/.flightdeck/labels.json             names that were given to versions
    <serving dir>/<model name>/.flightdeck/lock                    held by whatever changes this

This module is the one contract between the pipeline, which publishes versions, and what serves
them. Model servers ignore names that are not numbers. It imports neither TFX nor TensorFlow.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pyarrow import fs

SAVED_MODEL = "saved_model.pb"
PROVENANCE_FILE = "provenance.json"
SIGNATURE_FILE = "model.sig"
LABELS_FILE = "labels.json"
_PROVENANCE = ".flightdeck"
_ROLLED_BACK = "rolled_back"

# What is being done, in names that a server and `versions` pass over; a crash leaves them behind.
_STAGING = "staging-"
_DELETED = "deleted-"
_NEW = ".new"
_UNFINISHED = re.compile(rf"({_STAGING}|{_DELETED})([0-9]+)")

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_LOCK_POLL_SECONDS = 0.02


class _Held(threading.local):
    """Paths of the locks that this thread holds."""

    def __init__(self) -> None:
        self.paths: set[str] = set()


_held = _Held()


@dataclass(frozen=True)
class Change:
    """What rolling back or promoting came to.

    Attributes:
      version: The version that was moved.
      served: The version that a server takes by default from now on.
    """

    version: int
    served: int


@dataclass(frozen=True)
class ModelDirectory:
    """The versions of one model under a Serving directory.

    Whatever changes the directory holds its lock meanwhile, finishes or removes what a crash left
    behind, and may itself be killed at any moment: each version is then whole and in one place. On
    an object store (`gs://`, `s3://`), which has neither locks nor renames, let one process at a
    time change it; a crash may leave files there that nothing reads.

    Attributes:
      serving_dir: Local path or URI (`gs://`, `s3://`) of the Serving directory.
      model_name: Name of the model, as a client of the server says it.
    """

    serving_dir: str
    model_name: str

    @property
    def uri(self) -> str:
        """URI of the folder that holds the versions."""
        return os.path.join(self.serving_dir, self.model_name)

    def version_uri(self, version: int) -> str:
        """URI of a version, as a model server reads it."""
        return os.path.join(self.uri, str(version))

    def provenance_uri(self, version: int) -> str:
        """URI of the folder that says where a version came from."""
        return os.path.join(self.uri, _PROVENANCE, str(version))

    def signature_uri(self, version: int) -> str:
        """URI of the signature of a version; there is no such file if it is not signed."""
        return os.path.join(self.provenance_uri(version), SIGNATURE_FILE)

    def rolled_back_uri(self, version: int) -> str:
        """URI of a version that was rolled back."""
        return os.path.join(self.uri, _PROVENANCE, _ROLLED_BACK, str(version))

    def versions(self) -> list[int]:
        """The versions that a server can load, oldest first."""
        return _models(self.uri)

    def served(self) -> int | None:
        """The version a server takes by default: the newest, or None if there is none."""
        return max(self.versions(), default=None)

    def rolled_back(self) -> list[int]:
        """The versions that were rolled back and can be promoted, oldest first."""
        aside = _models(os.path.join(self.uri, _PROVENANCE, _ROLLED_BACK))
        # In an object store a version is in both places until it is whole in the new one.
        return sorted(set(aside) - set(self.versions()))

    def provenance(self, version: int) -> dict[str, Any]:
        """The provenance record of a version, empty if it has none.

        Raises:
          ValueError: If the record is not JSON.
        """
        record: dict[str, Any] = _read_json(
            os.path.join(self.provenance_uri(version), PROVENANCE_FILE)
        )
        return record

    def find(self, name: str, value: str) -> int | None:
        """The version whose provenance record has this value under a name, or None.

        One that a server can load goes before one that was rolled back.
        """
        for version in (*reversed(self.versions()), *reversed(self.rolled_back())):
            if self.provenance(version).get(name) == value:
                return version
        return None

    def next_version(self) -> int:
        """A number for a new version: the Unix time in seconds, later than any there is."""
        home = os.path.join(self.uri, _PROVENANCE)
        folders = (self.uri, home, os.path.join(home, _ROLLED_BACK))
        known = [number for folder in folders for number in _numbered(folder)]
        return max(int(time.time()), 1 + max(known, default=0))

    @contextmanager
    def locked(self, wait_seconds: float = 60) -> Iterator[None]:
        """Keeps other processes and threads from changing the directory meanwhile.

        The thread that holds the lock may enter again. It is the kernel's (flock), so that it ends
        with its process however that ends, and it holds among processes on one machine, on a local
        file system. On an object store nothing is locked.

        Args:
          wait_seconds: How long to wait for whoever holds it.

        Raises:
          TimeoutError: If it is held for longer.
        """
        files, path = open_uri(os.path.join(self.uri, _PROVENANCE, "lock"))
        if not isinstance(files, fs.LocalFileSystem) or path in _held.paths:
            yield
            return
        files.create_dir(os.path.dirname(path))
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _acquire(lock, wait_seconds, self.uri)
            _held.paths.add(path)
            try:
                self._clean_up()
                yield
            finally:
                _held.paths.remove(path)
                fcntl.flock(lock, fcntl.LOCK_UN)  # A forked child may hold the descriptor too.
        finally:
            os.close(lock)

    def publish(
        self,
        version: int,
        model_uri: str,
        provenance_uri: str,
        sign: Callable[[str, str], None] | None = None,
    ) -> None:
        """Copies a model and its provenance in, and only then lets servers see the version.

        A server never sees half a version: the copy is made under a name that servers ignore and
        renamed when it is whole. An object store cannot rename a folder, so there the file that
        servers watch for, `saved_model.pb`, comes last. A crash half-way leaves at most copies that
        nothing reads.

        Args:
          version: Number of the version; must not exist, be it rolled back.
          model_uri: Folder of the SavedModel to copy.
          provenance_uri: Folder of the files that say where it came from.
          sign: Makes the signature before the version is seen; called with the local path of the
            copied model, whose folder has the version as its name, and that of the file to write.

        Raises:
          FileExistsError: If the version exists.
          FileNotFoundError: If there is no SavedModel in `model_uri`.
          TimeoutError: If the directory stays locked.
        """
        if not exists(os.path.join(model_uri, SAVED_MODEL)):
            raise FileNotFoundError(f"there is no {SAVED_MODEL} in {model_uri}")
        with self.locked():
            if exists(self.version_uri(version)):
                raise FileExistsError(f"version {version} exists in {self.uri}")
            if exists(self.rolled_back_uri(version)):
                raise FileExistsError(f"version {version} exists in {self.uri}, rolled back")
            _delete_tree(self.provenance_uri(version))  # Of a push that came no further.
            copy_tree(provenance_uri, self.provenance_uri(version))
            files, target = open_uri(self.version_uri(version))
            if not isinstance(files, fs.LocalFileSystem):
                self._publish_to_store(version, model_uri, sign)
                return
            staging = os.path.join(self.uri, _PROVENANCE, f"{_STAGING}{version}")
            _, staged = open_uri(os.path.join(staging, str(version)))
            copy_tree(model_uri, staged)
            if sign:
                sign(staged, open_uri(self.signature_uri(version))[1])
            for folder in (staged, open_uri(self.provenance_uri(version))[1]):
                _flush(folder)
            files.move(staged, target)
            _delete_tree(staging)

    def _publish_to_store(
        self, version: int, model_uri: str, sign: Callable[[str, str], None] | None
    ) -> None:
        if not sign:
            copy_tree(model_uri, self.version_uri(version), last=SAVED_MODEL)
            return
        with tempfile.TemporaryDirectory() as work:
            # What is uploaded is what was signed.
            staged, signature = os.path.join(work, str(version)), os.path.join(work, SIGNATURE_FILE)
            local = fs.LocalFileSystem()
            _copy_tree(open_uri(model_uri), (local, staged))
            sign(staged, signature)
            files, target = open_uri(self.signature_uri(version))
            with open(signature, "rb") as file:
                _write(files, target, file.read())
            _copy_tree((local, staged), open_uri(self.version_uri(version)), last=SAVED_MODEL)

    def rollback(self, version: int | None = None) -> Change:
        """Moves a version aside, so that servers fall back to the newest one that is left.

        Nothing is deleted: `promote` brings it back.

        Args:
          version: The version; None for the newest.

        Returns:
          The version, and what is served now.

        Raises:
          LookupError: If there is no such version to roll back.
          ValueError: If it is the only version that a server can load, or a label pins it.
          TimeoutError: If the directory stays locked.
        """
        with self.locked():
            versions = self.versions()
            chosen = max(versions, default=None) if version is None else version
            if chosen is None or chosen not in versions:
                what = "no version" if chosen is None else f"no version {chosen}"
                raise LookupError(f"there is {what} to roll back in {self.uri}, {self._content()}")
            if names := [name for name, pinned in self.labels().items() if pinned == chosen]:
                raise ValueError(
                    f"version {chosen} is pinned by the label {names[0]!r}: pin another version "
                    "to it, or unpin it first"
                )
            if len(versions) == 1:
                raise ValueError(
                    f"version {chosen} is the only one in {self.uri} that a server can load, so it "
                    "is not rolled back: promote or push another one first"
                )
            self._move(self.version_uri(chosen), self.rolled_back_uri(chosen))
            return Change(chosen, max(self.versions()))

    def promote(self, version: int | None = None) -> Change:
        """Brings a version back that was rolled back. It is served if it is then the newest.

        Args:
          version: The version; None for the newest that was rolled back.

        Returns:
          The version, and what is served now, which may be a newer one.

        Raises:
          LookupError: If no such version was rolled back.
          TimeoutError: If the directory stays locked.
        """
        with self.locked():
            rolled_back = self.rolled_back()
            chosen = max(rolled_back, default=None) if version is None else version
            if chosen is None or chosen not in rolled_back:
                what = "no version" if chosen is None else f"no version {chosen}"
                raise LookupError(f"there is {what} to promote in {self.uri}, {self._content()}")
            self._move(self.rolled_back_uri(chosen), self.version_uri(chosen))
            return Change(chosen, max(self.versions()))

    def labels(self) -> dict[str, int]:
        """The version that each label pins, in the order of the labels.

        Raises:
          ValueError: If the file of labels is not what `pin` writes.
        """
        uri = os.path.join(self.uri, _PROVENANCE, LABELS_FILE)
        labels = _read_json(uri)
        if not all(type(version) is int for version in labels.values()):
            raise ValueError(f'{uri} must be of the form {{"label": version}}')
        return dict(sorted(labels.items()))

    def pin(self, version: int, label: str) -> None:
        """Gives a version a label, which it takes over from the version that had it.

        A version with a label is not deleted by `retain`, and servers answer to its label.

        Args:
          version: A version that a server can load.
          label: Up to 63 letters, digits, `_`, `.` and `-`; the first a letter or digit.

        Raises:
          LookupError: If there is no such version.
          ValueError: If the label is not of that form.
          TimeoutError: If the directory stays locked.
        """
        if not _LABEL.fullmatch(label):
            raise ValueError(
                f"{label!r} is no label: up to 63 letters, digits, '_', '.' and '-' are allowed, "
                "the first a letter or digit"
            )
        with self.locked():
            if version not in self.versions():
                raise LookupError(
                    f"there is no version {version} to pin in {self.uri}, {self._content()}"
                )
            self._write_labels({**self.labels(), label: version})

    def unpin(self, label: str) -> int:
        """Takes a label away.

        Returns:
          The version that had it.

        Raises:
          LookupError: If there is no such label.
          TimeoutError: If the directory stays locked.
        """
        with self.locked():
            labels = self.labels()
            if label not in labels:
                known = f"which has {', '.join(labels)}" if labels else "which has none"
                raise LookupError(f"there is no label {label!r} in {self.uri}, {known}")
            version = labels.pop(label)
            self._write_labels(labels)
            return version

    def retain(self, keep: int) -> list[int]:
        """Deletes old versions with their provenance.

        What stays: the newest versions, those with a label, and of those that were rolled back
        again the newest.

        Args:
          keep: How many of either kind to keep, at least 1; the served version always stays.

        Returns:
          The versions that were deleted, oldest first.

        Raises:
          ValueError: If `keep` is less than 1.
          TimeoutError: If the directory stays locked.
        """
        if keep < 1:
            raise ValueError(f"cannot keep {keep} versions: at least 1 must stay")
        with self.locked():
            pinned = set(self.labels().values())
            old = sorted({*self.versions()[:-keep], *self.rolled_back()[:-keep]} - pinned)
            for version in old:
                self._delete(version)
        return old

    def _content(self) -> str:
        """What there is, for messages."""
        parts = []
        for name, versions in (("", self.versions()), ("rolled back ", self.rolled_back())):
            if versions:
                parts.append(name + ", ".join(map(str, versions)))
        return f"which has {' and '.join(parts)}" if parts else "which has none"

    def _move(self, source: str, target: str) -> None:
        """Moves a version; whoever reads `source` or `target` never sees half of it."""
        files, source_path = open_uri(source)
        target_path = open_uri(target)[1]
        if not isinstance(files, fs.LocalFileSystem):
            copy_tree(source, target, last=SAVED_MODEL)
            files.delete_file(f"{source_path}/{SAVED_MODEL}")
            files.delete_dir(source_path)
            return
        if exists(target):
            raise FileExistsError(f"{target} is in the way of {source}")
        files.create_dir(os.path.dirname(target_path))
        files.move(source_path, target_path)

    def _delete(self, version: int) -> None:
        for uri in (self.version_uri(version), self.rolled_back_uri(version)):
            if not exists(uri):
                continue
            files, path = open_uri(uri)
            if isinstance(files, fs.LocalFileSystem):
                # The new name is also the note by which an interrupted deletion is finished.
                home = os.path.join(self.uri, _PROVENANCE)
                files.move(path, open_uri(os.path.join(home, f"{_DELETED}{version}"))[1])
                self._clean_up()
                continue
            if exists(os.path.join(uri, SAVED_MODEL)):
                files.delete_file(f"{path}/{SAVED_MODEL}")
            files.delete_dir(path)
        _delete_tree(self.provenance_uri(version))

    def _clean_up(self) -> None:
        """Deletes what was to be deleted, and what a crash left half-made."""
        home = os.path.join(self.uri, _PROVENANCE)
        for name in os.listdir(open_uri(home)[1]):
            if unfinished := _UNFINISHED.fullmatch(name):
                if unfinished[1] == _DELETED:
                    _delete_tree(self.provenance_uri(int(unfinished[2])))
                _delete_tree(os.path.join(home, name))
            elif name == LABELS_FILE + _NEW:
                os.remove(open_uri(os.path.join(home, name))[1])

    def _write_labels(self, labels: dict[str, int]) -> None:
        files, path = open_uri(os.path.join(self.uri, _PROVENANCE, LABELS_FILE))
        content = (json.dumps(labels, indent=2, sort_keys=True) + "\n").encode()
        if not isinstance(files, fs.LocalFileSystem):
            _write(files, path, content)  # An object appears when it is whole.
            return
        _write(files, path + _NEW, content)
        _flush(path + _NEW)
        os.replace(path + _NEW, path)


def find_models(serving_dir: str) -> list[str]:
    """Names of the models that have a version in a Serving directory, be it rolled back."""
    files, root = open_uri(serving_dir)
    names = [
        info.base_name
        for info in files.get_file_info(fs.FileSelector(root, allow_not_found=True))
        if info.type == fs.FileType.Directory
    ]
    directories = (ModelDirectory(serving_dir, name) for name in sorted(names))
    return [d.model_name for d in directories if d.versions() or d.rolled_back()]


def model_digest(model_uri: str) -> str:
    """SHA-256 over the names and contents of a model's files, as 64 hexadecimal digits."""
    files, root = open_uri(model_uri)
    digest = hashlib.sha256()
    for name in sorted(file_sizes(model_uri)):
        content = hashlib.sha256(_read(files, f"{root}/{name}")).hexdigest()
        digest.update(f"{name} {content}\n".encode())
    return digest.hexdigest()


def file_sizes(uri: str) -> dict[str, int]:
    """Size in bytes of each file below a folder, by its path relative to it."""
    return dict(_sizes(*open_uri(uri)))


def local_path(uri: str) -> str | None:
    """Path of a local file or folder, or None if it is in an object store."""
    files, path = open_uri(uri)
    return path if isinstance(files, fs.LocalFileSystem) else None


def read_file(uri: str) -> bytes:
    """The bytes of a file.

    Raises:
      FileNotFoundError: If there is none.
    """
    return _read(*open_uri(uri))


def exists(uri: str) -> bool:
    """Whether there is a file or folder."""
    files, path = open_uri(uri)
    return bool(files.get_file_info(path).type != fs.FileType.NotFound)


def open_uri(uri: str) -> tuple[fs.FileSystem, str]:
    """The file system of a URI, and the path in it.

    Args:
      uri: A path, `gs://...` or `s3://...`. As in Amazon's own tools, the environment says where an
        S3 server is that is not Amazon's (`AWS_ENDPOINT_URL`), and with whose credentials.

    Raises:
      OSError, ValueError: If there is no such file system.
    """
    scheme, separator, rest = uri.partition("://")
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if scheme == "s3" and endpoint and "?" not in uri:
        # pyarrow reads the variable itself from version 17 on.
        files = fs.S3FileSystem(
            endpoint_override=endpoint, region=os.environ.get("AWS_REGION", "us-east-1")
        )
        return files, rest.rstrip("/")
    files, path = fs.FileSystem.from_uri(uri if separator else os.path.abspath(uri))
    return files, path.rstrip("/")


def copy_tree(source: str, target: str, last: str = "") -> None:
    """Copies the files below `source` to `target`, the one named `last` after all others."""
    _copy_tree(open_uri(source), open_uri(target), last)


def _copy_tree(
    source: tuple[fs.FileSystem, str], target: tuple[fs.FileSystem, str], last: str = ""
) -> None:
    source_files, source_root = source
    target_files, target_root = target
    names = (name for name, _ in _sizes(source_files, source_root))
    for name in sorted(names, key=lambda name: (name == last, name)):
        path = f"{target_root}/{name}"
        target_files.create_dir(os.path.dirname(path), recursive=True)
        fs.copy_files(
            f"{source_root}/{name}",
            path,
            source_filesystem=source_files,
            destination_filesystem=target_files,
        )


def _delete_tree(uri: str) -> None:
    """Deletes a folder, if there is one."""
    files, path = open_uri(uri)
    if exists(uri):
        files.delete_dir(path)


def _read_json(uri: str) -> dict[str, Any]:
    """The JSON object in a file; an empty one if there is no file."""
    try:
        content = json.loads(read_file(uri))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"{uri} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{uri} must hold a JSON object")
    return content


def _read(files: fs.FileSystem, path: str) -> bytes:
    # The name must not decide whether it is decompressed, as it would by default.
    with files.open_input_stream(path, compression=None) as stream:
        content: bytes = stream.read()
    return content


def _write(files: fs.FileSystem, path: str, content: bytes) -> None:
    with files.open_output_stream(path, compression=None) as stream:
        stream.write(content)


def _flush(path: str) -> None:
    """Has a local file, or the files below a folder, outlast a power cut."""
    files = [os.path.join(root, name) for root, _, names in os.walk(path) for name in names]
    for name in files or [path]:
        descriptor = os.open(name, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _acquire(lock: int, wait_seconds: float, uri: str) -> None:
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"another process has been changing {uri} for {wait_seconds:g} seconds"
                ) from None
        time.sleep(_LOCK_POLL_SECONDS)


def _models(uri: str) -> list[int]:
    """Numbers of the folders that hold a SavedModel, in order."""
    return sorted(
        number
        for number in set(_numbered(uri))
        if exists(os.path.join(uri, str(number), SAVED_MODEL))
    )


def _sizes(files: fs.FileSystem, root: str) -> Iterator[tuple[str, int]]:
    """Path relative to a folder and size in bytes of each file below it."""
    for info in files.get_file_info(fs.FileSelector(root, recursive=True)):
        if info.type == fs.FileType.File:
            yield info.path[len(root) + 1 :], info.size


def _numbered(uri: str) -> Iterator[int]:
    files, root = open_uri(uri)
    for info in files.get_file_info(fs.FileSelector(root, allow_not_found=True)):
        if info.base_name.isascii() and info.base_name.isdigit():
            yield int(info.base_name)
