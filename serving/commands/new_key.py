"""The command `new-key`."""

from __future__ import annotations

import click

from serving.commands.options import refusals
from storage.encryption_keys import add_key


@click.command()
@click.argument("file")
def new_key(file: str) -> None:
    """Adds a new encryption key as the first in FILE, which is created if necessary.

    The first key encrypts, all decrypt. To replace a key: add a new one, give FILE to all readers,
    encrypt the existing files again with `reencrypt`, and then delete the line of the old key.

    \b
    Examples:
      python -m serving new-key keys/encryption.keys
      python -m serving new-key /secrets/encryption.keys
    """
    with refusals():
        click.echo(f"Key {add_key(file)} is the first of {file}.")
