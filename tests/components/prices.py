"""A regression for the components that compress, as the artifacts TFX makes: saved by `ml.export`.

The rows are scikit-learn's diabetes data, real patients; their score is written in a unit in which
it has six digits, as prices have, and does not fit into 16-bit floats.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
import tf_keras
from sklearn.datasets import load_diabetes
from tensorflow_transform.tf_metadata import dataset_metadata, schema_utils
from tfx.v1.types import standard_artifacts as standard

from ml.artifacts import serving_model_uri
from ml.export import save_model
from ml.task_layers import label_and_weight, output_layer
from ml.tasks import Task
from tests.components.digits import write_records

TASK = Task("regression", "price", example_weight="sold")
CUSTOM_CONFIG = {**vars(TASK), "prediction": "price", "features": ["facts"]}
LEARNING: dict[str, Any] = {
    "save_fn": "ml.export.save_model",
    "task": TASK.to_json(),
    "custom_config": json.dumps(CUSTOM_CONFIG),
    "batch_size": 32,
}
_FACTS = 10
_SPEC = {
    "facts": tf.io.FixedLenFeature([_FACTS], tf.float32),
    "price": tf.io.FixedLenFeature([1], tf.float32),
    "sold": tf.io.FixedLenFeature([1], tf.int64),
}
Columns = dict[str, np.ndarray]


@dataclass(frozen=True)
class Prices:
    """The artifacts; tests leave them as they are.

    Attributes:
      rows: The raw rows by split.
      raw: Examples of them.
      transformed: The same with facts around 0.
      graph: The transformation between them.
      model: The trained model.
    """

    rows: dict[str, Columns]
    raw: standard.Examples
    transformed: standard.Examples
    graph: standard.TransformGraph
    model: standard.Model

    def for_pruner(self) -> dict[str, Any]:
        """The inputs of a Pruner."""
        examples = {"examples": self.transformed, "transform_graph": self.graph}
        return {"model": self.model, **examples}

    def for_quantizer(self, model: standard.Model) -> dict[str, Any]:
        """The inputs of a Quantizer of a model."""
        return {
            "model": model,
            "float_model": self.model,
            "examples": self.raw,
            "transformed_examples": self.transformed,
            "transform_graph": self.graph,
        }


def make_prices(root: Path) -> Prices:
    """Writes the artifacts below a folder."""
    rows = read_prices()
    graph = _write_graph(root / "graph", rows["train"])
    layer = tft.TFTransformOutput(graph.uri).transform_features_layer()
    transformed = {
        split: {name: value.numpy() for name, value in layer(dict(columns)).items()}
        for split, columns in rows.items()
    }
    return Prices(
        rows=rows,
        raw=_write_examples(root / "raw", rows),
        transformed=_write_examples(root / "transformed", transformed),
        graph=graph,
        model=write_model(root / "model", train_network(transformed["train"]), graph),
    )


def read_prices() -> dict[str, Columns]:
    """The 442 rows by split, [rows, width] each; a quarter is `eval`."""
    facts, score = load_diabetes(return_X_y=True, scaled=False)
    columns = {
        "facts": facts.astype(np.float32),
        "price": (1000 * score[:, np.newaxis]).astype(np.float32),
        "sold": 1 + np.arange(len(score))[:, np.newaxis] % 3,
    }
    is_eval = np.arange(len(score)) % 4 == 3
    splits = {"train": ~is_eval, "eval": is_eval}
    return {split: {n: c[mask] for n, c in columns.items()} for split, mask in splits.items()}


def serialize(columns: Columns) -> np.ndarray:
    """Rows as tf.Examples, bytes [rows]."""
    records = []
    for row in range(len(columns["price"])):
        example = tf.train.Example()
        for name, column in columns.items():
            feature = example.features.feature[name]
            whole = column.dtype.kind == "i"
            (feature.int64_list if whole else feature.float_list).value.extend(column[row])
        records.append(example.SerializeToString())
    return np.array(records, object)


def _write_examples(folder: Path, splits: dict[str, Columns]) -> standard.Examples:
    for split, columns in splits.items():
        write_records(folder / f"Split-{split}", serialize(columns))
    examples = standard.Examples()
    examples.uri, examples.split_names = str(folder), json.dumps(list(splits))
    return examples


def _preprocess(inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    facts = tft.scale_to_z_score(inputs["facts"], elementwise=True)
    return {"facts": facts, **label_and_weight(TASK, inputs)}


def _write_graph(folder: Path, rows: Columns) -> standard.TransformGraph:
    metadata = dataset_metadata.DatasetMetadata(schema_utils.schema_from_feature_spec(_SPEC))
    records = [{n: c[row] for n, c in rows.items()} for row in range(len(rows["price"]))]
    with beam.Pipeline() as pipeline, tft_beam.Context(temp_dir=str(folder.with_name("temp"))):
        dataset = (pipeline | beam.Create(records), metadata)
        function = dataset | tft_beam.AnalyzeDataset(_preprocess)
        _ = function | tft_beam.WriteTransformFn(str(folder))
        _ = metadata | tft_beam.WriteMetadata(str(folder / "metadata"), pipeline)
    graph = standard.TransformGraph()
    graph.uri = str(folder)
    return graph


def train_network(rows: Columns, loss: str = TASK.loss) -> tf_keras.Model:
    """Trains a network; by the logarithmic error, one that predicts a logarithm."""
    tf_keras.utils.set_random_seed(7)
    layers = tf_keras.layers
    facts = tf_keras.Input((_FACTS,), name="facts")
    hidden = layers.Dense(32, "relu", name="second")(layers.Dense(64, "relu", name="first")(facts))
    if loss == TASK.loss:
        answer = output_layer(TASK, layers.Dense(1, name="last")(hidden), "answer", rows["price"])
    else:
        bias = tf_keras.initializers.Constant(np.log(rows["price"]).mean())
        logarithm = layers.Dense(1, name="last", bias_initializer=bias)(hidden)
        answer = layers.Activation("exponential", name="answer")(logarithm)
    network = tf_keras.Model(facts, answer)
    network.compile(tf_keras.optimizers.Adam(1e-3), loss)
    network.fit(rows["facts"], rows["price"], batch_size=32, epochs=12, verbose=0)
    return network


def write_model(
    folder: Path, network: tf_keras.Model, graph: standard.TransformGraph
) -> standard.Model:
    """Writes a `Model` artifact."""
    model = standard.Model()
    model.uri = str(folder)
    uri = serving_model_uri(model)
    save_model(network, tft.TFTransformOutput(graph.uri), uri, CUSTOM_CONFIG)
    return model
