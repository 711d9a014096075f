"""Writes whether a model is blessed."""

import os

from tfx import types
from tfx import v1 as tfx

from ml.file_names import BLESSED_FILE, NOT_BLESSED_FILE


def write_blessing(blessing: types.Artifact, blessed: bool) -> None:
    """Writes a `ModelBlessing` artifact, as stock TFX does."""
    fileio = tfx.dsl.io.fileio
    fileio.makedirs(blessing.uri)
    for name in (BLESSED_FILE, NOT_BLESSED_FILE):
        if fileio.exists(os.path.join(blessing.uri, name)):
            fileio.remove(os.path.join(blessing.uri, name))
    with fileio.open(
        os.path.join(blessing.uri, BLESSED_FILE if blessed else NOT_BLESSED_FILE), "w"
    ) as file:
        file.write("")  # Creates the file.
    blessing.set_int_custom_property("blessed", int(blessed))
