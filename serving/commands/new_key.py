"""The command `new-key`."""

from __future__ import annotations

import click

from serving.commands.options import refusals
from storage.encryption_keys import add_key


@click.command()
@click.argument("file")
def new_key(file: str) -> None:
    """Puts a new encryption key first in FILE, which is made where there is none.

    The first key encrypts, all decrypt. To replace a key: make a new one, give FILE to all that
    read, encrypt again what is there with `reencrypt`, and then delete the line of the old key.

    \b
    Examples:
      python -m serving new-key keys/encryption.keys
      python -m serving new-key /secrets/encryption.keys
    """
    with refusals():
        click.echo(f"Key {add_key(file)} is the first of {file}.")
