"""Changes the versions of a model in a Serving directory: publishes, moves aside, labels, deletes.

`storage.versions` says how the directory is laid out. Whatever the umask, a version can be read by
those whom its file mode allows, and nobody else sees it before it is whole.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from filelock import FileLock, Timeout
from pyarrow import fs

from storage.atomic_write import whole_file, write_whole
from storage.folders import folder_mode, make_folder, publish_folders
from storage.names import (
    LABELS_FILE,
    LOCK_FILE,
    SAVED_MODEL,
    SIGNATURE_FILE,
    STATEMENT_FILE,
    WITHDRAWN_FILE,
)
from storage.uris import copy_between, copy_tree, delete_tree, exists, open_uri, read_file
from storage.versions import MAX_VERSION, ModelVersions

# What is being done, in names that a server and `versions` pass over; a crash leaves them behind.
_STAGING = "staging-"
_DELETED = "deleted-"
_NEW = ".new"
_NOTES = tuple(
    name + _NEW for name in (LABELS_FILE, WITHDRAWN_FILE, STATEMENT_FILE, SIGNATURE_FILE)
)
_UNFINISHED = re.compile(rf"({_STAGING}|{_DELETED})([0-9]+)")

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


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
class ModelDirectory(ModelVersions):
    """The versions of one model under a Serving directory, to be changed.

    Each change holds the lock of the directory, finishes or removes what a crash left behind, and
    may itself be killed at any moment: each version is then whole and in one place. An object store
    (`gs://`, `s3://`) has neither locks nor renames: let one process at a time change it; a crash
    may leave files there that nothing reads. A change raises `TimeoutError` if the directory stays
    locked for a minute.

    Attributes:
      file_mode: Mode of the files that are published, whatever the umask; folders may be entered by
        who may read the files. A server of another user needs 0o644, one of the same group
        0o640.

    Example:
      >>> work = tempfile.TemporaryDirectory()
      >>> model, provenance = f"{work.name}/model", f"{work.name}/provenance"
      >>> write_whole(f"{model}/saved_model.pb", b"a model")
      >>> write_whole(f"{provenance}/provenance.json", b'{"run": "first"}')
      >>> directory = ModelDirectory(f"{work.name}/serving", "taxi")
      >>> directory.publish(1, model, provenance)
      >>> directory.publish(2, model, provenance)
      >>> directory.pin(1, "stable")
      >>> directory.rollback()
      Change(version=2, served=1)
      >>> directory.versions(), directory.rolled_back(), directory.labels()
      ([1], [2], {'stable': 1})
      >>> work.cleanup()
    """

    file_mode: int = 0o644

    @contextlib.contextmanager
    def locked(self, wait_seconds: float = 60) -> Iterator[None]:
        """Keeps other processes and threads from changing the directory meanwhile.

        The thread that holds the lock may enter again. It is the kernel's (flock), so that it ends
        with its process however that ends, and it holds among processes on one machine, on a local
        file system. On an object store nothing is locked.

        Args:
          wait_seconds: How long to wait for the process that holds it.

        Raises:
          TimeoutError: If it is held for longer.
        """
        files, path = open_uri(os.path.join(self.home_uri, LOCK_FILE))
        if not isinstance(files, fs.LocalFileSystem):
            yield
            return
        # All objects of this process that name the same file are one lock, with a count a thread.
        lock = FileLock(path, mode=0o644, is_singleton=True, fallback_to_soft=False)
        if lock.is_locked:
            yield
            return
        # The local folders of the model, so that they can be read like its versions.
        os.makedirs(os.path.dirname(open_uri(self.serving_dir)[1]), exist_ok=True)
        for uri in (self.serving_dir, self.uri, self.home_uri):
            make_folder(open_uri(uri)[1], folder_mode(self.file_mode))
        try:
            held = lock.acquire(timeout=wait_seconds)
        except Timeout:
            raise TimeoutError(
                f"another process has been changing {self.uri} for {wait_seconds:g} seconds"
            ) from None
        with held:
            self._clean_up()
            yield

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
        servers watch for, `saved_model.pb`, comes last.

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
            delete_tree(self.provenance_uri(version))  # Of a push that came no further.
            with tempfile.TemporaryDirectory() as work:  # Mode 0700.
                local = fs.LocalFileSystem()
                private = ModelDirectory(work, self.model_name)
                copy_between(open_uri(model_uri), (local, private.version_uri(version)))
                copy_between(open_uri(provenance_uri), (local, private.provenance_uri(version)))
                if sign:
                    sign(private, version)
                self._put(private, version)
            self._end_withdrawal()

    def _put(self, private: ModelDirectory, version: int) -> None:
        """Copies a version from a private Serving directory, and lets servers see it."""
        places = {  # The provenance first: what servers see has it.
            private.provenance_uri(version): open_uri(self.provenance_uri(version)),
            private.version_uri(version): open_uri(self.version_uri(version)),
        }
        if not isinstance(open_uri(self.uri)[0], fs.LocalFileSystem):
            for source, target in places.items():
                copy_between((fs.LocalFileSystem(), source), target, last=SAVED_MODEL)
            return
        targets = {source: path for source, (_, path) in places.items()}
        publish_folders(targets, self._home(f"{_STAGING}{version}"), self.file_mode)

    def put_signature(self, version: int, private: ModelVersions) -> None:
        """Takes over statement and signature of a version that was signed again.

        Args:
          version: Number of the version.
          private: The Serving directory that it was copied to and signed in.
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
        """
        with self.locked():
            versions = self.versions()
            chosen = self._choose(version, versions, "roll back")
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
                self._write_note(WITHDRAWN_FILE, f"{chosen}\n".encode())
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
        """
        with self.locked():
            chosen = self._choose(version, self.rolled_back(), "promote")
            self._move(self.rolled_back_uri(chosen), self.version_uri(chosen))
            self._end_withdrawal()
            return Change(chosen, self.served())

    def pin(self, version: int, label: str) -> None:
        """Gives a version a label, which it takes over from the version that had it.

        A version with a label is not deleted by `retain`, and servers serve it by its label.

        Args:
          version: A version that a server can load.
          label: Up to 63 letters, digits, `_`, `.` and `-`; the first a letter or digit.

        Raises:
          LookupError: If there is no such version.
          ValueError: If the label is not of that form.
        """
        if not _LABEL.fullmatch(label):
            raise ValueError(
                f"{label!r} is no label: up to 63 letters, digits, '_', '.' and '-' are allowed, "
                "the first a letter or digit"
            )
        with self.locked():
            self._choose(version, self.versions(), "pin")
            self._write_labels({**self.labels(), label: version})

    def unpin(self, label: str) -> int:
        """Takes a label away.

        Returns:
          The version that had it.

        Raises:
          LookupError: If there is no such label.
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
        """
        if keep < 1:
            raise ValueError(f"cannot keep {keep} versions: at least 1 must stay")
        with self.locked():
            pinned = set(self.labels().values())
            old = sorted({*self.versions()[:-keep], *self.rolled_back()[:-keep]} - pinned)
            for version in old:
                self._delete(version)
        return old

    def _choose(self, version: int | None, versions: list[int], what_for: str) -> int:
        """A version among those given; the newest unless one is named."""
        chosen = max(versions, default=None) if version is None else version
        if chosen is not None and chosen in versions:
            return chosen
        named = "no version" if chosen is None else f"no version {chosen}"
        kinds = {"": self.versions(), "rolled back ": self.rolled_back()}
        parts = [kind + ", ".join(map(str, found)) for kind, found in kinds.items() if found]
        known = " and ".join(parts) or "none"
        raise LookupError(f"there is {named} to {what_for} in {self.uri}, which has {known}")

    def _move(self, source: str, target: str) -> None:
        """Moves a version; readers of `source` or `target` never see half of it."""
        files, source_path = open_uri(source)
        target_path = open_uri(target)[1]
        if not isinstance(files, fs.LocalFileSystem):
            copy_tree(source, target, last=SAVED_MODEL)
            files.delete_file(f"{source_path}/{SAVED_MODEL}")
            files.delete_dir(source_path)
            return
        if exists(target):
            raise FileExistsError(f"{target} is in the way of {source}")
        make_folder(os.path.dirname(target_path), self._mode)
        files.move(source_path, target_path)

    def _delete(self, version: int) -> None:
        for uri in filter(exists, (self.version_uri(version), self.rolled_back_uri(version))):
            files, path = open_uri(uri)
            if isinstance(files, fs.LocalFileSystem):
                # The new name is also the note by which an interrupted deletion is finished.
                files.move(path, self._home(f"{_DELETED}{version}"))
                self._clean_up()
                continue
            if exists(os.path.join(uri, SAVED_MODEL)):
                files.delete_file(f"{path}/{SAVED_MODEL}")
            files.delete_dir(path)
        delete_tree(self.provenance_uri(version))

    def _clean_up(self) -> None:
        """Deletes what was to be deleted, and what a crash left half-made."""
        for name in os.listdir(self._home("")):
            if unfinished := _UNFINISHED.fullmatch(name):
                if unfinished[1] == _DELETED:
                    delete_tree(self.provenance_uri(int(unfinished[2])))
                delete_tree(self._home(name))
            elif name in _NOTES:
                os.remove(self._home(name))
        if not self.withdrawn():
            self._end_withdrawal()

    def _write_labels(self, labels: dict[str, int]) -> None:
        text = json.dumps(labels, indent=2, sort_keys=True)
        self._write_note(LABELS_FILE, f"{text}\n".encode())

    def _end_withdrawal(self) -> None:
        if exists(self.withdrawn_uri):
            files, path = open_uri(self.withdrawn_uri)
            files.delete_file(path)

    def _write_note(self, name: str, content: bytes) -> None:
        """Writes a file beside or in the provenance, for those who may read the versions."""
        uri = os.path.join(self.home_uri, name)
        files, path = open_uri(uri)
        if not isinstance(files, fs.LocalFileSystem):
            write_whole(uri, content)
            return
        make_folder(os.path.dirname(path), self._mode)
        part = self._home(os.path.basename(name) + _NEW)
        with whole_file(path, mode=self._mode & 0o666, part=part) as file:
            file.write(content)

    def _home(self, name: str) -> str:
        """Local path of what is beside the provenance."""
        return open_uri(os.path.join(self.home_uri, name))[1]

    @property
    def _mode(self) -> int:
        """Mode of the model's local folder, which says who may read it."""
        return stat.S_IMODE(os.stat(open_uri(self.uri)[1]).st_mode)
