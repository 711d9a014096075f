"""The layout of the Serving directory: versions that a model server reads, and their provenance.

    <serving dir>/<model name>/<version>/               what TensorFlow Serving loads
    <serving dir>/<model name>/.flightdeck/<version>/   where it came from

This module is the one contract between the pipeline, which publishes versions, and what serves
them. Model servers ignore names that are not numbers. It imports neither TFX nor TensorFlow.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pyarrow import fs

SAVED_MODEL = "saved_model.pb"
PROVENANCE_FILE = "provenance.json"
_PROVENANCE = ".flightdeck"


@dataclass(frozen=True)
class ModelDirectory:
    """The versions of one model under a Serving directory.

    Attributes:
      serving_dir: Local path or URI (`gs://`, `s3://`) of the Serving directory.
      model_name: Name of the model, as a client of the server says it.
    """

    serving_dir: str
    model_name: str

    @property
    def uri(self) -> str:
        """URI of the folder that holds the versions."""
        return os.path.join(self.serving_dir, self.model_name)

    def version_uri(self, version: int) -> str:
        """URI of a version, as a model server reads it."""
        return os.path.join(self.uri, str(version))

    def provenance_uri(self, version: int) -> str:
        """URI of the folder that says where a version came from."""
        return os.path.join(self.uri, _PROVENANCE, str(version))

    def versions(self) -> list[int]:
        """The versions that a server can load, oldest first."""
        return sorted(
            version
            for version in set(_numbered(self.uri))
            if exists(os.path.join(self.version_uri(version), SAVED_MODEL))
        )

    def served(self) -> int | None:
        """The version a server takes by default: the newest, or None if there is none."""
        return max(self.versions(), default=None)

    def provenance(self, version: int) -> dict[str, Any]:
        """The provenance record of a version, empty if it has none."""
        path = os.path.join(self.provenance_uri(version), PROVENANCE_FILE)
        if not exists(path):
            return {}
        files, inner = _open(path)
        with files.open_input_stream(inner) as stream:
            record: dict[str, Any] = json.loads(stream.read())
        return record

    def find_digest(self, digest: str) -> int | None:
        """The version that was published with this model digest, or None."""
        for version in reversed(self.versions()):
            if self.provenance(version).get("model_digest") == digest:
                return version
        return None

    def next_version(self) -> int:
        """A number for a new version: the Unix time in seconds, later than any there is."""
        known = [*_numbered(self.uri), *_numbered(os.path.join(self.uri, _PROVENANCE))]
        return max(int(time.time()), 1 + max(known, default=0))

    def publish(self, version: int, model_uri: str, provenance_uri: str) -> None:
        """Copies a model and its provenance in, and only then lets servers see the version.

        A server never sees half a version: the copy is made under a name that servers ignore and
        renamed when it is whole. An object store cannot rename a folder, so there the file that
        servers watch for, `saved_model.pb`, comes last. A crash half-way leaves at most copies that
        nothing reads.

        Args:
          version: Number of the version; must not exist.
          model_uri: Folder of the SavedModel to copy.
          provenance_uri: Folder of the files that say where it came from.

        Raises:
          FileExistsError: If the version exists.
          FileNotFoundError: If there is no SavedModel in `model_uri`.
        """
        if exists(self.version_uri(version)):
            raise FileExistsError(f"version {version} exists in {self.uri}")
        if not exists(os.path.join(model_uri, SAVED_MODEL)):
            raise FileNotFoundError(f"there is no {SAVED_MODEL} in {model_uri}")
        copy_tree(provenance_uri, self.provenance_uri(version))
        files, target = _open(self.version_uri(version))
        if not isinstance(files, fs.LocalFileSystem):
            copy_tree(model_uri, self.version_uri(version), last=SAVED_MODEL)
            return
        staging = os.path.join(self.uri, _PROVENANCE, f"staging-{version}")
        _, staged = _open(staging)
        if exists(staging):
            files.delete_dir(staged)
        copy_tree(model_uri, staging)
        files.move(staged, target)


def model_digest(model_uri: str) -> str:
    """SHA-256 over the names and contents of a model's files, as 64 hexadecimal digits."""
    files, root = _open(model_uri)
    digest = hashlib.sha256()
    for name in sorted(_names(files, root)):
        with files.open_input_stream(f"{root}/{name}") as stream:
            content = hashlib.sha256(stream.read()).hexdigest()
        digest.update(f"{name} {content}\n".encode())
    return digest.hexdigest()


def exists(uri: str) -> bool:
    """Whether there is a file or folder."""
    files, path = _open(uri)
    return bool(files.get_file_info(path).type != fs.FileType.NotFound)


def copy_tree(source: str, target: str, last: str = "") -> None:
    """Copies the files below `source` to `target`, the one named `last` after all others."""
    source_files, source_root = _open(source)
    target_files, target_root = _open(target)
    for name in sorted(_names(source_files, source_root), key=lambda name: (name == last, name)):
        path = f"{target_root}/{name}"
        target_files.create_dir(os.path.dirname(path), recursive=True)
        fs.copy_files(
            f"{source_root}/{name}",
            path,
            source_filesystem=source_files,
            destination_filesystem=target_files,
        )


def _open(uri: str) -> tuple[fs.FileSystem, str]:
    files, path = fs.FileSystem.from_uri(uri if "://" in uri else os.path.abspath(uri))
    return files, path.rstrip("/")


def _names(files: fs.FileSystem, root: str) -> Iterator[str]:
    """Paths of the files below a folder, relative to it."""
    for info in files.get_file_info(fs.FileSelector(root, recursive=True)):
        if info.type == fs.FileType.File:
            yield info.path[len(root) + 1 :]


def _numbered(uri: str) -> Iterator[int]:
    files, root = _open(uri)
    for info in files.get_file_info(fs.FileSelector(root, allow_not_found=True)):
        if info.base_name.isascii() and info.base_name.isdigit():
            yield int(info.base_name)
