"""The output of several models below one folder.

    <output>/models/<model>/   runs, logs, artifacts, ML Metadata, schedule, monitoring of a model
    <output>/serving_model/    the versions of all of them
    <output>/keys/             what versions are signed with

An output directory of an earlier release holds the files of one model at its top. They are used
where they are, because ML Metadata knows artifacts by their paths.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from json import dumps
from pathlib import Path

from filelock import FileLock
from pydantic import TypeAdapter, ValidationError

from orchestration.local.output_directory import OutputDirectory, write_whole
from pipeline.layers import ConfigError
from pipeline.model_folders import check_single_name, default_model, served_name
from storage.errors import SurroundingsError
from storage.versions import find_models

_MODELS = "models"
_LOCK = ".models.lock"


@dataclass(frozen=True)
class Owner:
    """The model that an output directory belongs to.

    Attributes:
      model: Folder of the model below `models/`, or its package.
      names: Its names in the Serving directory, the newest last.
    """

    model: str
    names: tuple[str, ...] = ()


def find_directory(output: Path, model: str, model_name: str = "") -> OutputDirectory:
    """The directory of a model's runs, which may not be there yet.

    Args:
      output: The output directory.
      model: The model.
      model_name: Its name in the Serving directory, by which it is known as the model of a
        directory of an earlier release; "" for the one in the model's file.
    """
    own = OutputDirectory(output / _MODELS / model, output, model)
    top = OutputDirectory(output, output, model)
    if _is_used(own) or not _is_used(top):
        return own
    if owner := owner_of(top):
        return top if owner.model == model else own
    if served := find_models(str(top.serving)):
        return top if (model_name or served_name(model)) in served else own
    with suppress(ConfigError):  # Nothing was pushed: it may be anyone's, and most likely this.
        return top if model == default_model() else own
    return own


def list_directories(output: Path) -> list[OutputDirectory]:
    """The directories of all models that have runs below an output directory, by name.

    That of an earlier release, if no model has used it since, is the first and names no model.
    """
    top = OutputDirectory(output, output)
    found = []
    if _is_used(top):
        owner = owner_of(top)
        found.append(replace(top, model=owner.model) if owner else top)
    with suppress(FileNotFoundError, NotADirectoryError):
        for folder in sorted((output / _MODELS).iterdir()):
            directory = OutputDirectory(folder, output, folder.name)
            if _is_used(directory):
                found.append(directory)
    return sorted(found, key=lambda directory: directory.model)


def owner_of(directory: OutputDirectory) -> Owner | None:
    """The model of a directory; None if no run has said it."""
    try:
        return TypeAdapter(Owner).validate_json(directory.owner.read_bytes())
    except (OSError, ValidationError):
        return None


def check_name(directory: OutputDirectory, model_name: str) -> None:
    """Checks that no other model has a name in the Serving directory.

    A name that runs of this model have used stays its own. Otherwise neither another model of the
    output directory nor another one below `models/` may have it.

    Args:
      directory: The directory of the model.
      model_name: Its name in the Serving directory.

    Raises:
      SurroundingsError: If another model has the name.
    """
    if not directory.model or directory.shared is None:
        return
    owner = owner_of(directory)
    if owner and owner.model != directory.model:
        raise SurroundingsError(
            f"the runs in {directory.root} are of the model {owner.model}, not of "
            f"{directory.model} ({directory.owner})"
        )
    if owner and model_name in owner.names:
        return
    for other in list_directories(directory.shared):
        theirs = owner_of(other) if other.root != directory.root else None
        if theirs and model_name in theirs.names:
            raise SurroundingsError(
                f"model_name = {model_name!r}: in {directory.serving} this is the model "
                f"{theirs.model} ({other.owner}); give {directory.model} another model_name"
            )
    check_single_name(directory.model, model_name)


def claim(directory: OutputDirectory, model_name: str) -> None:
    """Notes that a directory, and a name in the Serving directory, are a model's.

    Args:
      directory: The directory of the model, whose lock the caller holds.
      model_name: Its name in the Serving directory.

    Raises:
      SurroundingsError: If another model has the name.
    """
    if not directory.model or directory.shared is None:
        return
    with FileLock(directory.shared / _LOCK, mode=0o644):
        check_name(directory, model_name)
        owner = owner_of(directory) or Owner(directory.model)
        if owner.names[-1:] != (model_name,):
            names = (*(name for name in owner.names if name != model_name), model_name)
            text = dumps(asdict(Owner(directory.model, names)), indent=2)
            write_whole(directory.owner, text + "\n")


def served_models(directory: OutputDirectory) -> list[str]:
    """Names in the Serving directory that are, or may be, of the model of a directory.

    Those that runs of no other model have used; an earlier release did not note them.
    """
    theirs: set[str] = set()
    for other in list_directories(directory.shared) if directory.shared else []:
        owner = owner_of(other)
        if owner and other.root != directory.root:
            theirs.update(owner.names)
    return [name for name in find_models(str(directory.serving)) if name not in theirs]


def _is_used(directory: OutputDirectory) -> bool:
    return directory.is_there() or directory.runs.is_dir()
