"""Tells a model by what it computes, whatever the bytes of its files are.

Two exports of the same network differ in bytes: in the names and the order of nodes and functions,
in the order of the keys of hash tables. TensorFlow's own fingerprint (`fingerprint.pb`) of two such
exports is equal, but leaves out the functions, where all of a Keras model is.
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

    It covers each signature (names, types, shapes and defaults of its inputs and outputs, and the
    operators, weights, constants and tables between them), the files in `assets/`, and the same of
    `model.tflite`. It leaves out requests for warming up, and what no signature reads.

    Args:
      model_uri: Folder of a SavedModel, with or without `model.tflite`.

    Returns:
      `computes-1:` and 64 hexadecimal digits; `bytes:` and the digest of the files where TensorFlow
      cannot load the model, or it has what this module cannot tell (a loop of TensorFlow 1).
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
    except Exception as error:  # Whatever there is in a model, it can be pushed.
        logging.warning("The model %s is told by its bytes: %r", model_uri, error)
        return f"bytes:{model_digest(model_uri)}"
    return f"{_FORM}:{digest(sorted(parts.items()))}"
