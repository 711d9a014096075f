"""Tiny SavedModels of each task, with the signatures that the engine exports, for raw features.

Their features are a vector of three numbers and a text that may be absent.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorflow as tf

from ml.tasks import BINARY, REGRESSION, Task
from storage.names import TFLITE_MODEL

OUTPUT = "prediction"
KINDS = Task("multiclass", "kind", ("a", "b", "c"), ("Adelie", "Gentoo", "Chinstrap"))
TIPS = Task("binary", "kind", ("no", "yes"))
PRICE = Task("regression", "price")
_SPEC = {
    "vector": tf.io.FixedLenFeature([3], tf.float32),
    "colour": tf.io.FixedLenFeature([1], tf.string, ""),
}


def predict(task: Task, vector: tf.Tensor, colour: tf.Tensor) -> tf.Tensor:
    """The prediction, float32 [batch, task.outputs]."""
    red = tf.cast(tf.equal(tf.reshape(colour, [-1, 1]), "red"), tf.float32)
    if task.kind == REGRESSION:
        return 1000 * tf.reduce_sum(vector, axis=1, keepdims=True) + red
    if task.kind == BINARY:
        return tf.sigmoid(tf.reduce_sum(vector, axis=1, keepdims=True) + red)
    return tf.nn.softmax(vector + red * [[1.0, 0.0, 0.0]])


def save(folder: Path, task: Task, *, tflite: bool = True, names: tuple[str, ...] = ()) -> Path:
    """Saves a model in `folder`; `names` are what it calls the classes, by default as the task."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
    def serve(examples: tf.Tensor) -> dict[str, tf.Tensor]:
        return {OUTPUT: predict(task, **tf.io.parse_example(examples, _SPEC))}

    @tf.function(
        input_signature=[
            {
                "vector": tf.TensorSpec([None, 3], tf.float32, "vector"),
                "colour": tf.TensorSpec([None], tf.string, "colour"),
            }
        ]
    )
    def raw_features(features: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return {OUTPUT: predict(task, **features)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
    def classify(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        scores = serve(inputs)[OUTPUT]
        if task.kind == BINARY:
            scores = tf.concat([1 - scores, scores], axis=1)
        classes = tf.constant(names or task.class_names)
        return {"classes": tf.broadcast_to(classes, tf.shape(scores)), "scores": scores}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
    def regress(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"outputs": serve(inputs)[OUTPUT]}

    signatures: dict[str, Any] = {"serving_default": serve, "raw_features": raw_features}
    if task.kind != REGRESSION:
        signatures["classify"] = classify
    if task.outputs == 1:
        signatures["regress"] = regress
    tf.saved_model.save(tf.Module(), str(folder), signatures)
    if tflite:
        from components.quantizer.conversion import convert

        content = convert(str(folder), "raw_features", float16=False, quantize=False)
        (folder / TFLITE_MODEL).write_bytes(content)
    return folder


def example(vector: list[float], colour: bytes = b"", **label: Any) -> bytes:
    """A serialized tf.Example; the label is text or a number."""
    found = tf.train.Example()
    features = found.features.feature
    features["vector"].float_list.value.extend(vector)
    if colour:
        features["colour"].bytes_list.value.append(colour)
    for name, value in label.items():
        kind = "bytes_list" if isinstance(value, bytes) else "float_list"
        getattr(features[name], kind).value.append(value)
    return bytes(found.SerializeToString())
