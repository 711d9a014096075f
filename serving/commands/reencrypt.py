"""The command `reencrypt`."""

from __future__ import annotations

import click

from serving.commands.options import SERVING_DIR, encryption_keys_option, refusals
from storage.directory import ModelDirectory
from storage.encryption_keys import require_keys
from storage.reencryption import reencrypt_log, reencrypt_versions
from storage.versions import find_models


@click.command()
@click.argument("serving_dir", default=SERVING_DIR)
@encryption_keys_option
@click.option("--request-log", metavar="DIR", help="Request log to encrypt again as well.")
def reencrypt(serving_dir: str, encryption_keys: str, request_log: str | None) -> None:
    """Encrypts with the first key what is encrypted with another one; the rest stays as it is.

    Signatures stay good: they are of what is encrypted.

    \b
    Examples:
      python -m serving reencrypt --encryption-keys keys/encryption.keys
      python -m serving reencrypt --encryption-keys keys/encryption.keys --request-log requests
    """
    with refusals():
        keys = require_keys(encryption_keys)
        changed = sum(
            reencrypt_versions(ModelDirectory(serving_dir, name), keys)
            for name in find_models(serving_dir)
        )
        if request_log:
            changed += reencrypt_log(request_log, keys)
    click.echo(f"Encrypted {changed} files again, with the key {keys.first}.")
