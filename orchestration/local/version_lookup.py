"""Finds a pushed version, and makes a verified copy of it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from orchestration.local.model_directories import list_directories, owner_of
from orchestration.local.output_directory import OutputDirectory
from storage.directory import ModelDirectory
from storage.encryption_keys import load_keys
from storage.errors import UserError
from storage.keys import SignatureError, TrustStore, default_trust
from storage.memory import MEMORY
from storage.private_copy import PrivateCopy, private_copy
from storage.versions import find_models

VALID, UNSIGNED = "signature valid", "not signed"


def find_version(
    output: Path, version: int | None, model: str | None
) -> tuple[OutputDirectory, ModelDirectory, int]:
    """Finds a version of the Serving directory of an output directory.

    Args:
      output: The output directory.
      version: The version; None for the one that is served.
      model: The model, by its folder or its name in the Serving directory; None if there is but
        one.

    Returns:
      The directory of the runs of the model, its versions, and the one that is meant.

    Raises:
      UserError: If there is no such version.
    """
    serving = str(OutputDirectory(output).serving)
    directories, names = list_directories(output), find_models(serving)
    if model:
        names = [_served_as(model, directories, names)]
    if len(names) != 1:
        held = f"models {', '.join(names)}: choose one by --model" if names else "no model"
        raise UserError(f"{serving} holds {held}")
    directory = OutputDirectory(output)  # As that of an earlier release, which noted no owner.
    for one in directories:
        owner = owner_of(one)
        if owner and names[0] in owner.names:
            directory = one
    models = ModelDirectory(serving, names[0])
    known = sorted({*models.versions(), *models.rolled_back()}, reverse=True)
    version = version or models.served() or 0
    if version not in known:
        wanted = f"no version {version}" if version else "no version"
        has = ", ".join(map(str, known)) or "none"
        raise UserError(f"there is {wanted} of {names[0]} in {serving}; it has {has}")
    return directory, models, version


def _served_as(model: str, directories: Iterable[OutputDirectory], names: list[str]) -> str:
    """The name for servers of a model that may be named by its folder."""
    for owner in map(owner_of, directories):
        if owner and owner.model == model and model not in names:
            return ([name for name in owner.names if name in names] or [model])[-1]
    return model


def verified_copy(
    models: ModelDirectory, version: int, public_keys: tuple[str, ...] = ()
) -> tuple[str, PrivateCopy]:
    """Copies a version, and says whether its signature is valid.

    Args:
      models: The versions of the model.
      version: The version, which may be rolled back.
      public_keys: Keys, or folders of keys, to verify with; none for those next to the Serving
        directory.

    Returns:
      `VALID`, `UNSIGNED`, or why the signature is not valid; and a copy of the version as it then
      was.

    Raises:
      SignatureError, EncryptionError, OSError, ValueError: If the version cannot be copied.
    """
    aside = version in models.rolled_back()

    def copy(trust: TrustStore | None) -> PrivateCopy:
        keys = load_keys()
        parent = MEMORY if keys else None
        return private_copy(models, version, trust, rolled_back=aside, parent=parent, keys=keys)

    if not Path(models.signature_uri(version)).exists():
        return UNSIGNED, copy(None)
    try:
        return VALID, copy(TrustStore(public_keys or [default_trust(models.serving_dir)]))
    except SignatureError as error:
        return f"signature not valid: {error}", copy(None)
