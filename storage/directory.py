"""The layout of the Serving directory: versions that a model server reads, and their provenance.

    <serving dir>/<model name>/<version>/                          what TensorFlow Serving loads
    <serving dir>/<model name>/.flightdeck/<version>/              where it came from, and signature
    <serving dir>/<model name>/.flightdeck/rolled_back/<version>/  a version that was moved aside
    <serving dir>/<model name>/.flightdeck/labels.json             names that were given to versions
    <serving dir>/<model name>/.flightdeck/withdrawn               nothing is to be served
    <serving dir>/<model name>/.flightdeck/lock                    held by whatever changes this

This module is the one contract between the pipeline, which publishes versions, and what serves
them. Model servers ignore names that are not numbers. It imports neither TFX nor TensorFlow.

Whatever the umask, a version can be read by whoever its file mode says, and nobody else sees it
before it is whole.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pyarrow import fs

from storage.names import SAVED_MODEL

PROVENANCE_FILE = "provenance.json"
SIGNATURE_FILE = "model.sig"
# Says which version was signed and when; it is signed with the version.
STATEMENT_FILE = "signed.json"
LABELS_FILE = "labels.json"
# Model servers hold the number of a version in 64 bits.
MAX_VERSION = 2**63 - 1
FILE_MODE = 0o644
_WITHDRAWN_FILE = "withdrawn"
_PROVENANCE = ".flightdeck"
_ROLLED_BACK = "rolled_back"

# What is being done, in names that a server and `versions` pass over; a crash leaves them behind.
_STAGING = "staging-"
_DELETED = "deleted-"
_NEW = ".new"
_NOTES = tuple(
    name + _NEW for name in (LABELS_FILE, _WITHDRAWN_FILE, STATEMENT_FILE, SIGNATURE_FILE)
)
_UNFINISHED = re.compile(rf"({_STAGING}|{_DELETED})([0-9]+)")

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_LOCK_POLL_SECONDS = 0.02
_MAX_JSON_BYTES = 16 << 20


class NotAFileError(OSError):
    """There is no file, but something that would never end, or more than is wanted."""


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
      served: The version that a server takes by default from now on; None if nothing is served.
    """

    version: int
    served: int | None


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
      file_mode: Mode of the files that are published, whatever the umask; folders may be entered by
        whoever may read the files. A server of another user needs 0o644, one of the same group
        0o640.
    """

    serving_dir: str
    model_name: str
    file_mode: int = FILE_MODE

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

    def withdrawn(self) -> bool:
        """Whether the last version was rolled back on purpose, so that nothing is to be served.

        It is not so when versions merely are not there, as while storage is away.
        """
        return exists(self._withdrawn_uri) and not self.versions()

    def ignored(self) -> list[str]:
        """Names that look like numbers of versions and are none, so that no server can load them.

        These have more digits than 64 bits hold, leading zeros, or digits of another script.
        """
        numbers = (name for name in _names(self.uri) if name.isdigit())
        return sorted(name for name in numbers if name != str(_version_number(name)))

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
        """A number for a new version: the Unix time in seconds, later than any there is.

        Raises:
          ValueError: If there is the highest number that a server can load.
        """
        home = os.path.join(self.uri, _PROVENANCE)
        folders = (self.uri, home, os.path.join(home, _ROLLED_BACK))
        highest = max((number for folder in folders for number in _numbered(folder)), default=0)
        if highest >= MAX_VERSION:
            raise ValueError(
                f"version {highest} in {self.uri} leaves no higher number for a new version: "
                "move it away"
            )
        return max(int(time.time()), highest + 1)

    @contextlib.contextmanager
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
        self._make_folders()
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
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
        sign: Callable[[ModelDirectory, int], None] | None = None,
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
          sign: Signs the version before it is seen; called with a Serving directory that nobody
            else can change and that holds this version alone, and its number. What is published is
            copied from there, so that whatever is changed on the way does not verify.

        Raises:
          FileExistsError: If the version exists.
          FileNotFoundError: If there is no SavedModel in `model_uri`.
          ValueError: If no server can load a version of that number.
          TimeoutError: If the directory stays locked.
        """
        if not 0 <= version <= MAX_VERSION:
            raise ValueError(f"{version} is no number of a version: 0 to {MAX_VERSION} are")
        if not exists(os.path.join(model_uri, SAVED_MODEL)):
            raise FileNotFoundError(f"there is no {SAVED_MODEL} in {model_uri}")
        with self.locked():
            if exists(self.version_uri(version)):
                raise FileExistsError(f"version {version} exists in {self.uri}")
            if exists(self.rolled_back_uri(version)):
                raise FileExistsError(f"version {version} exists in {self.uri}, rolled back")
            _delete_tree(self.provenance_uri(version))  # Of a push that came no further.
            with tempfile.TemporaryDirectory() as work:  # Mode 0700.
                local = fs.LocalFileSystem()
                private = ModelDirectory(work, self.model_name)
                _copy_tree(open_uri(model_uri), (local, private.version_uri(version)))
                _copy_tree(open_uri(provenance_uri), (local, private.provenance_uri(version)))
                if sign:
                    sign(private, version)
                self._put(private, version)
            self._end_withdrawal()

    def _put(self, private: ModelDirectory, version: int) -> None:
        """Copies a version from a private Serving directory, and lets servers see it."""
        local = fs.LocalFileSystem()
        places = [  # The provenance first: what servers see has it.
            (private.provenance_uri(version), *open_uri(self.provenance_uri(version))),
            (private.version_uri(version), *open_uri(self.version_uri(version))),
        ]
        if not isinstance(places[0][1], fs.LocalFileSystem):
            for source, files, target in places:
                _copy_tree((local, source), (files, target), last=SAVED_MODEL)
            return
        staging = self._home(f"{_STAGING}{version}")
        _delete_tree(staging)
        os.mkdir(staging, 0o700)  # Private until it is published.
        moves: list[tuple[str, str]] = []
        for source, _, target in places:
            staged = os.path.join(staging, str(len(moves)))
            _copy_tree((local, source), (local, staged))
            _set_modes(staged, self.file_mode)
            _flush(staged)
            moves.append((staged, target))
        for staged, target in moves:
            os.rename(staged, target)
        os.rmdir(staging)

    def put_signature(self, version: int, private: ModelDirectory) -> None:
        """Takes over statement and signature of a version that was signed again.

        Args:
          version: Number of the version.
          private: The Serving directory that it was copied to and signed in.

        Raises:
          TimeoutError: If the directory stays locked.
        """
        with self.locked():
            for name in (STATEMENT_FILE, SIGNATURE_FILE):
                content = read_file(os.path.join(private.provenance_uri(version), name))
                self._write_note(os.path.join(str(version), name), content)

    def rollback(self, version: int | None = None, *, withdraw: bool = False) -> Change:
        """Moves a version aside, so that servers fall back to the newest one that is left.

        Nothing is deleted: `promote` brings it back.

        Args:
          version: The version; None for the newest.
          withdraw: Whether it may be the last one, so that servers serve nothing from then on.

        Returns:
          The version, and what is served now.

        Raises:
          LookupError: If there is no such version to roll back.
          ValueError: If it is the only version that a server can load and `withdraw` is not said,
            or a label pins it.
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
                if not withdraw:
                    raise ValueError(
                        f"version {chosen} is the only one in {self.uri} that a server can load, "
                        "so it is not rolled back: promote or push another one first, or have "
                        "nothing served with --withdraw"
                    )
                # First, so that no server takes the version for lost and goes on serving it.
                self._write_note(_WITHDRAWN_FILE, f"{chosen}\n".encode())
            self._move(self.version_uri(chosen), self.rolled_back_uri(chosen))
            return Change(chosen, self.served())

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
            self._end_withdrawal()
            return Change(chosen, self.served())

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
        _make_folder(os.path.dirname(target_path), self._mode)
        files.move(source_path, target_path)

    def _delete(self, version: int) -> None:
        for uri in (self.version_uri(version), self.rolled_back_uri(version)):
            if not exists(uri):
                continue
            files, path = open_uri(uri)
            if isinstance(files, fs.LocalFileSystem):
                # The new name is also the note by which an interrupted deletion is finished.
                files.move(path, self._home(f"{_DELETED}{version}"))
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
            elif name in _NOTES:
                os.remove(self._home(name))
        if not self.withdrawn():
            self._end_withdrawal()

    def _write_labels(self, labels: dict[str, int]) -> None:
        content = (json.dumps(labels, indent=2, sort_keys=True) + "\n").encode()
        self._write_note(LABELS_FILE, content)

    @property
    def _withdrawn_uri(self) -> str:
        return os.path.join(self.uri, _PROVENANCE, _WITHDRAWN_FILE)

    def _end_withdrawal(self) -> None:
        if exists(self._withdrawn_uri):
            files, path = open_uri(self._withdrawn_uri)
            files.delete_file(path)

    def _write_note(self, name: str, content: bytes) -> None:
        """Writes a file beside or in the provenance, for whoever may read the versions."""
        files, path = open_uri(os.path.join(self.uri, _PROVENANCE, name))
        if not isinstance(files, fs.LocalFileSystem):
            _write(files, path, content)  # An object appears when it is whole.
            return
        new = self._home(os.path.basename(name) + _NEW)
        with contextlib.suppress(FileNotFoundError):
            os.remove(new)
        with open(new, "xb") as file:  # Not through a link that somebody put there.
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), self._mode & 0o666)
            os.fsync(file.fileno())
        _make_folder(os.path.dirname(path), self._mode)
        os.replace(new, path)

    def _home(self, name: str) -> str:
        """Local path of what is beside the provenance."""
        return open_uri(os.path.join(self.uri, _PROVENANCE, name))[1]

    @property
    def _mode(self) -> int:
        """Mode of the model's local folder, which says who may read it."""
        return stat.S_IMODE(os.stat(open_uri(self.uri)[1]).st_mode)

    def _make_folders(self) -> None:
        """Makes the local folders of the model, so that they can be read like its versions."""
        os.makedirs(os.path.dirname(open_uri(self.serving_dir)[1]), exist_ok=True)
        for uri in (self.serving_dir, self.uri, os.path.join(self.uri, _PROVENANCE)):
            _make_folder(open_uri(uri)[1], _folder_mode(self.file_mode))


def find_models(serving_dir: str) -> list[str]:
    """Names of the models that have a version in a Serving directory, be it rolled back."""
    files, root = open_uri(serving_dir)
    names = [info.base_name for info in _infos(files, root) if info.type == fs.FileType.Directory]
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


def read_file(uri: str, at_most: int | None = None) -> bytes:
    """The bytes of a file.

    Args:
      uri: The file.
      at_most: How many bytes it may have; None for any number.

    Raises:
      FileNotFoundError: If there is none.
      NotAFileError: If it is a pipe, a device or a folder, which would never end, or is too large.
    """
    files, path = open_uri(uri)
    info = files.get_file_info(path)
    if info.type in (fs.FileType.Unknown, fs.FileType.Directory):
        raise NotAFileError(f"{uri} is no file")
    if at_most is not None and (info.size or 0) > at_most:
        raise NotAFileError(f"{uri} has {info.size} bytes; {at_most} are allowed")
    return _read(files, path)


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


def _make_folder(path: str, mode: int) -> None:
    """Makes a local folder of a mode that does not depend on the umask, if there is none."""
    try:
        os.mkdir(path)
    except FileExistsError:
        return
    # Where a folder's group is that of the one above, it stays so.
    os.chmod(path, mode | stat.S_IMODE(os.stat(path).st_mode) & stat.S_ISGID)


def _folder_mode(file_mode: int) -> int:
    """The mode of a file, and whoever may read it may enter the folder."""
    return file_mode | (file_mode & 0o444) >> 2


def _set_modes(folder: str, file_mode: int) -> None:
    for root, _, names in os.walk(folder):
        os.chmod(root, _folder_mode(file_mode))
        for name in names:
            os.chmod(os.path.join(root, name), file_mode)


def _read_json(uri: str) -> dict[str, Any]:
    """The JSON object in a file; an empty one if there is no file."""
    try:
        content = json.loads(read_file(uri, _MAX_JSON_BYTES))
    except FileNotFoundError:
        return {}
    except NotAFileError as error:
        raise ValueError(str(error)) from error
    except RecursionError as error:
        raise ValueError(f"{uri} is not JSON: it is too deep") from error
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
    """Has the files below a local folder outlast a power cut."""
    files = [os.path.join(root, name) for root, _, names in os.walk(path) for name in names]
    for name in files:
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
        try:
            name = info.path[len(root) + 1 :]
        except UnicodeDecodeError as error:
            raise NotAFileError(f"{root} holds a name that is no UTF-8, as no model has") from error
        if info.type == fs.FileType.File:
            yield name, info.size


def _numbered(uri: str) -> Iterator[int]:
    for name in _names(uri):
        if (number := _version_number(name)) is not None:
            yield number


def _names(uri: str) -> Iterator[str]:
    for info in _infos(*open_uri(uri)):
        yield info.base_name


def _infos(files: fs.FileSystem, folder: str) -> Iterator[fs.FileInfo]:
    """What is in a folder, but for names that are no UTF-8, which nothing of ours has."""
    for info in files.get_file_info(fs.FileSelector(folder, allow_not_found=True)):
        with contextlib.suppress(UnicodeDecodeError):
            _ = info.base_name
            yield info


def _version_number(name: str) -> int | None:
    """The number that the name of a folder is, as a model server reads it; or None."""
    if not (name.isascii() and name.isdigit()):
        return None
    number = int(name)
    return number if number <= MAX_VERSION else None
