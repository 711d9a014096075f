"""The command `sign`."""

from __future__ import annotations

import click

from serving.commands.options import (
    encryption_keys_option,
    find_directory,
    model_option,
    refusals,
    split_version,
)
from serving.versions import copy_version
from storage.encryption_keys import load_keys
from storage.signing import sign as sign_version


@click.command()
@click.argument("arguments", nargs=-1, metavar="[SERVING_DIR] VERSION")
@click.option(
    "--signing-key",
    metavar="KEY",
    required=True,
    help="Private key: its file, env:NAME, fd:NUMBER, or a PKCS #11 URI.",
)
@click.option(
    "--password-from",
    metavar="PLACE",
    default="",
    help="Where its password is: env:NAME, fd:NUMBER, or a file.",
)
@encryption_keys_option
@model_option
def sign(
    arguments: tuple[str, ...],
    signing_key: str,
    password_from: str,
    encryption_keys: str,
    model: str | None,
) -> None:
    """Signs a version again, under the name and number that it has now.

    A signature is good for one version of one model. To move a version to another model or number,
    copy its folder and its provenance, verify them where they came from, and sign it where it is
    now.

    \b
    Examples:
      python -m serving sign 1795434497 --signing-key output/keys/signing.key
      python -m serving sign /data/serving_model 1795434497 --model my_model \\
          --signing-key env:SIGNING_KEY --password-from env:SIGNING_PASSWORD
    """
    serving_dir, version = split_version(arguments)
    with refusals():
        directory = find_directory(serving_dir, model)
        with directory.locked():
            keys = load_keys(encryption_keys)
            with copy_version(directory, version, None, keys) as copy:
                sign_version(copy.directory, version, signing_key, password_from)
                directory.put_signature(version, copy.directory)
    click.echo(f"Signed version {version} of {directory.model_name}.")
