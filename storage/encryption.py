"""The format of an encrypted file: AES-256-GCM, in segments that are authenticated one by one.

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

import secrets
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO, Protocol

from storage.encryption_keys import KEY_BYTES, KEY_ID, KEYS_VARIABLE, EncryptionError, Keys

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM


SEGMENT_BYTES = 1 << 20


# What an encrypted file begins with.
MAGIC = b"\x89FDENC1\n"
_INFO = b"flightdeck file encryption 1"
_SALT_BYTES, _PREFIX_BYTES, _TAG_BYTES = 32, 7, 16
_LENGTH = struct.Struct(">I")
_LAST = 1 << 31


class Readable(Protocol):
    """A file, or a stream from a store."""

    def read(self, size: int, /) -> bytes:
        """Up to so many bytes; none at the end."""
        ...


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
    if read_bytes(file, len(MAGIC)) != MAGIC:
        raise EncryptionError(f"{name} is not encrypted")
    yield from decrypt_rest(file, name, keys, unfinished)


def decrypt_rest(
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
    if read_bytes(file, 1):
        raise EncryptionError(f"{name} has something after its end: it was changed")


def key_of(start: bytes) -> str | None:
    """Id of the key that a file is encrypted with; None for a plain one.

    Args:
      start: The first 128 bytes of the file, or all of it.
    """
    if not start.startswith(MAGIC):
        return None
    length = start[len(MAGIC)] if len(start) > len(MAGIC) else 0
    found = start[len(MAGIC) + 1 :][:length].decode("ascii", errors="replace")
    return found if KEY_ID.fullmatch(found) else "?"


class _Cipher:
    """Seals and opens the segments of one file, in order."""

    def __init__(self, key: bytes, salt: bytes, header: bytes, name: str):
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        derived = HKDF(SHA256(), KEY_BYTES + _PREFIX_BYTES, salt, _INFO).derive(key)
        self._aead: AESGCM = AESGCM(derived[:KEY_BYTES])
        self._prefix = derived[KEY_BYTES:]
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
    return MAGIC + bytes([len(key_id)]) + key_id.encode() + salt


def _read_header(file: Readable, name: str) -> tuple[str, bytes] | None:
    """Id of the key and salt, from after the magic number on; None if the file ends before."""
    length = read_bytes(file, 1)
    key_id = read_bytes(file, length[0] if length else 0).decode("ascii", errors="replace")
    salt = read_bytes(file, _SALT_BYTES)
    if len(salt) < _SALT_BYTES:
        return None
    if not KEY_ID.fullmatch(key_id):
        raise EncryptionError(f"{name} was changed since it was encrypted: it names no key")
    return key_id, salt


def _read_segment(file: Readable) -> tuple[bool, bytes | None]:
    """Whether a segment is the last, and its ciphertext; None if the file ends before."""
    prefix = read_bytes(file, _LENGTH.size)
    if len(prefix) < _LENGTH.size:
        return False, None
    (number,) = _LENGTH.unpack(prefix)
    size = number & ~_LAST
    # Nothing is read at a length that no segment has.
    fits = _TAG_BYTES <= size <= SEGMENT_BYTES + _TAG_BYTES
    sealed = read_bytes(file, size) if fits else b""
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


def read_bytes(file: Readable, size: int) -> bytes:
    """So many bytes, or what is left; a stream from a store may give fewer at a time."""
    content = file.read(size)
    while len(content) < size and (more := file.read(size - len(content))):
        content += more
    return content
