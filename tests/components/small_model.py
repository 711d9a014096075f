"""A small model with a vocabulary, weights and a table, exported in either format; also a program.

As a program it exports one after it has made some other functions, which shifts the numbers in the
names of all that follow.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

VOCABULARY = ("red", "green", "blue", "brown", "black", "white", "grey")
SIGNATURE = "raw"


def export(
    folder: Path,
    *,
    vocabulary: tuple[str, ...] = VOCABULARY,
    weights: np.ndarray | None = None,
    output: str = "probability",
    unknown: int = 0,
    clip: float = 4.0,
    default: float | None = None,
    tflite: bool = True,
    quantize: bool = False,
) -> Path:
    """Writes a model that looks a colour up, takes its vector and a number, and adds them."""
    from components.quantizer.conversion import convert

    module = tf.Module()
    with tempfile.TemporaryDirectory() as work:
        path = Path(work, "colours")
        path.write_text("\n".join(vocabulary) + "\n")
        module.table = tf.lookup.StaticHashTable(
            tf.lookup.TextFileInitializer(
                *(str(path), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE),
                *(tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER),
            ),
            unknown,
        )
        if weights is None:
            weights = make_weights()
        module.weights = tf.Variable(weights)

        @tf.function
        def score(colour: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
            vectors = tf.gather(module.weights, module.table.lookup(colour))
            known = tf.clip_by_value(number, -clip, clip)
            return tf.sigmoid(tf.linalg.matmul(vectors, module.weights[:64]) + known[:, None])

        @tf.function(
            input_signature=[
                tf.TensorSpec([None], tf.string, "colour"),
                tf.TensorSpec([None], tf.float32, "number"),
            ]
        )
        def serve(colour: tf.Tensor, number: tf.Tensor) -> dict[str, tf.Tensor]:
            return {output: score(colour, number)}

        tf.saved_model.save(module, str(folder), signatures={SIGNATURE: serve})
    if default is not None:
        _set_default(folder, default)
    if tflite:
        content = convert(str(folder), SIGNATURE, float16=False, quantize=quantize)
        (folder / "model.tflite").write_bytes(content)
    return folder


def make_weights() -> np.ndarray:
    weights: np.ndarray = np.random.default_rng(7).normal(size=(128, 64)).astype(np.float32)
    return weights


def _set_default(folder: Path, value: float) -> None:
    """Gives an input a value for requests that lack it."""
    from tensorflow.core.protobuf import saved_model_pb2

    path = folder / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    defaults: Any = model.meta_graphs[0].signature_def[SIGNATURE].defaults
    defaults["number"].CopyFrom(tf.make_tensor_proto([value], tf.float32))
    path.write_bytes(model.SerializeToString())


if __name__ == "__main__":
    for number in range(int(sys.argv[2])):
        tf.function(lambda x, number=number: x + number).get_concrete_function(tf.TensorSpec([]))
    export(Path(sys.argv[1]))
