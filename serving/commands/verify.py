"""The command `verify`."""

from __future__ import annotations

import sys

import click

from serving.commands.options import (
    encryption_keys_option,
    find_directory,
    model_option,
    public_key_option,
    refusals,
    split_versions,
    trust_of,
)
from serving.versions import copy_version
from storage.encryption_keys import EncryptionError, load_keys
from storage.keys import SignatureError, short_id


@click.command()
@click.argument("arguments", nargs=-1, metavar="[SERVING_DIR] [VERSION ...]")
@public_key_option
@encryption_keys_option
@model_option
def verify(
    arguments: tuple[str, ...],
    public_keys: tuple[str, ...],
    encryption_keys: str,
    model: str | None,
) -> None:
    """Checks that versions are, file by file, what was signed.

    All that a server can load are checked, unless some are given; those may be rolled back.

    \b
    Examples:
      python -m serving verify
      python -m serving verify 1795434497 --public-key keys/signing.pub
      python -m serving verify /data/serving_model --model my_model
    """
    serving_dir, chosen = split_versions(arguments)
    failed = False
    with refusals():
        directory = find_directory(serving_dir, model)
        trust, keys = trust_of(serving_dir, public_keys), load_keys(encryption_keys)
        for version in chosen or directory.versions():
            try:
                with copy_version(directory, version, trust, keys) as copy:
                    signed = copy.signed
            except (SignatureError, EncryptionError, OSError) as error:
                failed = True
                click.echo(f"version {version}: FAILED, {error}")
            else:
                assert signed is not None
                key = short_id(signed.key_id)
                click.echo(f"version {version}: ok, signed {signed.time} by the key {key}")
    sys.exit(int(failed))
