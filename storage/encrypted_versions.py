"""Which files of a version are encrypted, and how they are read and written."""

from __future__ import annotations

import os
from typing import BinaryIO

from storage.atomic_write import whole_file
from storage.encryption import MAGIC, SEGMENT_BYTES, Encryptor, Readable, decrypt_rest, read_bytes
from storage.encryption_keys import EncryptionError, Keys
from storage.names import PROVENANCE, PROVENANCE_FILE, SIGNATURE_FILE, STATEMENT_FILE

# Of the provenance, what is read without a key: to list, compare and move versions, and to see by
# whom one was signed.
CLEAR_FILES = frozenset({PROVENANCE_FILE, SIGNATURE_FILE, STATEMENT_FILE})


def encrypt_tree(root: str, keys: Keys) -> None:
    """Encrypts the files of a Serving directory, but for those that are read without a key.

    Args:
      root: A local folder that nobody else can change, as `private_copy` makes it.
      keys: The first encrypts.
    """
    for path in files_below(root):
        name = os.path.relpath(path, root)
        if not is_clear(name):
            with open(path, "rb") as file, whole_file(path) as new:
                encryptor = Encryptor(new, keys, name)
                while chunk := file.read(SEGMENT_BYTES):
                    encryptor.write(chunk)
                encryptor.end()


class Decryption:
    """Decrypts the files of a version while they are copied, if the version is encrypted.

    The first file tells whether it is. That should be `saved_model.pb`, which never begins as an
    encrypted file does. Another file of an unencrypted version may: it is copied as it is, and a
    signature tells whether it belongs there.

    Args:
      keys: The keys, if there are any.

    Attributes:
      encrypted: Whether the version is encrypted; None before the first file.
      looks_mixed: What is wrong if nobody signed that a file looks encrypted; "" if none does.
    """

    def __init__(self, keys: Keys | None):
        self._keys = keys
        self._first = ""
        self.encrypted: bool | None = None
        self.looks_mixed = ""

    def copy(self, source: Readable, target: BinaryIO, name: str) -> None:
        """Copies a file.

        Args:
          source: The file.
          target: Where its content goes.
          name: Path of the file in the Serving directory that it was published in.

        Raises:
          EncryptionError: If it is not what was encrypted under its name, its key is missing, or it
            is not encrypted although the version is.
        """
        start = read_bytes(source, len(MAGIC))
        if not is_clear(name):
            if self.encrypted is None:
                self._first, self.encrypted = name, start == MAGIC
            if self.encrypted and start != MAGIC:
                raise EncryptionError(_mixed(name, self._first))
            if self.encrypted:
                target.writelines(decrypt_rest(source, name, self._keys))
                return
            if start == MAGIC:
                self.looks_mixed = _mixed(self._first, name)
        target.write(start)
        while chunk := source.read(SEGMENT_BYTES):
            target.write(chunk)


def _mixed(plain: str, encrypted: str) -> str:
    return f"{plain} is not encrypted, but {encrypted} is: the version was changed"


def is_clear(name: str) -> bool:
    """Whether a file of a Serving directory is one that is read without a key."""
    _, *folders, base = name.split("/")
    return len(folders) == 2 and folders[0] == PROVENANCE and base in CLEAR_FILES


def files_below(root: str) -> list[str]:
    """Paths of the files below a local folder."""
    return [os.path.join(folder, name) for folder, _, names in os.walk(root) for name in names]
