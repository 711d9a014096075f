"""The command `card`."""

from __future__ import annotations

import os

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
from storage.encryption_keys import load_keys
from storage.names import CARD_FILE, CARD_TEXT
from storage.uris import read_file

_LARGEST_BYTES = 64 << 20


@click.command()
@click.argument("arguments", nargs=-1, metavar="[SERVING_DIR] [VERSION]")
@model_option
@click.option("--json", "as_json", is_flag=True, help="Print the JSON, for programs.")
@public_key_option
@click.option("--no-verify", is_flag=True, help="Print it without verifying the signature.")
@encryption_keys_option
def card(
    arguments: tuple[str, ...],
    model: str | None,
    as_json: bool,
    public_keys: tuple[str, ...],
    no_verify: bool,
    encryption_keys: str,
) -> None:
    """Prints the model card of a version, after verifying the version; the default is the live one.

    VERSION may also be rolled back.

    \b
    Examples:
      python -m serving card
      python -m serving card 1795434497 --model my_model > README.md
      python -m serving card /data/serving_model --json
    """
    if no_verify and public_keys:
        raise click.UsageError("--public-key and --no-verify exclude each other.")
    serving_dir, chosen = split_versions(arguments, at_most=1)
    with refusals():
        directory = find_directory(serving_dir, model)
        version = chosen[0] if chosen else directory.served()
        if version is None:
            raise LookupError(f"no version of {directory.model_name} is live in {serving_dir}")
        trust = None if no_verify else trust_of(serving_dir, public_keys)
        with copy_version(directory, version, trust, load_keys(encryption_keys)) as copy:
            folder = copy.directory.provenance_uri(version)
            name = CARD_FILE if as_json else CARD_TEXT
            try:
                content = read_file(os.path.join(folder, name), _LARGEST_BYTES)
            except FileNotFoundError:
                raise LookupError(
                    f"version {version} of {directory.model_name} has no model card: an earlier "
                    "release, or another program, pushed it"
                ) from None
            text = content.decode("utf-8")
    click.echo(_printable(text), nl=False)


def _printable(text: str) -> str:
    """The text, with control characters of an unverified card made visible."""
    return "\n".join(
        line if line.replace("\t", " ").isprintable() else ascii(line)[1:-1]
        for line in text.split("\n")
    )
