"""A model that predicts columns of tables, packed so that it travels to every worker as it is."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import numpy as np

from ml.tflite_runner import Input, TFLiteRunner
from storage.errors import UserError
from storage.memory import MEMORY
from storage.names import SAVED_MODEL, TFLITE_MODEL
from storage.uris import file_sizes, read_file

ModelFormat = Literal["tflite", "saved_model"]
# It travels inside the Beam job.
_LARGEST = 256 << 20


class TableModel(Protocol):
    """A loaded model.

    Attributes:
      inputs: Its inputs by name.
    """

    inputs: Mapping[str, Input]

    def predict_features(self, features: Mapping[str, np.ndarray]) -> np.ndarray:
        """Predicts features by name, each [batch, ...]; returns float32 [batch, outputs]."""
        ...


@dataclass(frozen=True)
class PackedModel:
    """The files of a model in one of its formats.

    Attributes:
      format: "tflite" or "saved_model".
      files: Their contents by path.
      secret: Whether they must not be written to a disk.
    """

    format: ModelFormat
    files: Mapping[str, bytes]
    secret: bool

    @classmethod
    def read(cls, uri: str, wanted: ModelFormat | None, secret: bool) -> PackedModel:
        """Reads the files of a version that nobody else can change.

        Args:
          uri: Folder of the version.
          wanted: The format; None for TFLite where the version has it.
          secret: Whether the version is encrypted where it came from.

        Raises:
          UserError: If there is no such format, or the version does not have it or is too large
            for a Beam job.
        """
        if wanted not in (None, *get_args(ModelFormat)):
            raise UserError(
                f"{wanted!r} is no format of a model; it is one of "
                f"{', '.join(get_args(ModelFormat))}"
            )
        sizes = file_sizes(uri)
        chosen = wanted or ("tflite" if TFLITE_MODEL in sizes else "saved_model")
        needed = TFLITE_MODEL if chosen == "tflite" else SAVED_MODEL
        if needed not in sizes:
            raise UserError(f"the version has no {needed}: choose the other model format")
        if chosen == "tflite":
            names = [TFLITE_MODEL]
        else:
            names = [
                n for n in sizes if n.startswith(("variables/", "assets/")) or n == SAVED_MODEL
            ]
        if (size := sum(sizes[name] for name in names)) > _LARGEST:
            raise UserError(
                f"the model has {size >> 20} MiB; up to {_LARGEST >> 20} MiB fit into a Beam job"
            )
        return cls(chosen, {name: read_file(f"{uri}/{name}") for name in names}, secret)

    @property
    def digest(self) -> str:
        """SHA-256 of names and contents."""
        digest = hashlib.sha256()
        for name, content in sorted(self.files.items()):
            digest.update(f"{name} {hashlib.sha256(content).hexdigest()}\n".encode())
        return digest.hexdigest()

    def load(self) -> TableModel:
        """Loads the model."""
        if self.format == "tflite":
            return TFLiteRunner(self.files[TFLITE_MODEL])
        from ml.saved_model_runner import SavedModelRunner  # It imports TensorFlow.

        folder = tempfile.TemporaryDirectory(dir=MEMORY if self.secret else None)
        for name, content in self.files.items():
            path = os.path.join(folder.name, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                file.write(content)
        return SavedModelRunner(folder)
