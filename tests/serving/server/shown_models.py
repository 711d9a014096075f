"""Models for the tests of the playground: each task, and one whose every name is hostile."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from ml.signature_inputs import name_inputs
from storage.directory import ModelDirectory
from storage.names import RAW_SIGNATURE, WARMUP_FILE
from tests.components import task_models
from tests.serving.server.running import predict_request, strings
from tests.serving.server.toys import f32, save_scorer

# What runs a script, closes a tag or a quote, or turns the order of characters, if it is let.
MARKUP = "<img src=x onerror=\"document.title='run'\">"
QUOTES = "it's `$(touch run)` \"; touch run; ' \\ \u202e\u2028</script>"
HOSTILE_MODEL = "<b onmouseover=alert(1)>it's & 100%"
CLASSES = ("Adelie", MARKUP, QUOTES)
VECTOR, COLOUR = [0.5, -1.0, 2.0], "red"
STABLE, LIVE, REFUSED = 1, 2, 3


class Hostile(tf.Module):
    """A regression of a number and a text; NaN where the number is absent."""

    @tf.function(
        input_signature=[
            {
                "a": tf.TensorSpec([None], tf.float32, "a"),
                "b": tf.TensorSpec([None], tf.string, "b"),
            }
        ]
    )
    def raw_features(self, given: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return {"y": given["a"] * 2 + tf.cast(tf.strings.length(given["b"]), tf.float32)}


def save_hostile(folder: Path) -> Path:
    """Saves a model whose inputs have the names `MARKUP` and `QUOTES`."""
    model = Hostile()
    tf.saved_model.save(model, str(folder), {RAW_SIGNATURE: model.raw_features})
    name_inputs(str(folder), RAW_SIGNATURE, {"a": MARKUP, "b": QUOTES})
    return folder


def write_warmup(folder: Path, **inputs: np.ndarray) -> None:
    """Adds a warm-up request, and what a vocabulary of the input `colour` may be."""
    log = prediction_log_pb2.PredictionLog()
    log.predict_log.request.CopyFrom(predict_request("any", RAW_SIGNATURE, **inputs))
    path = folder / WARMUP_FILE
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(log.SerializeToString())


def save_shown(root: Path) -> Path:
    """A Serving directory of models of each task.

    `kinds` has several classes, with hostile names, an example and a vocabulary; `tips` two
    classes, a version with a label, a live one and one that does not load; `price` is a regression,
    and `scores` has inputs of each dtype. One more has hostile names only.
    """
    kinds = task_models.save(root / "kinds" / "1", task_models.KINDS, tflite=False, names=CLASSES)
    write_warmup(kinds, vector=f32([VECTOR]), colour=strings(COLOUR.encode()))
    (kinds / "assets").mkdir(exist_ok=True)
    (kinds / "assets" / "colour").write_text(f"red\nblue\n{MARKUP}\n", encoding="utf-8")
    for version in (STABLE, LIVE):
        task_models.save(root / "tips" / str(version), task_models.TIPS, tflite=False)
    refused = root / "tips" / str(REFUSED)
    refused.mkdir()
    (refused / "saved_model.pb").write_bytes(b"no model")
    ModelDirectory(str(root), "tips").pin(STABLE, "stable")
    task_models.save(root / "price" / "1", task_models.PRICE, tflite=False)
    save_scorer(root / "scores" / "1", 0.0)
    save_hostile(root / HOSTILE_MODEL / "1")
    return root
