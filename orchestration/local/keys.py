"""The keys of a run on this machine: to sign with, to verify with, to encrypt with."""

from __future__ import annotations

from pathlib import Path

from orchestration.local.output_directory import OutputDirectory
from pipeline.config import Config
from storage.encryption_keys import EncryptionError, require_keys
from storage.errors import SurroundingsError
from storage.keys import KeyFileError, ensure_key_pair, is_file, public_key_of, signing_config


def signing_key(config: Config, directory: OutputDirectory) -> str:
    """The private key to sign with, its file made where there is none; "" to leave unsigned.

    Raises:
      UserError: If the key cannot be made or used, which the Pusher would find out last.
    """
    if not config.serving.sign:
        return ""
    key, password = config.serving.signing_key, config.serving.signing_password
    try:
        if is_file(key):
            path = str(Path(key or directory.signing_key).resolve())
            return ensure_key_pair(path, password).private
        with signing_config(key, password):
            return key
    except KeyFileError as error:
        raise SurroundingsError(str(error)) from error


def encryption_keys(config: Config) -> str:
    """File of the keys that versions are encrypted with; "" for the environment, or none.

    Raises:
      UserError: If there is no key to encrypt with, which the Pusher would find out last.
    """
    path = config.serving.encryption_keys
    try:
        if config.serving.encrypt:
            require_keys(path)
    except EncryptionError as error:
        raise SurroundingsError(str(error)) from error
    return str(Path(path).resolve()) if path else ""


def public_keys(config: Config, directory: OutputDirectory) -> list[str]:
    """Where the keys are that versions are verified with; none where signing is turned off."""
    if not config.serving.sign:
        return []
    key = config.serving.signing_key
    own = public_key_of(key) if key and is_file(key) else directory.signing_key.parent
    return [str(Path(path).resolve()) for path in config.serving.public_keys or (own,)]
