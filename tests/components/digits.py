"""A second model for the components that compress: handwritten digits, as the artifacts TFX makes.

The images are scikit-learn's, of real handwriting, at the size of MNIST's; the network is the one
that introductions to TensorFlow begin with.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
import tf_keras
from sklearn.datasets import load_digits
from tensorflow_transform.beam.tft_beam_io import transform_fn_io
from tensorflow_transform.tf_metadata import dataset_metadata, metadata_io, schema_utils
from tfx.v1.types import standard_artifacts as standard

from ml.artifacts import serving_model_uri
from ml.predictors import Predictor
from ml.tasks import Task

PIXELS = 28 * 28
CLASSES = 10
LOSS = "sparse_categorical_crossentropy"
SAVE_FN = f"{__name__}.save_model"
# What both components are told of the digits.
TASK = Task("multiclass", "label", tuple(map(str, range(CLASSES))))
LEARNING: dict[str, Any] = {"save_fn": SAVE_FN, "task": TASK.to_json()}
# Enough learning for the pruned network to recover.
PRUNING: dict[str, Any] = LEARNING | {
    "epochs": 4,
    "batch_size": 32,
    "learning_rate": 1e-3,
    "frequency": 10,
    "target_sparsity": "0.8",
    "keep_units": "1.0",
}

_RAW_SPEC = {
    "image": tf.io.FixedLenFeature([PIXELS], tf.float32),
    "label": tf.io.FixedLenFeature([], tf.int64),
}


@dataclass(frozen=True)
class Rows:
    """Images, float32 [rows, 784], and which digit each shows, int64 [rows]."""

    images: np.ndarray
    labels: np.ndarray

    def __getitem__(self, rows: Any) -> Rows:
        return Rows(self.images[rows], self.labels[rows])

    def with_nan(self) -> Rows:
        """A copy in which a pixel of the row 17 is not a number."""
        images = self.images.copy()
        images[17, 400] = np.nan
        return Rows(images, self.labels)

    def serialize(self) -> np.ndarray:
        """The rows as tf.Examples, bytes [rows]."""
        records = [_serialize(*row) for row in zip(self.images, self.labels, strict=True)]
        return np.array(records, object)


@dataclass(frozen=True)
class Digits:
    """The artifacts; tests leave them as they are.

    Attributes:
      raw: Examples with pixels from 0 to 255.
      transformed: The same with pixels from 0 to 1.
      graph: The transformation between them.
      model: The trained model.
    """

    raw: standard.Examples
    transformed: standard.Examples
    graph: standard.TransformGraph
    model: standard.Model

    def for_pruner(self, **others: Any) -> dict[str, Any]:
        """The inputs of a Pruner, some of them others."""
        return {
            "model": self.model,
            "examples": self.transformed,
            "transform_graph": self.graph,
            **others,
        }

    def for_quantizer(self, **others: Any) -> dict[str, Any]:
        """The inputs of a Quantizer, some of them others."""
        return {
            "model": self.model,
            "float_model": self.model,
            "examples": self.raw,
            "transformed_examples": self.transformed,
            "transform_graph": self.graph,
            **others,
        }


@cache
def read_digits() -> dict[str, Rows]:
    """All 1797 images by split; three fifths are to learn from."""
    images, labels = load_digits(return_X_y=True)
    squares = np.kron(images.reshape(-1, 8, 8), np.ones((3, 3)))
    framed = np.pad(squares, ((0, 0), (2, 2), (2, 2))).reshape(-1, PIXELS)
    rows = Rows((framed / 16 * 255).astype(np.float32), labels)
    turn = np.arange(len(labels)) % 5
    splits = {"train": rows[turn < 3], "eval": rows[turn == 3], "test": rows[turn == 4]}
    for split in splits.values():
        split.images.flags.writeable = False  # Every test is given the same.
    return splits


def make_digits(root: Path) -> Digits:
    """Writes the artifacts below a folder."""
    graph = _write_graph(root / "graph", read_digits()["train"][:100])
    layer = tft.TFTransformOutput(graph.uri).transform_features_layer()
    transformed = {
        split: Rows(layer({"image": rows.images})["image"].numpy(), rows.labels)
        for split, rows in read_digits().items()
    }
    return Digits(
        raw=write_examples(root / "raw", read_digits()),
        transformed=write_examples(root / "transformed", transformed),
        graph=graph,
        model=write_model(root / "model", _train(transformed["train"]), graph),
    )


def write_examples(folder: Path, splits: Mapping[str, Rows]) -> standard.Examples:
    """Writes an `Examples` artifact."""
    for split, rows in splits.items():
        write_records(folder / f"Split-{split}", rows.serialize())
    examples = standard.Examples()
    examples.uri, examples.split_names = str(folder), json.dumps(list(splits))
    return examples


def write_records(folder: Path, records: Iterable[bytes]) -> None:
    """Writes the only file of a split."""
    folder.mkdir(parents=True)
    path = str(folder / "data-00000-of-00001.gz")
    with tf.io.TFRecordWriter(path, tf.io.TFRecordOptions("GZIP")) as writer:
        for record in records:
            writer.write(record)


def _serialize(image: np.ndarray, label: int) -> bytes:
    features = {
        "image": tf.train.Feature(float_list=tf.train.FloatList(value=image)),
        "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
    }
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return bytes(example.SerializeToString())


def _write_graph(folder: Path, sample: Rows) -> standard.TransformGraph:
    """Learns how to scale pixels and writes it down as Transform does."""
    schema = schema_utils.schema_from_feature_spec(_RAW_SPEC)
    records = [
        {"image": image, "label": label}
        for image, label in zip(sample.images, sample.labels, strict=True)
    ]
    metadata = dataset_metadata.DatasetMetadata(schema)
    with beam.Pipeline() as pipeline, tft_beam.Context(temp_dir=str(folder.with_name("temp"))):
        dataset = (pipeline | beam.Create(records), metadata)
        transform = dataset | tft_beam.AnalyzeDataset(_scale)
        transform | transform_fn_io.WriteTransformFn(str(folder))
    metadata_io.write_metadata(metadata, str(folder / "metadata"))
    graph = standard.TransformGraph()
    graph.uri = str(folder)
    return graph


def _scale(inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    return {"image": tft.scale_to_0_1(inputs["image"]), "label": inputs["label"]}


def build_network(*before: tf_keras.layers.Layer) -> tf_keras.Model:
    """784-64-64-10, or other layers before the last."""
    before = before or (
        tf_keras.layers.Dense(64, "relu", name="first"),
        tf_keras.layers.Dense(64, "relu", name="second"),
    )
    last = tf_keras.layers.Dense(CLASSES, "softmax", name="digit")
    return tf_keras.Sequential([tf_keras.Input((PIXELS,), name="image"), *before, last])


def _train(rows: Rows) -> tf_keras.Model:
    tf_keras.utils.set_random_seed(7)
    network = build_network()
    network.compile(tf_keras.optimizers.Adam(2e-3), LOSS)
    network.fit(rows.images, rows.labels, batch_size=32, epochs=20, verbose=0)
    return network


def write_model(
    folder: Path, network: tf_keras.Model, graph: standard.TransformGraph
) -> standard.Model:
    """Writes a `Model` artifact."""
    model = standard.Model()
    model.uri = str(folder)
    save_model(network, tft.TFTransformOutput(graph.uri), serving_model_uri(model))
    return model


def save_model(network: tf_keras.Model, graph: tft.TFTransformOutput, path: str) -> None:
    """Saves a network with signatures for raw pixels, serialized or as they are."""
    _save(network, graph, path, {"raw_features": lambda images: images})


def save_with_determinant(network: tf_keras.Model, graph: tft.TFTransformOutput, path: str) -> None:
    """Saves a network with another signature, which has an operator that TFLite lacks."""

    def scale(images: tf.Tensor) -> tf.Tensor:
        determinants = tf.linalg.det(tf.reshape(images, [-1, 28, 28]))
        return images + determinants[:, tf.newaxis]

    _save(network, graph, path, {"determinant": scale})


def save_if_finite(network: tf_keras.Model, graph: tft.TFTransformOutput, path: str) -> None:
    """Saves a network, but not one that would bring TensorFlow's converter down."""
    assert all(np.isfinite(weight).all() for weight in network.get_weights())
    save_model(network, graph, path)


def _save(network: tf_keras.Model, graph: tft.TFTransformOutput, path: str, raw: Any) -> None:
    spec = {"image": _RAW_SPEC["image"]}
    network.transform = graph.transform_features_layer()

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
    def serve_examples(examples: tf.Tensor) -> dict[str, tf.Tensor]:
        parsed = tf.io.parse_example(examples, spec)
        return {"probabilities": network(network.transform(parsed)["image"])}

    def serve_raw(change: Any) -> Any:
        @tf.function(input_signature=[tf.TensorSpec([None, PIXELS], tf.float32, name="image")])
        def serve(image: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"probabilities": network(network.transform({"image": change(image)})["image"])}

        return serve

    signatures = {name: serve_raw(change) for name, change in raw.items()}
    network.save(
        path,
        save_format="tf",
        include_optimizer=False,
        save_traces=False,
        signatures={"serving_default": serve_examples, **signatures},
    )


def load_kernels(model: standard.Model) -> dict[str, np.ndarray]:
    """The kernels of a saved model's layers, by the layer's name."""
    network = tf_keras.models.load_model(serving_model_uri(model), compile=False)
    return {layer.name: layer.kernel.numpy() for layer in network.layers if layer.weights}


def measure_accuracy(predictor: Predictor) -> float:
    """The share of the test split that a model tells right."""
    rows = read_digits()["test"]
    return float(np.mean(predictor.predict(rows.serialize()).argmax(axis=1) == rows.labels))


def digest(folder: str) -> dict[str, str]:
    """A hash of each file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
    }
