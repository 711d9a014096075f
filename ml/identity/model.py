"""Identifies a model by its computation, independent of the bytes of its files.

Two exports of the same network may differ in bytes: in the names and the order of nodes and
functions, in the order of the keys of hash tables (`ml.canonical` writes ours alike). TensorFlow's
own fingerprint (`fingerprint.pb`) of two such exports is equal, but it ignores functions, which
hold all of a Keras model.
"""

from __future__ import annotations

import logging
import os

from ml.identity.digests import digest
from ml.identity.saved_model import saved_model_digest
from ml.identity.tflite import tflite_digest
from storage.names import TFLITE_MODEL
from storage.uris import file_sizes, model_digest, read_file

# Version of the method: identities by different methods are never equal.
_FORM = "computes-1"


def model_identity(model_uri: str) -> str:
    """Identifies a model: equal for two exports of one network, different for any other network.

    The identity covers each signature (names, types, shapes and defaults of inputs and outputs, and
    the operators, weights, constants and tables between them), the files in `assets/`, and the same
    of `model.tflite`. It ignores warm-up requests, and everything that no signature reads.

    Args:
      model_uri: Folder of a SavedModel, with or without `model.tflite`.

    Returns:
      `computes-1:` and 64 hexadecimal digits; or `bytes:` and the digest of the files, if
      TensorFlow cannot load the model or this module cannot analyze it (a TensorFlow 1 loop).
    """
    try:
        files = file_sizes(model_uri)
        parts = {
            name: digest(read_file(os.path.join(model_uri, name)))
            for name in files
            if name.startswith("assets/")
        }
        parts["signatures"] = saved_model_digest(model_uri)
        if TFLITE_MODEL in files:
            parts[TFLITE_MODEL] = tflite_digest(read_file(os.path.join(model_uri, TFLITE_MODEL)))
    except Exception as error:  # Every model can be pushed.
        logging.warning("The model %s is identified by its bytes: %r", model_uri, error)
        return f"bytes:{model_digest(model_uri)}"
    return f"{_FORM}:{digest(sorted(parts.items()))}"
