"""The command `mirror`."""

from __future__ import annotations

import os

import click

from serving.commands.options import (
    decrypt_to_disk_option,
    encryption_keys_option,
    poll_seconds_option,
    public_key_option,
    refusals,
    trust_of,
)
from storage.encryption_keys import load_keys
from storage.keys import SignatureError
from storage.memory import check_is_memory


@click.command()
@click.argument("serving_dir")
@click.argument("target")
@click.option("--model", "models", multiple=True, metavar="NAME", help="Default: all models.")
@public_key_option
@encryption_keys_option
@decrypt_to_disk_option
@click.option("--label", default="", help="Copy only the version of each model with this label.")
@click.option("--follow", is_flag=True, help="Keep TARGET up to date until SIGTERM.")
@poll_seconds_option(2.0)
def mirror(
    serving_dir: str,
    target: str,
    models: tuple[str, ...],
    public_keys: tuple[str, ...],
    encryption_keys: str,
    decrypt_to_disk: bool,
    label: str,
    follow: bool,
    poll_seconds: float,
) -> None:
    """Copies versions to TARGET, verified and decrypted, for TensorFlow Serving, which checks none.

    TARGET gets the newest version of each model that verifies, and those with a label; versions
    that were rolled back are removed. Nobody else should be able to write to it. With encryption
    keys it must be in memory. With --label it gets that version alone, and another one when the
    label moves.

    \b
    Examples:
      python -m serving mirror /serving-directory /models --public-key /keys/signing.pub
      python -m serving mirror /serving-directory /models --public-key /keys --follow
      python -m serving mirror /serving-directory /models --label challenger --follow
    """
    if "" in models:
        raise click.UsageError("--model is empty: name a model, or leave it out for all.")
    from serving.mirror import Mirror
    from serving.server.logs import start_logging

    start_logging()
    with refusals():
        trust = trust_of(serving_dir, public_keys)
        os.makedirs(target, exist_ok=True)
        if load_keys(encryption_keys) and not decrypt_to_disk:
            check_is_memory(target)
        copies = Mirror(
            serving_dir, target, models, trust, lambda: load_keys(encryption_keys), label
        )
        if follow:
            copies.follow(poll_seconds)
        elif not copies.look():
            raise SignatureError(f"{target} lacks {'; '.join(copies.missing)}")
