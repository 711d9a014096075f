"""Encrypts files with another key: versions of a model, and the request log."""

from __future__ import annotations

import os

from storage.atomic_write import whole_file
from storage.directory import ModelDirectory
from storage.encrypted_versions import files_below
from storage.encryption import Encryptor, decrypt, key_of
from storage.encryption_keys import EncryptionError, Keys
from storage.names import SAVED_MODEL
from storage.uris import local_path

_REENCRYPTED = ".reencrypted"


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
        folders = {version: directory.version_uri(version) for version in directory.versions()}
        folders |= {v: directory.rolled_back_uri(v) for v in directory.rolled_back()}
        new = os.path.join(directory.home_uri, _REENCRYPTED)
        changed = 0
        for version, folder in folders.items():
            # A file of an unencrypted version may begin as an encrypted one does, but not this one.
            if _key_of(os.path.join(folder, SAVED_MODEL)) is None:
                continue
            for path in files_below(folder):
                published = path.replace(folder, directory.version_uri(version), 1)
                changed += _reencrypt(path, os.path.relpath(published, root), keys, new)
            for path in files_below(directory.provenance_uri(version)):
                changed += _reencrypt(path, os.path.relpath(path, root), keys, new)
    return changed


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
    files = (path for path in files_below(folder) if path.endswith(".gz"))
    return sum(_reencrypt(path, os.path.relpath(path, folder), keys, new) for path in files)


def _key_of(path: str) -> str | None:
    with open(path, "rb") as file:
        return key_of(file.read(128))


def _reencrypt(path: str, name: str, keys: Keys, temporary: str) -> bool:
    """Encrypts a file again; whether that was needed."""
    if _key_of(path) in (None, keys.first):
        return False
    with open(path, "rb") as file, whole_file(path, part=temporary) as new:
        encryptor = Encryptor(new, keys, name)
        for content in decrypt(file, name, keys):
            encryptor.write(content)
        encryptor.end()
    return True
