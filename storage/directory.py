"""Changes the versions of a model in a Serving directory: publish, roll back, label, delete.

`storage.versions` describes the layout of the directory. The file mode of a version, not the umask,
decides who can read it, and nobody sees it before it is complete.
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
    TRAFFIC_FILE,
    WITHDRAWN_FILE,
)
from storage.uris import copy_between, copy_tree, delete_tree, exists, open_uri, read_file
from storage.versions import MAX_VERSION, ModelVersions

# Names of unfinished work, which servers and `versions` ignore; a crash leaves them behind.
_STAGING = "staging-"
_DELETED = "deleted-"
_NEW = ".new"
_NOTES = tuple(
    name + _NEW
    for name in (LABELS_FILE, TRAFFIC_FILE, WITHDRAWN_FILE, STATEMENT_FILE, SIGNATURE_FILE)
)
_UNFINISHED = re.compile(rf"({_STAGING}|{_DELETED})([0-9]+)")

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


@dataclass(frozen=True)
class Change:
    """The result of rolling back or promoting.

    Attributes:
      version: The version that was moved.
      served: The version that is now served by default; None if nothing is served.
    """

    version: int
    served: int | None


@dataclass(frozen=True)
class ModelDirectory(ModelVersions):
    """The versions of one model in a Serving directory, for changes.

    Each change holds the lock of the directory, and finishes or removes what a crash left behind.
    It may be killed at any moment: each version is then complete and in one place. An object store
    (`gs://`, `s3://`) has neither locks nor renames: let one process at a time change it; a crash
    may leave files there that nothing reads. A change raises `TimeoutError` if the directory stays
    locked for a minute.

    Attributes:
      file_mode: Mode of the published files, independent of the umask; folders can be entered by
        those who can read the files. A server of another user needs 0o644, one of the same group
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
        """Locks the directory against changes by other processes and threads.

        The lock is reentrant. It is a lock of the kernel (flock), so it ends with its process, and
        it works between processes on one machine, on a local file system. On an object store
        nothing is locked.

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
        """Publishes a model with its provenance as a version.

        A server never sees half a version: the copy is made under a name that servers ignore and
        renamed when it is whole. An object store cannot rename a folder, so there the file that
        servers watch for, `saved_model.pb`, comes last.

        Args:
          version: Number of the version; must not exist, not even rolled back.
          model_uri: Folder of the SavedModel to copy.
          provenance_uri: Folder of its provenance.
          sign: Signs the version before it is visible; called with a private Serving directory that
            holds only this version, and its number. The version is published from there, so that
            later changes do not verify.

        Raises:
          FileExistsError: If the version exists.
          FileNotFoundError: If there is no SavedModel in `model_uri`.
          ValueError: If no server can load a version of that number.
        """
        if not 0 <= version <= MAX_VERSION:
            raise ValueError(f"{version} is not a version number: 0 to {MAX_VERSION} are allowed")
        if not exists(os.path.join(model_uri, SAVED_MODEL)):
            raise FileNotFoundError(f"there is no {SAVED_MODEL} in {model_uri}")
        with self.locked():
            if exists(self.version_uri(version)):
                raise FileExistsError(f"version {version} exists in {self.uri}")
            if exists(self.rolled_back_uri(version)):
                raise FileExistsError(f"version {version} exists in {self.uri}, rolled back")
            delete_tree(self.provenance_uri(version))  # Left by an interrupted push.
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
        places = {  # The provenance first, so that every visible version has it.
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
        """Replaces statement and signature of a version that was signed again.

        Args:
          version: Number of the version.
          private: The Serving directory that it was copied to and signed in.
        """
        with self.locked():
            for name in (STATEMENT_FILE, SIGNATURE_FILE):
                content = read_file(os.path.join(private.provenance_uri(version), name))
                self.write_note(os.path.join(str(version), name), content)

    def rollback(self, version: int | None = None, *, withdraw: bool = False) -> Change:
        """Rolls a version back: moves it aside, so that servers fall back to the newest one left.

        Nothing is deleted: `promote` brings it back.

        Args:
          version: The version; None for the newest.
          withdraw: Whether the last version may be rolled back, so that nothing is served.

        Returns:
          The version, and what is served now.

        Raises:
          LookupError: If there is no such version to roll back.
          ValueError: If it is the only version that a server can load and `withdraw` is false, or a
            label pins it.
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
                        "so it is not rolled back: promote or push another one first, or use "
                        "--withdraw to serve nothing"
                    )
                # First, so that no server thinks the version was lost and keeps serving it.
                self.write_note(WITHDRAWN_FILE, f"{chosen}\n".encode())
            self._move(self.version_uri(chosen), self.rolled_back_uri(chosen))
            return Change(chosen, self.served())

    def promote(self, version: int | None = None) -> Change:
        """Promotes a version that was rolled back. It is served if it is then the newest.

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
        """Gives a version a label; if another version has the label, it moves.

        A version with a label is not deleted by `retain`, and servers serve it by its label.

        Args:
          version: A version that a server can load.
          label: Up to 63 letters, digits, `_`, `.` and `-`; the first a letter or digit.

        Raises:
          LookupError: If there is no such version.
          ValueError: If the label is not allowed.
        """
        if not _LABEL.fullmatch(label):
            raise ValueError(
                f"{label!r} is not a label: up to 63 letters, digits, '_', '.' and '-' are "
                "allowed, the first a letter or digit"
            )
        with self.locked():
            self._choose(version, self.versions(), "pin")
            self._write_labels({**self.labels(), label: version})

    def unpin(self, label: str) -> int:
        """Removes a label.

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

        It keeps the newest versions, those with a label, and the newest of those rolled back.

        Args:
          keep: Number of versions of either kind to keep, at least 1; the served version always
            stays.

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
        """Chooses a version among those given; by default the newest."""
        chosen = max(versions, default=None) if version is None else version
        if chosen is not None and chosen in versions:
            return chosen
        named = "no version" if chosen is None else f"no version {chosen}"
        kinds = {"": self.versions(), "rolled back ": self.rolled_back()}
        parts = [kind + ", ".join(map(str, found)) for kind, found in kinds.items() if found]
        known = " and ".join(parts) or "none"
        raise LookupError(f"there is {named} to {what_for} in {self.uri}, which has {known}")

    def _move(self, source: str, target: str) -> None:
        """Moves a version atomically."""
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
                # The new name also marks an interrupted deletion, to be finished.
                files.move(path, self._home(f"{_DELETED}{version}"))
                self._clean_up()
                continue
            if exists(os.path.join(uri, SAVED_MODEL)):
                files.delete_file(f"{path}/{SAVED_MODEL}")
            files.delete_dir(path)
        delete_tree(self.provenance_uri(version))

    def _clean_up(self) -> None:
        """Finishes interrupted deletions, and deletes unfinished versions."""
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
        self.write_note(LABELS_FILE, f"{text}\n".encode())

    def _end_withdrawal(self) -> None:
        if exists(self.withdrawn_uri):
            files, path = open_uri(self.withdrawn_uri)
            files.delete_file(path)

    def write_note(self, name: str, content: bytes) -> None:
        """Writes a file next to or in the provenance, readable like the versions."""
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
        """Local path of a file next to the provenance."""
        return open_uri(os.path.join(self.home_uri, name))[1]

    @property
    def _mode(self) -> int:
        """Mode of the model's local folder, which decides who may read it."""
        return stat.S_IMODE(os.stat(open_uri(self.uri)[1]).st_mode)
