"""Encrypts files at rest with AES-256-GCM: versions of a model, and the request log.

The construction is STREAM (Hoang, Reyhanitabar, Rogaway and Vizár, "Online
Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance", 2015), much as Tink's
AES-GCM-HKDF streaming has it. Each file has a key of its own:

    file             = header, segment, ..., last segment
    header           = magic, length of the key's id (1 byte), the id, salt (32 bytes)
    segment          = length (4 bytes; the highest bit marks the last one), ciphertext with tag
    key, prefix      = HKDF-SHA256(the key with that id, salt), 32 and 7 bytes
    nonce            = prefix, number of the segment (4 bytes), 1 for the last segment, else 0
    associated data  = header, name of the file

A segment is given out once it has been authenticated; one that was changed, removed, added or
moved is refused, and so is a file that was cut or that lies under another name. The name is the
path in the Serving directory, `<model>/<version>/<path>`, or in the request log. What remains to be
seen is the names and sizes of files.

`cryptography` takes a moment to import, so the functions here do it when they are called.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import re
import secrets
import stat
import struct
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, BinaryIO, Protocol

from storage.directory import (
    PROVENANCE_FILE,
    SIGNATURE_FILE,
    STATEMENT_FILE,
    ModelDirectory,
    local_path,
)

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

# What a file of keys holds, where no file is named.
KEYS_VARIABLE = "FLIGHTDECK_ENCRYPTION_KEYS"

# Where Linux has a folder in memory.
MEMORY = "/dev/shm"

SEGMENT_BYTES = 1 << 20

_PROVENANCE = ".flightdeck"
# Of the provenance, what is read without a key: to list, compare and move versions, and to see by
# whom one was signed.
CLEAR_FILES = frozenset({PROVENANCE_FILE, SIGNATURE_FILE, STATEMENT_FILE})

_MAGIC = b"\x89FDENC1\n"
_INFO = b"flightdeck file encryption 1"
_KEY_BYTES, _SALT_BYTES, _PREFIX_BYTES, _TAG_BYTES = 32, 32, 7, 16
_LENGTH = struct.Struct(">I")
_LAST = 1 << 31
_REENCRYPTED = ".reencrypted"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


class EncryptionError(Exception):
    """A file cannot be encrypted or decrypted, or keys cannot be had."""


class Readable(Protocol):
    """A file, or a stream from a store."""

    def read(self, size: int, /) -> bytes:
        """Up to so many bytes; none at the end."""
        ...


@dataclass(frozen=True)
class Keys:
    """Keys by id.

    Attributes:
      by_id: 32 bytes each; the first encrypts, all decrypt.
    """

    by_id: Mapping[str, bytes] = field(repr=False)

    @property
    def first(self) -> str:
        """Id of the key that encrypts."""
        return next(iter(self.by_id))


def load_keys(path: str = "") -> Keys | None:
    """Reads keys from a file, or from the environment variable `FLIGHTDECK_ENCRYPTION_KEYS`.

    A line is the id of a key and 32 bytes in base64; the first key encrypts, all decrypt. A comment
    begins with `#`.

    Args:
      path: The file; "" for the environment.

    Returns:
      The keys; None if no file is named and the variable is not set.

    Raises:
      EncryptionError: If the file cannot be read or others may read it, or a line is not of that
        form. No message holds anything of a key.
    """
    if path:
        return _parse_keys(_read_key_file(path), path)
    if text := os.environ.get(KEYS_VARIABLE):
        return _parse_keys(text, f"the variable {KEYS_VARIABLE}")
    return None


def require_keys(path: str = "") -> Keys:
    """Like `load_keys`, where there must be a key.

    Raises:
      EncryptionError: If there is none, or as `load_keys` does.
    """
    if keys := load_keys(path):
        return keys
    raise EncryptionError(
        f"there is no key to encrypt with: name a file of keys, or set {KEYS_VARIABLE}; "
        "`python -m serving new-key FILE` makes one"
    )


def add_key(path: str) -> str:
    """Puts a new key first in a file of keys, which is made where there is none.

    Returns:
      Id of the key.

    Raises:
      EncryptionError: If the file cannot be read or written, or is not one of keys.
    """
    old = ""
    if os.path.exists(path):
        old = _read_key_file(path)
        _parse_keys(old, path)
    name = f"{datetime.now(UTC):%Y%m%d}-{secrets.token_hex(3)}"
    key = base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode()
    folder, base = os.path.split(os.path.abspath(path))
    try:
        os.makedirs(folder, exist_ok=True)
        descriptor, part = tempfile.mkstemp(prefix=f".{base}.", dir=folder)  # Mode 0600.
        try:
            with open(descriptor, "w", encoding="ascii") as file:
                file.write(f"{name} {key}\n{old}")
                file.flush()
                os.fsync(descriptor)
            os.replace(part, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.remove(part)
    except OSError as error:
        raise EncryptionError(f"{path} cannot be written: {error.strerror}") from error
    return name


class Encryptor:
    """Writes an encrypted file, a segment at a time.

    Args:
      file: Where it goes.
      keys: The first encrypts.
      name: What the file must be called when it is decrypted.
    """

    def __init__(self, file: BinaryIO, keys: Keys, name: str):
        self._file = file
        self._waiting = bytearray()
        salt = secrets.token_bytes(_SALT_BYTES)
        header = _header(keys.first, salt)
        self._cipher = _Cipher(keys.by_id[keys.first], salt, header, name)
        file.write(header)

    def write(self, content: bytes) -> None:
        """Adds to the content of the file."""
        self._waiting += content
        while len(self._waiting) > SEGMENT_BYTES:
            self._put(SEGMENT_BYTES)

    def flush(self) -> None:
        """Ends the segment, so that all that was written so far can be decrypted."""
        if self._waiting:
            self._put(len(self._waiting))
        self._file.flush()

    def end(self) -> None:
        """Writes the last segment, without which a file is taken to be cut."""
        self._put(len(self._waiting), last=True)
        self._file.flush()

    def _put(self, size: int, last: bool = False) -> None:
        content = bytes(self._waiting[:size])
        del self._waiting[:size]
        sealed = self._cipher.seal(content, last)
        self._file.write(_LENGTH.pack(len(sealed) | (_LAST if last else 0)))
        self._file.write(sealed)


def decrypt(
    file: Readable, name: str, keys: Keys | None, *, unfinished: bool = False
) -> Iterator[bytes]:
    """Decrypts a file, a segment at a time.

    What was given out is of no use before the end is reached: only then is it known to be whole.

    Args:
      file: The file, at its beginning.
      name: What it was called when it was encrypted.
      keys: The keys, if there are any.
      unfinished: Whether to take what is whole of a file that was never finished.

    Yields:
      The content.

    Raises:
      EncryptionError: If the key is missing, or the file is not what was encrypted under that name.
    """
    if _read(file, len(_MAGIC)) != _MAGIC:
        raise EncryptionError(f"{name} is not encrypted")
    yield from _decrypt_rest(file, name, keys, unfinished)


def _decrypt_rest(
    file: Readable, name: str, keys: Keys | None, unfinished: bool = False
) -> Iterator[bytes]:
    """As `decrypt`, from after the magic number on."""
    header = _read_header(file, name)
    if header is None and unfinished:
        return
    if header is None:
        raise _cut(name)
    key_id, salt = header
    cipher = _Cipher(_find_key(key_id, name, keys), salt, _header(key_id, salt), name)
    last = False
    while not last:
        last, sealed = _read_segment(file)
        if sealed is None:
            if unfinished:
                return
            raise _cut(name)
        content = cipher.open(sealed, last)
        if content is None:
            # After a crash of the machine the end of a file may hold anything.
            if unfinished and cipher.number > 1:
                return
            raise EncryptionError(
                f"{name} was changed or moved since it was encrypted, or the key {key_id} is "
                "another one"
            )
        yield content
    if _read(file, 1):
        raise EncryptionError(f"{name} has something after its end: it was changed")


def key_of(start: bytes) -> str | None:
    """Id of the key that a file is encrypted with; None for a plain one.

    Args:
      start: The first 128 bytes of the file, or all of it.
    """
    if not start.startswith(_MAGIC):
        return None
    length = start[len(_MAGIC)] if len(start) > len(_MAGIC) else 0
    found = start[len(_MAGIC) + 1 :][:length].decode("ascii", errors="replace")
    return found if _ID.fullmatch(found) else "?"


def encrypt_tree(root: str, keys: Keys) -> None:
    """Encrypts the files of a Serving directory, but for those that are read without a key.

    Args:
      root: A local folder that nobody else can change, as `private_copy` makes it.
      keys: The first encrypts.
    """
    for path in _files(root):
        if not _is_clear(_name(path, root)):
            with open(path, "rb") as file, _replacing(path, f"{path}.new") as new:
                encryptor = Encryptor(new, keys, _name(path, root))
                while chunk := file.read(SEGMENT_BYTES):
                    encryptor.write(chunk)
                encryptor.end()


class Decryption:
    """Decrypts the files of a version while they are copied, if they are encrypted.

    Args:
      keys: The keys, if there are any.
    """

    def __init__(self, keys: Keys | None):
        self._keys = keys
        self._encrypted = ""
        self._plain = ""

    def copy(self, source: Readable, target: BinaryIO, name: str) -> None:
        """Copies a file.

        Args:
          source: The file.
          target: Where its content goes. It is of no use before `finish` has been called.
          name: Path of the file in the Serving directory that it was published in.

        Raises:
          EncryptionError: If it is not what was encrypted under its name, or its key is missing.
        """
        start = _read(source, len(_MAGIC))
        if start == _MAGIC:
            self._encrypted = name
            target.writelines(_decrypt_rest(source, name, self._keys))
            return
        if not _is_clear(name):
            self._plain = name
        target.write(start)
        while chunk := source.read(SEGMENT_BYTES):
            target.write(chunk)

    def finish(self) -> bool:
        """Whether the files were encrypted.

        Raises:
          EncryptionError: If some were and others were not.
        """
        if self._encrypted and self._plain:
            raise EncryptionError(
                f"{self._plain} is not encrypted, but {self._encrypted} is: the version was changed"
            )
        return bool(self._encrypted)


def reencrypt_versions(directory: ModelDirectory, keys: Keys) -> int:
    """Has the versions of a model that are encrypted be encrypted with the first key.

    It may be ended at any moment and begun again: each file is whole, under one key or the other.

    Args:
      directory: A local Serving directory.
      keys: Those that versions are encrypted with, and first the new one.

    Returns:
      How many files were changed.

    Raises:
      EncryptionError: If a file cannot be decrypted, or the directory is in an object store.
      TimeoutError: If the directory stays locked.
    """
    root = local_path(directory.serving_dir)
    if root is None:
        raise EncryptionError(
            f"{directory.serving_dir} is in an object store: copy it to a disk, encrypt it again "
            "there, and copy it back"
        )
    directory = ModelDirectory(root, directory.model_name)
    with directory.locked():
        here, aside = directory.versions(), directory.rolled_back()
        published = {directory.version_uri(version): version for version in here}
        published |= {directory.rolled_back_uri(version): version for version in aside}
        names = {
            path: _name(path.replace(folder, directory.version_uri(version), 1), root)
            for folder, version in published.items()
            for path in _files(folder)
        }
        for version in (*here, *aside):
            names |= {path: _name(path, root) for path in _files(directory.provenance_uri(version))}
        new = os.path.join(directory.uri, _PROVENANCE, _REENCRYPTED)
        return sum(_reencrypt(path, name, keys, new) for path, name in names.items())


def reencrypt_log(folder: str, keys: Keys) -> int:
    """Has the files of a request log that are encrypted be encrypted with the first key.

    Args:
      folder: A local request log; those of its files that are still being written are left.
      keys: Those that it is encrypted with, and first the new one.

    Returns:
      How many files were changed.

    Raises:
      EncryptionError: If a file cannot be decrypted.
    """
    new = os.path.join(folder, _REENCRYPTED)
    files = (path for path in _files(folder) if path.endswith(".gz"))
    return sum(_reencrypt(path, _name(path, folder), keys, new) for path in files)


def _reencrypt(path: str, name: str, keys: Keys, temporary: str) -> bool:
    """Encrypts a file again; whether that was needed."""
    with open(path, "rb") as file:
        if key_of(file.read(128)) in (None, keys.first):
            return False
        file.seek(0)
        with _replacing(path, temporary) as new:
            encryptor = Encryptor(new, keys, name)
            for content in decrypt(file, name, keys):
                encryptor.write(content)
            encryptor.end()
    return True


def check_is_memory(folder: str) -> None:
    """Refuses a folder to decrypt into that is on a disk, from which it could be read later.

    Raises:
      EncryptionError: If it is not there, or on a disk.
    """
    if not os.path.isdir(folder):
        raise EncryptionError(f"there is no folder {folder} to decrypt into")
    if (kind := _file_system(folder)) not in ("tmpfs", "ramfs"):
        raise EncryptionError(
            f"{folder} is on a file system of kind {kind}, not in memory: what is decrypted there "
            "could be read from the disk; name a folder on a tmpfs, or allow it with "
            "--decrypt-to-disk"
        )


def _file_system(folder: str) -> str:
    """Kind of the file system that a folder is on, as Linux calls it."""
    device = os.stat(folder).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
        for line in mounts:
            fields = line.split()
            if fields[2] == wanted:
                return fields[fields.index("-") + 1]
    return "unknown"


def _is_clear(name: str) -> bool:
    """Whether a file of a Serving directory is one that is read without a key."""
    _, *folders, base = name.split("/")
    return len(folders) == 2 and folders[0] == _PROVENANCE and base in CLEAR_FILES


def _files(root: str) -> list[str]:
    return [os.path.join(folder, name) for folder, _, names in os.walk(root) for name in names]


def _name(path: str, root: str) -> str:
    return os.path.relpath(path, root)


@contextlib.contextmanager
def _replacing(path: str, new: str) -> Iterator[BinaryIO]:
    """A file of the same owner and mode that takes the place of another one when it is whole."""
    try:
        with open(new, "wb") as file:
            old = os.stat(path)
            with contextlib.suppress(PermissionError):
                os.fchown(file.fileno(), old.st_uid, old.st_gid)
            os.fchmod(file.fileno(), stat.S_IMODE(old.st_mode))
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.remove(new)
        raise


class _Cipher:
    """Seals and opens the segments of one file, in order."""

    def __init__(self, key: bytes, salt: bytes, header: bytes, name: str):
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        derived = HKDF(SHA256(), _KEY_BYTES + _PREFIX_BYTES, salt, _INFO).derive(key)
        self._aead: AESGCM = AESGCM(derived[:_KEY_BYTES])
        self._prefix = derived[_KEY_BYTES:]
        self._header_and_name = header + name.encode()
        self.number = 0

    def seal(self, content: bytes, last: bool) -> bytes:
        return self._aead.encrypt(self._nonce(last), content, self._header_and_name)

    def open(self, sealed: bytes, last: bool) -> bytes | None:
        """The content of the next segment; None if it is not what was encrypted."""
        from cryptography.exceptions import InvalidTag

        try:
            return self._aead.decrypt(self._nonce(last), sealed, self._header_and_name)
        except InvalidTag:
            return None

    def _nonce(self, last: bool) -> bytes:
        nonce = self._prefix + struct.pack(">IB", self.number, last)
        self.number += 1
        return nonce


def _header(key_id: str, salt: bytes) -> bytes:
    return _MAGIC + bytes([len(key_id)]) + key_id.encode() + salt


def _read_header(file: Readable, name: str) -> tuple[str, bytes] | None:
    """Id of the key and salt, from after the magic number on; None if the file ends before."""
    length = _read(file, 1)
    key_id = _read(file, length[0] if length else 0).decode("ascii", errors="replace")
    salt = _read(file, _SALT_BYTES)
    if len(salt) < _SALT_BYTES:
        return None
    if not _ID.fullmatch(key_id):
        raise EncryptionError(f"{name} was changed since it was encrypted: it names no key")
    return key_id, salt


def _read_segment(file: Readable) -> tuple[bool, bytes | None]:
    """Whether a segment is the last, and its ciphertext; None if the file ends before."""
    prefix = _read(file, _LENGTH.size)
    if len(prefix) < _LENGTH.size:
        return False, None
    (number,) = _LENGTH.unpack(prefix)
    size = number & ~_LAST
    # Nothing is read at a length that no segment has.
    fits = _TAG_BYTES <= size <= SEGMENT_BYTES + _TAG_BYTES
    sealed = _read(file, size) if fits else b""
    return bool(number & _LAST), sealed if fits and len(sealed) == size else None


def _cut(name: str) -> EncryptionError:
    return EncryptionError(f"{name} was cut, or changed since it was encrypted")


def _find_key(key_id: str, name: str, keys: Keys | None) -> bytes:
    if keys is None:
        raise EncryptionError(
            f"{name} is encrypted with the key {key_id}: name a file of keys that has it "
            f"(--encryption-keys, in a pipeline serving.encryption_keys), or set {KEYS_VARIABLE}"
        )
    if key_id not in keys.by_id:
        raise EncryptionError(
            f"{name} is encrypted with the key {key_id}, which is not among those given: "
            f"{', '.join(keys.by_id)}"
        )
    return keys.by_id[key_id]


def _read(file: Readable, size: int) -> bytes:
    """So many bytes, or what is left; a stream from a store may give fewer at a time."""
    content = file.read(size)
    while len(content) < size and (more := file.read(size - len(content))):
        content += more
    return content


def _read_key_file(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            info = os.fstat(file.fileno())
            content = file.read()
    except OSError as error:
        raise EncryptionError(f"the keys {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise EncryptionError(f"{path} is no file of keys") from None
    # Kubernetes gives a Secret to a user other than root by the group: 0440, owned by root.
    mine = info.st_uid == os.geteuid()
    if stat.S_IMODE(info.st_mode) & (0o077 if mine else 0o037):
        raise EncryptionError(
            f"the keys {path} have mode {stat.S_IMODE(info.st_mode):04o}, so that others can use "
            f"them; allow their owner alone: chmod 600 {path}"
        )
    return content


def _parse_keys(text: str, where: str) -> Keys:
    keys: dict[str, bytes] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            name, encoded = words
            key = base64.b64decode(encoded, validate=True)
        except (ValueError, binascii.Error):
            key = b""
        # The line is not shown: it may hold a key.
        if len(key) != _KEY_BYTES or not _ID.fullmatch(name):
            raise EncryptionError(
                f"line {number} of {where} is not the id of a key (up to 63 letters, digits, '_', "
                f"'.' and '-') and {_KEY_BYTES} bytes in base64"
            )
        if name in keys:
            raise EncryptionError(f"line {number} of {where} has the id of a key before it")
        keys[name] = key
    if not keys:
        raise EncryptionError(f"{where} holds no key")
    return Keys(keys)
