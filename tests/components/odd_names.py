"""A model of columns with odd names: learned by Transform, exported, and converted to TFLite."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_transform as tft
import tf_keras
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx.v1.types import standard_artifacts as standard

from components.quantizer.conversion import convert
from components.transform.component import Transform
from ml.export import save_model
from ml.names import graph_names
from ml.task_layers import output_layer
from ml.tasks import Task
from storage.names import RAW_SIGNATURE, TFLITE_MODEL
from tests.components.digits import write_records

TASK = Task("binary", "is slow?", ("no", "yes"), ("in time", "too slow"))
PREDICTION = "probability"
NUMBERS = (
    *("trip.miles", "trip_miles", "Trip_Miles", "trip/miles", "trip-miles", "trip miles"),
    *("1st", "_private", "fare (USD)", "cost$", "a:b", "a:0", "^x", "a[0]", 'say "hi"', "back\\"),
    *("größe", "日本", "👍", "class", "None", "features", "training", "request.date", "100%"),
    *("examples", "inputs", "probability"),
    "long " * 60,
)
VECTORS = ("last 3 fares", "pixel.s")
TEXTS = ("company.name", "Fluß", "size")
NAMES = (*NUMBERS, *VECTORS, *TEXTS)
# Names of the transformed features, and of the network's inputs.
LAYERS = graph_names(NAMES, [TASK.label, PREDICTION])
WIDTH = 3
ROWS = 60
_CITIES = ("Köln", "Bonn", "Ulm")


@dataclass(frozen=True)
class OddModel:
    """A model in both formats, and rows.

    Attributes:
      folder: Of the SavedModel, with its `model.tflite`.
      graph_uri: Folder of the transformation.
      transformed: The transformed rows, the same in `train` and `eval`.
      columns: The features, float32 or bytes [rows] or [rows, 3]; NaN and "" where absent.
      examples: The same, as serialized tf.Examples, bytes [rows].
      schema: Their schema.
    """

    folder: Path
    graph_uri: str
    transformed: standard.Examples
    columns: dict[str, np.ndarray]
    examples: np.ndarray
    schema: schema_pb2.Schema


def preprocessing_fn(inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Scales numbers and looks texts up."""
    numbers = tf.concat([inputs[name] for name in (*NUMBERS, *VECTORS)], axis=1)
    known = tf.where(tf.math.is_nan(numbers), tf.zeros_like(numbers), numbers)
    # One analysis, because each costs half a second.
    scaled = tft.scale_to_z_score(known, elementwise=True)
    widths = [1] * len(NUMBERS) + [WIDTH] * len(VECTORS)
    parts = tf.split(scaled, widths, axis=1)
    names = [LAYERS[name] for name in (*NUMBERS, *VECTORS)]
    outputs = dict(zip(names, parts, strict=True))
    for name in TEXTS:
        ids = tft.compute_and_apply_vocabulary(inputs[name], vocab_filename=LAYERS[name])
        outputs[LAYERS[name]] = tf.cast(ids, tf.float32)
    outputs[TASK.label] = tf.cast(tf.equal(inputs[TASK.label], "yes"), tf.int64)
    return outputs


def build_network() -> tf_keras.Model:
    """A network, not trained, whose prediction depends on every feature."""
    tf_keras.utils.set_random_seed(7)
    inputs = [
        tf_keras.Input((WIDTH if name in VECTORS else 1,), name=LAYERS[name]) for name in NAMES
    ]
    hidden = tf_keras.layers.Dense(8, "tanh")(tf_keras.layers.Concatenate()(inputs))
    logits = tf_keras.layers.Dense(TASK.outputs)(hidden)
    return tf_keras.Model(inputs, output_layer(TASK, logits, PREDICTION))


def make_odd_model(root: Path, run_component: Callable[..., dict[str, Any]]) -> OddModel:
    """Writes the artifacts below a folder."""
    columns = make_columns()
    examples = serialize(columns)
    artifact = standard.Examples()
    artifact.uri, artifact.split_names = str(root / "examples"), json.dumps(["train", "eval"])
    for split in ("train", "eval"):
        write_records(root / "examples" / f"Split-{split}", examples)
    schema = make_schema()
    (root / "schema").mkdir()
    (root / "schema" / "schema.pbtxt").write_text(text_format.MessageToString(schema))
    transformed = run_component(
        Transform,
        {"examples": artifact, "schema": root / "schema"},
        preprocessing_fn=f"{__name__}.preprocessing_fn",
    )
    graph_uri = transformed["transform_graph"].uri
    folder = root / "model"
    save(build_network(), tft.TFTransformOutput(graph_uri), str(folder))
    content = convert(str(folder), RAW_SIGNATURE, float16=False, quantize=False)
    (folder / TFLITE_MODEL).write_bytes(content)
    return OddModel(
        folder, graph_uri, transformed["transformed_examples"], columns, examples, schema
    )


def save(network: tf_keras.Model, graph: tft.TFTransformOutput, path: str) -> None:
    """Saves a network as the models' `run_fn` do."""
    custom_config = vars(TASK) | {"features": NAMES, "prediction": PREDICTION}
    save_model(network, graph, path, custom_config)


def make_columns() -> dict[str, np.ndarray]:
    """Random rows; a feature is absent in some of them."""
    random = np.random.default_rng(7)
    columns: dict[str, np.ndarray] = {}
    for name in NUMBERS:
        columns[name] = random.normal(size=ROWS).astype(np.float32)
        columns[name][random.random(ROWS) < 0.1] = np.nan
    for name in VECTORS:
        columns[name] = random.normal(size=(ROWS, WIDTH)).astype(np.float32)
    for name in TEXTS:
        values = [city.encode() for city in random.choice([*_CITIES, ""], ROWS)]
        columns[name] = np.array(values, object)
    return columns


def serialize(columns: dict[str, np.ndarray]) -> np.ndarray:
    """Rows as tf.Examples with a label, bytes [rows]; what is NaN or "" is absent."""
    records = []
    for row in range(ROWS):
        example = tf.train.Example()
        features = example.features.feature
        features[TASK.label].bytes_list.value.append(b"yes" if row % 3 else b"no")
        for name, column in columns.items():
            value = column[row]
            if isinstance(value, bytes):
                if value:
                    features[name].bytes_list.value.append(value)
            elif not np.isnan(value).any():
                features[name].float_list.value.extend(np.ravel(value))
        records.append(example.SerializeToString())
    return np.array(records, object)


def make_schema() -> schema_pb2.Schema:
    """The schema of the columns, with what stands for an absent value."""
    schema = schema_pb2.Schema()
    group = schema.tensor_representation_group[""]
    for name in (*NAMES, TASK.label):
        text = name in TEXTS or name == TASK.label
        kind = schema_pb2.BYTES if text else schema_pb2.FLOAT
        schema.feature.add(name=name, type=kind)
        dense = group.tensor_representation[name].dense_tensor
        dense.column_name = name
        dense.shape.dim.add(size=WIDTH if name in VECTORS else 1)
        if text:
            dense.default_value.bytes_value = b""
        elif name in NUMBERS:
            dense.default_value.float_value = np.nan
    return schema
