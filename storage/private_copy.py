"""Copies a version to where nobody else can change it, and verifies that copy.

A folder that others may write can be another one a millisecond after it was verified. Code that
uses a version because it is trusted calls `private_copy` and reads nothing but what that returns.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import os
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from pyarrow import fs

from storage.encrypted_versions import Decryption
from storage.encryption_keys import EncryptionError, Keys
from storage.keys import SignatureError, TrustStore
from storage.names import SAVED_MODEL, SIGNATURE_FILE
from storage.signing import Signed, verify
from storage.uris import local_path, open_uri
from storage.versions import ModelVersions

# No version of a model has as many files or such deep folders.
_MAX_FILES = 100_000
_MAX_DEPTH = 32

# Private folders, and what is to be deleted; what nobody uses is deleted with the next copy.
PREFIX = "flightdeck-"
_ABANDONED_SECONDS = 60.0
# Descriptors by which the folders of this process are locked. A folder that is not among them is
# being deleted: who holds `_changing` may make files in those that are. By flock itself, since
# `filelock` locks files: a folder is locked as soon as it is there, and is deleted with its lock.
_locks: dict[str, int] = {}
# Those that are being deleted: a process that ends does not leave that to another thread.
_deleting: set[str] = set()
_changing = threading.Lock()
_ending = threading.Event()


class UnsafeContentError(SignatureError):
    """A version holds what is no plain file or folder, or is too large to be copied."""


@dataclass(frozen=True)
class PrivateCopy:
    """A version that only this user can change, alone in a Serving directory of its own.

    Attributes:
      directory: Its folder, laid out as a Serving directory: `directory.version_uri(version)` is
        what to load, `directory.provenance(version)` where it came from.
      version: Number of the version.
      signed: By which key and when it was signed; None if it was not to be verified.
      encrypted: Whether it was encrypted where it came from; the copy is not.
    """

    directory: ModelVersions
    version: int
    signed: Signed | None
    encrypted: bool

    def close(self) -> None:
        """Deletes the copy."""
        _delete_folder(self.directory.serving_dir)

    def keep(self, folder: str) -> None:
        """Deletes the copy but for the files below a folder of it."""
        for root, folders, names in os.walk(self.directory.serving_dir):
            folders[:] = [name for name in folders if os.path.join(root, name) != folder]
            for name in names:
                os.remove(os.path.join(root, name))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def private_copy(
    directory: ModelVersions,
    version: int,
    trust: TrustStore | None,
    *,
    rolled_back: bool = False,
    parent: str | None = None,
    keys: Keys | None = None,
) -> PrivateCopy:
    """Copies a version with its provenance into a private folder, decrypts and verifies the copy.

    The folder has mode 0700 and a name that cannot be guessed. Links and devices are refused, not
    followed. What the caller gets is, file by file, what was signed under this model's name and
    this number, provenance included: it can be loaded without a second look at `directory`.

    Args:
      directory: Where the version is; local or in an object store, and others may write to it.
      version: Its number.
      trust: Keys that may have signed it; None takes it unverified, signed or not.
      rolled_back: Whether to take the version from where those are that were rolled back.
      parent: Folder to make the private one in; None for that of temporary files.
      keys: What it is decrypted with, if it is encrypted.

    Returns:
      The copy. The caller closes it when its files are no longer read.

    Raises:
      FileNotFoundError: If there is no such version, or it went away meanwhile.
      SignatureError: If it does not verify (see `signing.verify`), has no signature, or holds
        something else than files and folders.
      EncryptionError: If it is encrypted and cannot be decrypted.
      OSError: If it cannot be copied.

    Example:
      >>> root = tempfile.TemporaryDirectory()
      >>> shared = ModelVersions(root.name, "taxi")
      >>> os.makedirs(shared.version_uri(1))
      >>> with open(f"{shared.version_uri(1)}/saved_model.pb", "wb") as file:
      ...     _ = file.write(b"a model")
      >>> with private_copy(shared, 1, None) as copy:
      ...     copy.directory.uri == shared.uri, os.listdir(copy.directory.version_uri(1))
      (False, ['saved_model.pb'])
      >>> private_copy(shared, 2, None)
      Traceback (most recent call last):
      FileNotFoundError: version 2 is not, or no longer, in ...
      >>> root.cleanup()
    """
    if directory.model_name in ("", ".", "..") or "/" in directory.model_name:
        raise ValueError(f"{directory.model_name!r} is no name of a model")
    source = directory.rolled_back_uri(version) if rolled_back else directory.version_uri(version)
    root = _make_folder(parent or tempfile.gettempdir())
    try:
        copy = ModelVersions(root, directory.model_name)
        writer = _Writer(root, keys)
        try:
            _copy_files(source, copy.version_uri(version), writer)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"version {version} is not, or no longer, in {directory.uri}"
            ) from error
        with contextlib.suppress(FileNotFoundError):  # A version from elsewhere has none.
            _copy_files(directory.provenance_uri(version), copy.provenance_uri(version), writer)
        encrypted = bool(writer.decryption.encrypted)
        signed = None
        if trust is None and writer.decryption.looks_mixed:
            raise EncryptionError(writer.decryption.looks_mixed)
        if trust is not None:
            signature = os.path.join(root, SIGNATURE_FILE)
            uri = directory.signature_uri(version)
            try:
                os.replace(copy.signature_uri(version), signature)
            except FileNotFoundError:
                raise SignatureError(f"there is no signature {uri}") from None
            signed = verify(copy, version, signature, trust, uri)
        return PrivateCopy(copy, version, signed, encrypted)
    except BaseException:
        _delete_folder(root)
        raise


def _make_folder(parent: str) -> str:
    """Makes a private folder, and deletes those that processes which were killed left behind.

    A folder is locked as long as its process lives.
    """
    with _changing:
        if _ending.is_set():
            raise InterruptedError("the process ends")
        root = tempfile.mkdtemp(prefix=PREFIX, dir=parent)  # Mode 0700.
        _locks[root] = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(_locks[root], fcntl.LOCK_EX)
    for name in os.listdir(parent):
        path = os.path.join(parent, name)
        with contextlib.suppress(OSError):
            if name.startswith(PREFIX) and path not in _locks and _is_abandoned(path):
                shutil.rmtree(path)
    return root


def _is_abandoned(path: str) -> bool:
    found = os.stat(path, follow_symlinks=False)
    # One that was just made may not be locked yet.
    if found.st_uid != os.geteuid() or time.time() - found.st_mtime < _ABANDONED_SECONDS:
        return False
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(folder)
    return True


def _delete_folder(root: str) -> None:
    with _changing:  # A copy that is still being made ends then.
        lock = _locks.pop(root, None)
        _deleting.add(root)
    shutil.rmtree(root, ignore_errors=True)
    _deleting.discard(root)
    if lock is not None:
        os.close(lock)


@atexit.register
def delete_private_copies() -> None:
    """Deletes all copies of this process, which ends, also those that are still being made."""
    with _changing:
        _ending.set()
        roots = [*_locks, *_deleting]
    for root in roots:
        _delete_folder(root)


class _Writer:
    """Writes files of a copy, decrypted, and never more than what the disk had free at first.

    Args:
      root: The private folder.
      keys: What they are decrypted with, if they are encrypted.

    Attributes:
      decryption: Tells at the end whether they were.
    """

    def __init__(self, root: str, keys: Keys | None):
        self._root = root
        self._bytes = shutil.disk_usage(root).free
        self._files = _MAX_FILES
        self.decryption = Decryption(keys)

    def write(self, read: Callable[[int], bytes], target: str, size: int) -> None:
        """Copies a file up to the size that was counted, however it grows."""
        with _changing:
            if self._root not in _locks:
                raise InterruptedError("the process ends")
            os.makedirs(os.path.dirname(target), exist_ok=True)
            file = open(target, "xb")  # noqa: SIM115
        with file:
            self.decryption.copy(_Bounded(read, size), file, os.path.relpath(target, self._root))

    def take(self, path: str, size: int) -> None:
        """Counts a file.

        Raises:
          UnsafeContentError: If it is too much.
        """
        self._files -= 1
        self._bytes -= size
        if self._files < 0:
            raise UnsafeContentError(f"{path!r} is one of more than {_MAX_FILES} files")
        if self._bytes < 0:
            raise UnsafeContentError(
                f"{path!r} of {size} bytes is more than what is left for a private copy; "
                "TMPDIR says where that is made"
            )


def _copy_files(source: str, target: str, writer: _Writer) -> None:
    """Copies the files below a folder that others may write, and follows no link.

    Raises:
      FileNotFoundError: If there is no such folder, or a file goes away meanwhile.
      UnsafeContentError: If it holds something else than files and folders, or too much.
    """
    path = local_path(source)
    if path is None:
        _copy_objects(source, target, writer)
        return
    try:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except NotADirectoryError:
        raise UnsafeContentError(f"{path} is no folder, but a link or a file") from None
    try:
        _copy_folder(folder, path, target, writer, _MAX_DEPTH)
    finally:
        os.close(folder)


def _copy_folder(folder: int, path: str, target: str, writer: _Writer, depth: int) -> None:
    """Copies what an open folder holds; names in it are looked up in that very folder."""
    if depth == 0:
        raise UnsafeContentError(f"{path!r} is more than {_MAX_DEPTH} folders deep")
    for name in sorted(os.listdir(folder), key=_saved_model_first):
        here = os.path.join(path, name)
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise UnsafeContentError(f"{here!r} is neither a file nor a folder")
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(name, flags, dir_fd=folder)
        try:
            # Another one may have taken its place meanwhile.
            found = os.fstat(descriptor)
            if stat.S_ISDIR(found.st_mode):
                _copy_folder(descriptor, here, os.path.join(target, name), writer, depth - 1)
            elif stat.S_ISREG(found.st_mode):
                writer.take(here, found.st_size)
                read = functools.partial(os.read, descriptor)
                writer.write(read, os.path.join(target, name), found.st_size)
            else:
                raise UnsafeContentError(f"{here!r} is neither a file nor a folder")
        finally:
            os.close(descriptor)


class _Bounded:
    """A file up to a size."""

    def __init__(self, read: Callable[[int], bytes], size: int):
        self._read = read
        self._left = size

    def read(self, size: int, /) -> bytes:
        chunk = self._read(min(size, self._left))
        self._left -= len(chunk)
        return chunk


def _copy_objects(source: str, target: str, writer: _Writer) -> None:
    files, root = open_uri(source)
    infos = files.get_file_info(fs.FileSelector(root, recursive=True))
    found = {i.path[len(root) + 1 :]: i for i in infos if i.type == fs.FileType.File}
    for name in sorted(found, key=_saved_model_first):
        info = found[name]
        if not {"", ".", ".."}.isdisjoint(name.split("/")):
            raise UnsafeContentError(f"{info.path!r} is no name of a file")
        writer.take(info.path, info.size)
        # The name must not decide whether it is decompressed, as it would by default.
        with files.open_input_stream(info.path, compression=None) as stream:
            writer.write(stream.read, os.path.join(target, name), info.size)


def _saved_model_first(name: str) -> bool:
    """Sorts names so that the file comes first that tells whether a version is encrypted."""
    return name != SAVED_MODEL
