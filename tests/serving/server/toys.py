"""Small models for the tests of the model server, made with plain TensorFlow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from components.quantizer.conversion import convert

COMPANIES = {"AA": 0.5, "UA": -1.0, "B6": 2.0}
FEATURES = {
    "distance": tf.io.FixedLenFeature([], tf.float32, float("nan")),
    "hour": tf.io.FixedLenFeature([], tf.int64, 0),
    "company": tf.io.FixedLenFeature([], tf.string, ""),
}
RAW_FEATURES = {
    "distance": tf.TensorSpec([None], tf.float32, "distance"),
    "hour": tf.TensorSpec([None], tf.int64, "hour"),
    "company": tf.TensorSpec([None], tf.string, "company"),
}
EXAMPLES = [tf.TensorSpec([None], tf.string, "examples")]
INPUTS = [tf.TensorSpec([None], tf.string, "inputs")]


def f32(values: Any) -> np.ndarray:
    return np.array(values, np.float32)


def i64(values: Any) -> np.ndarray:
    return np.array(values, np.int64)


class Scorer(tf.Module):
    """A logistic regression of three raw columns.

    Args:
      bias: What tells one version from another.
    """

    def __init__(self, bias: float):
        super().__init__()
        self.bias = tf.Variable(bias)
        self.companies = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(
                list(COMPANIES), tf.range(1, len(COMPANIES) + 1, dtype=tf.int64)
            ),
            0,
        )
        self.weights = tf.constant([0.0, *COMPANIES.values()])

    def score(self, features: dict[str, tf.Tensor]) -> tf.Tensor:
        """Probabilities, [batch, 1]; NaN where the distance is absent."""
        logits = (
            self.bias
            + 0.001 * features["distance"]
            - 0.1 * tf.cast(features["hour"], tf.float32)
            + tf.gather(self.weights, self.companies.lookup(features["company"]))
        )
        return tf.sigmoid(logits)[:, tf.newaxis]

    @tf.function(input_signature=EXAMPLES)
    def serve(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"probability": self.score(tf.io.parse_example(examples, FEATURES))}

    @tf.function(input_signature=[RAW_FEATURES])
    def raw_features(self, features: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return {"probability": self.score(features)}

    @tf.function(input_signature=INPUTS)
    def classify(self, inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        score = self.score(tf.io.parse_example(inputs, FEATURES))
        labels = tf.tile(tf.constant([["on time", "delayed"]]), [tf.shape(inputs)[0], 1])
        return {"classes": labels, "scores": tf.concat([1 - score, score], axis=1)}

    @tf.function(input_signature=INPUTS)
    def regress(self, inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"outputs": self.score(tf.io.parse_example(inputs, FEATURES))}

    @tf.function(
        input_signature=[
            {
                "matrix": tf.TensorSpec([None, 2], tf.float32, "matrix"),
                "double": tf.TensorSpec([None], tf.float64, "double"),
                "byte": tf.TensorSpec([None], tf.uint8, "byte"),
                "flag": tf.TensorSpec([None], tf.bool, "flag"),
                "text": tf.TensorSpec([None], tf.string, "text"),
            }
        ]
    )
    def many(self, given: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return {
            "sum": tf.reduce_sum(given["matrix"], axis=1),
            "halved": given["double"] / 2,
            "next": given["byte"] + tf.constant(1, tf.uint8),
            "not": tf.logical_not(given["flag"]),
            "text": tf.strings.upper(given["text"]),
            "text_bytes": given["text"] + b"\xff",
        }

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
    def echo(self, text: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"text": text, "text_bytes": text, "pair": tf.stack([text, text], axis=1)}


def save_scorer(folder: Path, bias: float) -> Path:
    """Saves a scorer with the signatures that the project's models have, and some more."""
    scorer = Scorer(bias)
    signatures = {
        "serving_default": scorer.serve,
        "raw_features": scorer.raw_features,
        "classify": scorer.classify,
        "regress": scorer.regress,
        "many": scorer.many,
        "echo": scorer.echo,
    }
    tf.saved_model.save(scorer, str(folder), signatures)
    return folder


def add_tflite(folder: Path) -> None:
    """Adds `raw_features` in TFLite format to a SavedModel, as the pipeline does."""
    content = convert(str(folder), "raw_features", float16=False, quantize=False)
    (folder / "model.tflite").write_bytes(content)


class Counter(tf.Module):
    """Counts up to the largest of the numbers it is given, a few hundred thousand in a second."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64, "x")])
    def serve(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        end = tf.reduce_max(x)
        count = tf.while_loop(lambda i: i < end, lambda i: [i + 1], [tf.constant(0, tf.int64)])[0]
        return {"count": tf.fill(tf.shape(x), count)}


FOR_EVER = 2**62


class Versioned(tf.Module):
    """Predicts the number of its version for each row.

    Args:
      number: The number.
    """

    def __init__(self, number: int):
        super().__init__()
        self.number = tf.constant(number, tf.int64)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def serve(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"version": tf.fill(tf.shape(x), self.number)}


class Odd(tf.Module):
    """Signatures that few models have."""

    @tf.function(input_signature=[])
    def nothing_in(self) -> dict[str, tf.Tensor]:
        return {"answer": tf.constant([42.0])}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def half_out(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"half": tf.cast(x, tf.float16), "whole": x}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float16, "x")])
    def half_in(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": tf.cast(x, tf.float32)}

    @tf.function(
        input_signature=[
            {
                name: tf.TensorSpec([None], dtype, name)
                for name, dtype in {
                    "bfloat16": tf.bfloat16,
                    "complex64": tf.complex64,
                    "complex128": tf.complex128,
                    "uint16": tf.uint16,
                }.items()
            }
        ]
    )
    def rare(self, given: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return {name: value + value for name, value in given.items()}

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.float32, "x"),
            tf.TensorSpec([None], tf.float32, "y"),
        ]
    )
    def sizes(self, x: tf.Tensor, y: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"sum": x + y}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def centred(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": x - tf.reduce_mean(x)}

    @tf.function(input_signature=[tf.TensorSpec(None, tf.float32, "x")])
    def any_shape(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"sum": tf.reduce_sum(x), "shape": tf.shape(x)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "x")])
    def binary_out(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": x}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64, "x")])
    def checked(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(x >= 0), ["negative", x])]):
            return {"y": tf.gather(tf.constant([1.0, 2.0]), x)}


def save_counter(folder: Path) -> Path:
    """Saves a model that counts."""
    counter = Counter()
    tf.saved_model.save(counter, str(folder), {"serving_default": counter.serve})
    return folder


def save_versioned(folder: Path, number: int | None = None) -> Path:
    """Saves a model that predicts a number: that of its folder, if none is given."""
    versioned = Versioned(int(folder.name) if number is None else number)
    tf.saved_model.save(versioned, str(folder), {"serving_default": versioned.serve})
    return folder


def save_odd(folder: Path) -> Path:
    """Saves a model with a signature for each of its functions."""
    odd = Odd()
    names = [name for name, value in vars(Odd).items() if not name.startswith("_")]
    tf.saved_model.save(odd, str(folder), {name: getattr(odd, name) for name in names})
    return folder
