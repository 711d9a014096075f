"""What a version in the Serving directory says of itself, and whether its files are all there."""

from __future__ import annotations

import os
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # That of Python 3.11 pydantic does not take.

from orchestration.local.history import list_runs
from orchestration.local.output_directory import OutputDirectory
from storage.directory import ModelDirectory
from storage.encryption import key_of
from storage.names import PROVENANCE_FILE, SIGNATURE_FILE
from storage.uris import exists, file_sizes
from storage.versions import ModelVersions


class _Artifact(TypedDict, total=False):
    uri: str


class _Provenance(TypedDict, total=False):
    """What is read of the provenance of a version, which is signed but may be somebody else's."""

    __pydantic_config__ = ConfigDict(strict=True)  # type: ignore[misc]

    model_name: str
    run_key: str
    origin: dict[str, Any]
    data: dict[str, str]
    spans: dict[str, list[int]]
    rows: dict[str, int]
    metrics: dict[str, Any]
    libraries: dict[str, str]
    artifacts: dict[str, _Artifact]


def read_provenance(models: ModelVersions, version: int) -> dict[str, Any]:
    """The provenance record of a version, empty if it has none.

    Raises:
      ValueError: If it is none that a push writes.
    """
    record = models.provenance(version)
    try:
        TypeAdapter(_Provenance).validate_python(record)
    except ValidationError as error:
        first, *_ = error.errors()
        where = f"{models.provenance_uri(version)}/{PROVENANCE_FILE}"
        name = ".".join(map(str, first["loc"]))
        raise ValueError(f"{where} is no provenance: {name}: {first['msg']}") from error
    return record


def known_provenance(models: ModelVersions, version: int) -> dict[str, Any]:
    """As `read_provenance`; empty too if it cannot be read, as if it came from elsewhere."""
    try:
        return read_provenance(models, version)
    except ValueError:
        return {}


def pushed_files(models: ModelDirectory, version: int) -> dict[str, int]:
    """Bytes of each file of a version, by its path in the Serving directory.

    Of its provenance too, but for the signature, which may be made again by another key; and
    without the id of the key that a file is encrypted with, which may be another one later.
    """
    folders = (models.version_uri(version), models.provenance_uri(version))
    return {
        os.path.relpath(f"{folder}/{name}", models.serving_dir): size - _id_size(f"{folder}/{name}")
        for folder in filter(exists, folders)
        for name, size in file_sizes(folder).items()
        if name != SIGNATURE_FILE
    }


def _id_size(path: str) -> int:
    """Bytes of the id of the key that a file is encrypted with; 0 for a plain one."""
    with open(path, "rb") as file:
        return len(key_of(file.read(128)) or "")


def lost_files(directory: OutputDirectory, models: ModelDirectory, version: int) -> list[str]:
    """Files of a version that are gone or shorter than when a run of this directory pushed it."""
    there = pushed_files(models, version)
    return sorted(
        name
        for run in list_runs(directory)
        if run.version == version
        for name, size in run.files.items()
        if name.startswith(f"{models.model_name}/") and there.get(name, -1) < size
    )
