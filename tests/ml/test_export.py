"""Tests of the signatures of a saved model, for each task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
import tf_keras
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2
from tensorflow_transform.tf_metadata import dataset_metadata

from components.quantizer.conversion import convert
from ml.export import save_model
from ml.predictors import SavedModelPredictor, TFLitePredictor
from ml.task_layers import output_layer
from ml.tasks import Task
from storage.errors import UserError

TASKS = {
    "binary": Task("binary", "y", ("no", "yes"), ("stays", "goes")),
    "multiclass": Task("multiclass", "y", ("a", "b", "c")),
    "regression": Task("regression", "y"),
}
LABELS = np.array([[10.0], [30.0]])
FEATURES = ("colour", "size", "pixels")
ROWS = [
    {"colour": b"red", "size": 1.0, "pixels": [1.0, 2.0, 3.0], "tags": []},
    {"colour": b"blue", "size": 3.0, "pixels": [0.0, 0.0, 9.0], "tags": []},
    {"colour": b"", "size": float("nan"), "pixels": [4.0, 4.0, 4.0], "tags": []},
]
SCHEMA = text_format.Parse(
    """
    feature { name: "colour" type: BYTES }
    feature { name: "size" type: FLOAT }
    feature { name: "pixels" type: FLOAT presence { min_fraction: 1 min_count: 1 }
              shape { dim { size: 3 } } }
    feature { name: "tags" type: BYTES }
    tensor_representation_group {
      key: ""
      value {
        tensor_representation {
          key: "colour"
          value { dense_tensor { column_name: "colour" shape { dim { size: 1 } }
                                 default_value { bytes_value: "" } } }
        }
        tensor_representation {
          key: "size"
          value { dense_tensor { column_name: "size" shape { dim { size: 1 } }
                                 default_value { float_value: nan } } }
        }
        tensor_representation {
          key: "pixels"
          value { dense_tensor { column_name: "pixels" shape { dim { size: 3 } } } }
        }
        tensor_representation { key: "tags" value { varlen_sparse_tensor { column_name: "tags" } } }
      }
    }
    """,
    schema_pb2.Schema(),
)


def preprocess(inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    size = inputs["size"]
    ids = tft.compute_and_apply_vocabulary(inputs["colour"], vocab_filename="colour")
    return {
        "colour": ids + 1,
        "size": tf.where(tf.math.is_nan(size), tf.zeros_like(size), size),
        "pixels": inputs["pixels"] / 9,
        "unused": size,
    }


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> tft.TFTransformOutput:
    folder = tmp_path_factory.mktemp("export")
    metadata = dataset_metadata.DatasetMetadata(SCHEMA)
    rows = [{**row, "colour": [row["colour"]], "size": [row["size"]]} for row in ROWS[:2]]
    with beam.Pipeline() as pipeline, tft_beam.Context(temp_dir=str(folder / "temp")):
        dataset = (pipeline | beam.Create(rows), metadata)
        function = dataset | tft_beam.AnalyzeDataset(preprocess)
        _ = function | tft_beam.WriteTransformFn(str(folder / "graph"))
        _ = metadata | tft_beam.WriteMetadata(str(folder / "graph" / "metadata"), pipeline)
    return tft.TFTransformOutput(str(folder / "graph"))


def build_network(task: Task) -> tf_keras.Model:
    tf_keras.utils.set_random_seed(5)
    inputs = {
        "colour": tf_keras.Input((1,), dtype=tf.int64, name="colour"),
        "size": tf_keras.Input((1,), name="size"),
        "pixels": tf_keras.Input((3,), name="pixels"),
    }
    colour = tf_keras.layers.Flatten()(tf_keras.layers.Embedding(3, 2)(inputs["colour"]))
    # Called by itself the layer would move the image; what is saved must not.
    image = tf_keras.layers.Reshape((3, 1, 1))(inputs["pixels"])
    moved = tf_keras.layers.RandomTranslation(0.9, 0.0, "constant")(image)
    pixels = tf_keras.layers.Reshape((3,))(moved)
    hidden = tf_keras.layers.Concatenate()([colour, inputs["size"], pixels])
    logits = tf_keras.layers.Dense(task.outputs)(hidden)
    return tf_keras.Model(inputs, output_layer(task, logits, "answer", LABELS))


def settings(task: Task, features: tuple[str, ...] = FEATURES) -> dict[str, Any]:
    return {**vars(task), "prediction": "answer", "features": features}


@pytest.fixture(scope="module", params=TASKS)
def saved(
    request: Any, graph: tft.TFTransformOutput, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Task, Path, np.ndarray]:
    """The task, its saved model, and what the network itself predicts for the rows."""
    task, folder = TASKS[request.param], tmp_path_factory.mktemp("saved")
    network = build_network(task)
    raw = {name: np.array([row[name] for row in ROWS]) for name in FEATURES}
    vocabulary = graph.vocabulary_by_name("colour")
    transformed = {
        "colour": np.array([[1 + vocabulary.index(c)] if c else [0] for c in raw["colour"]]),
        "size": np.nan_to_num(raw["size"]).reshape(-1, 1).astype(np.float32),
        "pixels": (raw["pixels"] / 9).astype(np.float32),
    }
    expected = network(transformed, training=False).numpy()
    save_model(network, graph, str(folder), settings(task))
    return task, folder, expected


def serialize() -> np.ndarray:
    examples = []
    for row in ROWS:
        example = tf.train.Example()
        example.features.feature["colour"].bytes_list.value.append(row["colour"])
        if row["size"] == row["size"]:
            example.features.feature["size"].float_list.value.append(row["size"])
        example.features.feature["pixels"].float_list.value.extend(row["pixels"])
        examples.append(example.SerializeToString())
    return np.array(examples, object)


def raw_features() -> dict[str, np.ndarray]:
    return {
        "colour": np.array([row["colour"] for row in ROWS], object),
        "size": np.array([row["size"] for row in ROWS], np.float32),
        "pixels": np.array([row["pixels"] for row in ROWS], np.float32),
    }


def test_saved_model_predicts_as_the_network_by_both_signatures(
    saved: tuple[Task, Path, np.ndarray],
) -> None:
    task, folder, expected = saved
    assert expected.shape == (len(ROWS), task.outputs)
    by_examples = SavedModelPredictor(str(folder)).predict(serialize())
    np.testing.assert_allclose(by_examples, expected, rtol=1e-5)
    signature = tf.saved_model.load(str(folder)).signatures["raw_features"]
    specs = signature.structured_input_signature[1]
    assert {name: spec.shape.as_list() for name, spec in specs.items()} == {
        "colour": [None],
        "size": [None],
        "pixels": [None, 3],
    }
    by_features = signature(**{name: tf.constant(v) for name, v in raw_features().items()})
    np.testing.assert_allclose(by_features["answer"], expected, rtol=1e-5)


def test_saved_model_has_the_methods_of_tensorflow_serving_that_fit_the_task(
    saved: tuple[Task, Path, np.ndarray],
) -> None:
    task, folder, expected = saved
    signatures = tf.saved_model.load(str(folder)).signatures
    methods = {"binary": {"classify", "regress"}, "multiclass": {"classify"}}
    assert set(signatures) - {"serving_default", "raw_features"} == methods.get(
        task.kind, {"regress"}
    )
    examples = tf.constant(serialize())
    if "classify" in signatures:
        answer = signatures["classify"](inputs=examples)
        shares = np.hstack([1 - expected, expected]) if task.kind == "binary" else expected
        np.testing.assert_allclose(answer["scores"], shares, rtol=1e-5)
        names = [[name.encode() for name in task.class_names]] * len(ROWS)
        assert answer["classes"].numpy().tolist() == names
    if "regress" in signatures:
        answer = signatures["regress"](inputs=examples)
        np.testing.assert_allclose(answer["outputs"], expected, rtol=1e-5)


def test_saved_model_becomes_a_tflite_model_that_predicts_the_same(
    saved: tuple[Task, Path, np.ndarray],
) -> None:
    _, folder, expected = saved
    content = convert(str(folder), "raw_features", float16=False, quantize=False)
    found = TFLitePredictor(content).predict(serialize())
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_save_model_takes_a_sequential_network_of_one_feature(
    graph: tft.TFTransformOutput, tmp_path: Path
) -> None:
    layers = tf_keras.layers
    network = tf_keras.Sequential(
        [tf_keras.Input((3,), name="pixels"), layers.Dense(3, "softmax", name="answer")]
    )
    save_model(network, graph, str(tmp_path), settings(TASKS["multiclass"], ("pixels",)))
    expected = network(raw_features()["pixels"] / 9)
    found = SavedModelPredictor(str(tmp_path)).predict(serialize())
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (("colour", "miles"), "features: miles: not in the schema, which has colour, pixels, size"),
        (("colour", "tags"), "features: tags has no fixed number of values in the schema"),
    ],
)
def test_save_model_refuses_a_feature_that_no_request_can_hold(
    graph: tft.TFTransformOutput, tmp_path: Path, features: tuple[str, ...], message: str
) -> None:
    task = TASKS["binary"]
    with pytest.raises(UserError, match=message):
        save_model(build_network(task), graph, str(tmp_path), settings(task, features))
    assert not list(tmp_path.iterdir())
