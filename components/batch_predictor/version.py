"""The version that a table is predicted with: found, verified, and read from a private copy."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

from ml.table_models import ModelFormat, PackedModel
from ml.tasks import Task
from storage.encryption_keys import EncryptionError, load_keys
from storage.errors import SurroundingsError, UserError
from storage.keys import SignatureError, TrustStore
from storage.memory import MEMORY
from storage.names import BACKGROUND_FILE
from storage.private_copy import private_copy
from storage.uris import read_file
from storage.versions import ModelVersions

_SCHEMA_FILE = "schema.pbtxt"
# Background rows of a version.
_MOST_BACKGROUND_BYTES = 16 << 20


@dataclass(frozen=True)
class Source:
    """Where a version is, and what it is verified and decrypted with.

    Attributes:
      serving_dir: URI of the Serving directory.
      model_name: Name of the model in it.
      version: The version; 0 for the one with the label, or the one that is served.
      label: The label; "" for none.
      public_keys: Trusted public keys, or folders of them; with none, the version is not verified.
      encryption_keys: File of the keys that it is decrypted with; "" for the environment.
    """

    serving_dir: str
    model_name: str
    version: int
    label: str
    public_keys: Sequence[str]
    encryption_keys: str


@dataclass(frozen=True)
class Version:
    """A version.

    Attributes:
      version: Its number.
      record: Its provenance.
      model: The files of its model.
      schema: The schema that it was trained with.
      background: The rows that its predictions are explained with; None if they are not to be.
    """

    version: int
    record: dict[str, Any]
    model: PackedModel
    schema: schema_pb2.Schema
    background: bytes | None


def take_version(source: Source, task: Task, wanted: ModelFormat | None, explain: bool) -> Version:
    """Reads a version of one verified private copy.

    Args:
      source: Where it is.
      task: What it should predict.
      wanted: Format of the model; None for TFLite where the version has it.
      explain: Whether its background rows are needed.

    Raises:
      UserError: If it is not there, does not verify, or lacks what is needed.
    """
    directory = ModelVersions(source.serving_dir, source.model_name)
    version = _find_version(directory, source)
    try:
        trust = TrustStore(source.public_keys) if source.public_keys else None
        keys = load_keys(source.encryption_keys)
        copy = private_copy(directory, version, trust, parent=MEMORY if keys else None, keys=keys)
    except (SignatureError, EncryptionError, OSError) as error:
        raise SurroundingsError(
            f"version {version} of {source.model_name} in {source.serving_dir} cannot be used: "
            f"{error}"
        ) from error
    with copy:
        where = copy.directory
        model = PackedModel.read(where.version_uri(version), wanted, copy.encrypted)
        schema = schema_pb2.Schema()
        try:
            content = read_file(f"{where.provenance_uri(version)}/{_SCHEMA_FILE}")
            text_format.Parse(content.decode(), schema)
            record = where.provenance(version)
        except (OSError, ValueError, text_format.ParseError) as error:
            raise SurroundingsError(
                f"version {version} of {source.model_name} cannot be used: its schema or its "
                f"provenance cannot be read: {error}"
            ) from error
        background = _read_background(where.provenance_uri(version)) if explain else None
    _check_task(source, version, record, task)
    return Version(version, record, model, schema, background)


def _read_background(provenance: str) -> bytes:
    """The rows that predictions are explained with."""
    try:
        return read_file(f"{provenance}/{BACKGROUND_FILE}", _MOST_BACKGROUND_BYTES)
    except FileNotFoundError:
        raise SurroundingsError(
            "predictions cannot be explained: the version brings no background rows; runs publish "
            "them where explanation.enabled and explanation.publish_background are true"
        ) from None
    except OSError as error:
        raise SurroundingsError(f"predictions cannot be explained: {error}") from error


def _find_version(directory: ModelVersions, source: Source) -> int:
    versions = directory.versions()
    has = ", ".join(map(str, versions)) or "none"
    where = f"{source.model_name} in {source.serving_dir}"
    if source.version:
        if source.version not in versions:
            raise SurroundingsError(
                f"there is no version {source.version} of {where}; it has {has}"
            )
        return source.version
    if source.label:
        try:
            labels = directory.labels()
        except ValueError as error:
            raise SurroundingsError(str(error)) from error
        if source.label not in labels:
            known = ", ".join(labels) or "none"
            raise SurroundingsError(
                f"there is no label {source.label!r} of {where}; it has {known}"
            )
        if labels[source.label] not in versions:
            raise SurroundingsError(
                f"label {source.label!r} is version {labels[source.label]}, which is not a version "
                f"of {where}; it has {has}"
            )
        return labels[source.label]
    if not versions:
        raise SurroundingsError(f"nothing is served yet: there is no version of {where}")
    return max(versions)


def _check_task(source: Source, version: int, record: dict[str, Any], task: Task) -> None:
    """Checks that a version has the task of the configuration, by what its provenance says."""
    name = f"version {version} of {source.model_name}"
    if record.get("task", task.kind) != task.kind:
        raise UserError(
            f"{name} is of a {record['task']} task, and the configuration of a {task.kind} task: "
            "name the model by --model"
        )
    with contextlib.suppress(KeyError, TypeError, ValueError):  # One from elsewhere has no record.
        was = Task.from_config(
            {**record["origin"]["configuration"], "kind": record["origin"]["configuration"]["task"]}
        )
        if was.class_names != task.class_names:
            raise UserError(
                f"{name} has the classes {', '.join(was.class_names)}, and the configuration "
                f"{', '.join(task.class_names)}: use the configuration that it was made with"
            )
