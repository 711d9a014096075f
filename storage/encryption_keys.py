"""Keys of encryption: 32 bytes each, by id, in a file or in an environment variable."""

from __future__ import annotations

import base64
import binascii
import os
import re
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from storage.atomic_write import whole_file

# What a file of keys holds, where no file is named.
KEYS_VARIABLE = "FLIGHTDECK_ENCRYPTION_KEYS"
KEY_BYTES = 32
# What the id of a key is like.
KEY_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


class EncryptionError(Exception):
    """A file cannot be encrypted or decrypted, or keys cannot be had."""


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
    key = base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()
    try:
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        with whole_file(path, mode=0o600) as file:
            file.write(f"{name} {key}\n{old}".encode("ascii"))
    except OSError as error:
        raise EncryptionError(f"{path} cannot be written: {error.strerror}") from error
    return name


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
        if len(key) != KEY_BYTES or not KEY_ID.fullmatch(name):
            raise EncryptionError(
                f"line {number} of {where} is not the id of a key (up to 63 letters, digits, '_', "
                f"'.' and '-') and {KEY_BYTES} bytes in base64"
            )
        if name in keys:
            raise EncryptionError(f"line {number} of {where} has the id of a key before it")
        keys[name] = key
    if not keys:
        raise EncryptionError(f"{where} holds no key")
    return Keys(keys)
