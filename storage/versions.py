"""The layout of the Serving directory, and read access to it.

    <serving dir>/<model name>/<version>/                          what TensorFlow Serving loads
    <serving dir>/<model name>/.flightdeck/<version>/              where it came from, and signature
    <serving dir>/<model name>/.flightdeck/rolled_back/<version>/  a version that was moved aside
    <serving dir>/<model name>/.flightdeck/labels.json             names that were given to versions
    <serving dir>/<model name>/.flightdeck/traffic.json            see `storage.traffic`
    <serving dir>/<model name>/.flightdeck/withdrawn               nothing is to be served
    <serving dir>/<model name>/.flightdeck/lock                    held while the directory changes

Model servers ignore names that are not numbers. This module imports neither TFX nor TensorFlow.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pyarrow import fs

from storage.names import (
    CHAMPION,
    LABELS_FILE,
    PROVENANCE,
    PROVENANCE_FILE,
    ROLLED_BACK,
    SAVED_MODEL,
    SIGNATURE_FILE,
    WITHDRAWN_FILE,
)
from storage.traffic_policy import read_traffic
from storage.uris import exists, list_folder, open_uri, read_json

# Model servers hold the number of a version in 64 bits.
MAX_VERSION = 2**63 - 1


@dataclass(frozen=True)
class ModelVersions:
    """The versions of one model in a Serving directory, for reading.

    Attributes:
      serving_dir: Local path or URI (`gs://`, `s3://`) of the Serving directory.
      model_name: Name of the model, as in requests.
    """

    serving_dir: str
    model_name: str

    @property
    def uri(self) -> str:
        """URI of the folder that holds the versions."""
        return os.path.join(self.serving_dir, self.model_name)

    @property
    def home_uri(self) -> str:
        """URI of the folder of provenance, which servers ignore."""
        return os.path.join(self.uri, PROVENANCE)

    def version_uri(self, version: int) -> str:
        """URI of a version, as a model server reads it."""
        return os.path.join(self.uri, str(version))

    def provenance_uri(self, version: int) -> str:
        """URI of the provenance of a version."""
        return os.path.join(self.home_uri, str(version))

    def signature_uri(self, version: int) -> str:
        """URI of the signature of a version; there is no such file if it is not signed."""
        return os.path.join(self.provenance_uri(version), SIGNATURE_FILE)

    def rolled_back_uri(self, version: int) -> str:
        """URI of a version that was rolled back."""
        return os.path.join(self.home_uri, ROLLED_BACK, str(version))

    def versions(self) -> list[int]:
        """The versions that a server can load, oldest first."""
        return _models(self.uri)

    def newest(self) -> int | None:
        """The newest version that a server can load; None if there is none."""
        return max(self.versions(), default=None)

    def served(self) -> int | None:
        """The version that answers requests that name none; None if there is none.

        The newest; where there is a traffic policy, the champion, if a server can load it.

        Raises:
          ValueError: If the file of labels or of the traffic policy is damaged.
        """
        versions = self.versions()
        if versions and read_traffic(self):
            champion = self.labels().get(CHAMPION)
            if champion in versions:
                return champion
        return max(versions, default=None)

    def rolled_back(self) -> list[int]:
        """The versions that were rolled back and can be promoted, oldest first."""
        aside = _models(os.path.join(self.home_uri, ROLLED_BACK))
        # In an object store a version is in both places until it is whole in the new one.
        return sorted(set(aside) - set(self.versions()))

    def withdrawn(self) -> bool:
        """Whether the last version was withdrawn, so that nothing is to be served.

        It is not so when versions merely are not there, as while storage is away.
        """
        return exists(self.withdrawn_uri) and not self.versions()

    def ignored(self) -> list[str]:
        """Names that look like version numbers but are not, so no server can load them.

        These have more digits than 64 bits hold, leading zeros, or digits of another script.
        """
        numbers = (name for name in _names(self.uri) if name.isdigit())
        return sorted(name for name in numbers if name != str(_version_number(name)))

    def provenance(self, version: int) -> dict[str, Any]:
        """The provenance record of a version, empty if it has none.

        Raises:
          ValueError: If the record is not JSON.
        """
        record: dict[str, Any] = read_json(
            os.path.join(self.provenance_uri(version), PROVENANCE_FILE)
        )
        return record

    def find(self, name: str, value: str) -> int | None:
        """The version whose provenance record has this value under a name, or None.

        One that a server can load goes before one that was rolled back.
        """
        for version in (*reversed(self.versions()), *reversed(self.rolled_back())):
            if self.provenance(version).get(name) == value:
                return version
        return None

    def next_version(self) -> int:
        """A number for a new version: the Unix time in seconds, later than any there is.

        Raises:
          ValueError: If there is the highest number that a server can load.
        """
        home = self.home_uri
        folders = (self.uri, home, os.path.join(home, ROLLED_BACK))
        highest = max((number for folder in folders for number in _numbered(folder)), default=0)
        if highest >= MAX_VERSION:
            raise ValueError(
                f"version {highest} in {self.uri} leaves no higher number for a new version: "
                "move it away"
            )
        return max(int(time.time()), highest + 1)

    def labels(self) -> dict[str, int]:
        """The version that each label pins, in the order of the labels.

        Raises:
          ValueError: If the file of labels is not what `pin` writes.
        """
        uri = os.path.join(self.home_uri, LABELS_FILE)
        labels = read_json(uri)
        if not all(type(version) is int for version in labels.values()):
            raise ValueError(f'{uri} must be of the form {{"label": version}}')
        return dict(sorted(labels.items()))

    @property
    def withdrawn_uri(self) -> str:
        """URI of the file by which a withdrawal is known."""
        return os.path.join(self.home_uri, WITHDRAWN_FILE)


def find_models(serving_dir: str) -> list[str]:
    """Names of the models that have a version in a Serving directory, be it rolled back."""
    files, root = open_uri(serving_dir)
    names = [
        info.base_name for info in list_folder(files, root) if info.type == fs.FileType.Directory
    ]
    directories = (ModelVersions(serving_dir, name) for name in sorted(names))
    return [d.model_name for d in directories if d.versions() or d.rolled_back()]


def _models(uri: str) -> list[int]:
    """Numbers of the folders that hold a SavedModel, in order."""
    return sorted(
        number
        for number in set(_numbered(uri))
        if exists(os.path.join(uri, str(number), SAVED_MODEL))
    )


def _numbered(uri: str) -> Iterator[int]:
    for name in _names(uri):
        if (number := _version_number(name)) is not None:
            yield number


def _names(uri: str) -> Iterator[str]:
    for info in list_folder(*open_uri(uri)):
        yield info.base_name


def _version_number(name: str) -> int | None:
    """The number that the name of a folder is, as a model server reads it; or None."""
    if not (name.isascii() and name.isdigit()):
        return None
    number = int(name)
    return number if number <= MAX_VERSION else None
