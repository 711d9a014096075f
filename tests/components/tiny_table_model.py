"""A model of three raw features, pushed in both formats, whose predictions a test can compute."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from storage.directory import ModelDirectory
from storage.encrypted_versions import encrypt_tree
from storage.encryption_keys import Keys
from storage.keys import ensure_key_pair
from storage.names import BACKGROUND_FILE, RAW_SIGNATURE, SAVED_MODEL, TFLITE_MODEL
from storage.signing import sign

NAME = "tiny"
VERSION = 7
SCHEMA = """
feature { name: "miles" type: FLOAT shape { dim { size: 1 } } }
feature { name: "stops" type: INT shape { dim { size: 1 } } }
feature { name: "company" type: BYTES shape { dim { size: 1 } } }
feature { name: "legs" type: FLOAT shape { dim { size: 2 } } }
feature { name: "delayed" type: INT shape { dim { size: 1 } } }
"""
BACKGROUND: dict[str, Any] = {
    "signature_name": RAW_SIGNATURE,
    "inputs": {
        "miles": [100.0, 300.0],
        "stops": [0, 2],
        "company": ["a", {"b64": "/w=="}],
        "legs": [[0.0, 1.0], [2.0, 3.0]],
    },
    "groups": {"way": ["miles", "stops"]},
}


class Tiny(tf.Module):
    """Adds up its numbers; the second output is the double. A negative stop is an error."""

    def __init__(self, outputs: int, checks: bool, width: int):
        super().__init__()
        self.outputs = outputs
        self.checks = checks
        self.predict = tf.function(
            self._predict,
            input_signature=[
                tf.TensorSpec([None], tf.string, "company"),
                tf.TensorSpec([None, width] if width > 1 else [None], tf.float32, "legs"),
                tf.TensorSpec([None], tf.float32, "miles"),
                tf.TensorSpec([None], tf.int64, "stops"),
            ],
        )

    def _predict(
        self, company: tf.Tensor, legs: tf.Tensor, miles: tf.Tensor, stops: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        if self.checks:
            tf.debugging.assert_non_negative(stops, "stops are negative")
        legs = tf.reduce_sum(tf.reshape(legs, [tf.size(miles), -1]), axis=1)
        one = miles / 100 + tf.cast(stops, tf.float32) + legs
        one += tf.cast(tf.shape(company)[0] - tf.size(company), tf.float32)
        return {"score": tf.stack([one * (n + 1) for n in range(self.outputs)], axis=1)}


def expected(miles: float | None, stops: int, legs: list[float]) -> np.float32:
    """What the first output is."""
    assert miles is not None
    return np.float32(miles) / np.float32(100) + np.float32(stops) + np.float32(sum(legs))


def push(
    root: Path,
    outputs: int = 1,
    *,
    checks: bool = False,
    width: int = 2,
    version: int = VERSION,
    background: Any = None,
    keys: Keys | None = None,
) -> Path:
    """Pushes the model as a signed version below a folder, with its keys, and returns it.

    Args:
      root: The folder.
      outputs: Number of outputs.
      checks: Whether a negative stop is an error; then there is no TFLite model.
      width: Values of `legs`.
      version: Number of the version.
      background: Content of `background.json`; None for none.
      keys: Encrypt it; None if it stays as it is.
    """
    module = Tiny(outputs, checks, width)
    model = root / f"model-{version}"
    tf.saved_model.save(module, str(model), signatures={RAW_SIGNATURE: module.predict})
    if not checks:  # TFLite has no assertions.
        converter = tf.lite.TFLiteConverter.from_saved_model(
            str(model), signature_keys=[RAW_SIGNATURE]
        )
        (model / TFLITE_MODEL).write_bytes(converter.convert())
    assert (model / SAVED_MODEL).exists()
    provenance = root / f"provenance-{version}"
    provenance.mkdir()
    (provenance / "schema.pbtxt").write_text(SCHEMA.replace("size: 2", f"size: {width}"))
    (provenance / "provenance.json").write_text("{}")
    if background is not None:
        (provenance / BACKGROUND_FILE).write_text(json.dumps(background))
    pair = ensure_key_pair(str(root / "keys" / "signing.key"))

    def seal(private: ModelDirectory, number: int) -> None:
        sign(private, number, private_key=pair.private)
        if keys:
            encrypt_tree(private.serving_dir, keys)

    directory = ModelDirectory(str(root / "serving_model"), NAME)
    directory.publish(version, str(model), str(provenance), seal)
    return root
