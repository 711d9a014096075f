"""Tests of the code that docs/own-model.md shows: it runs, for every task and names of columns."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
import tf_keras
from tensorflow_transform.tf_metadata import dataset_metadata, schema_utils

from ml.export import save_model
from ml.learning import Learning
from ml.names import graph_names
from ml.predictors import SavedModelPredictor
from ml.task_layers import label_and_weight, output_layer
from ml.tasks import Task
from ml.training import TrainingData, fit
from pipeline.config import load_config
from tests.conftest import PROJECT

PAGE = (PROJECT / "docs" / "own-model.md").read_text(encoding="utf-8")
TASKS = {
    "binary": Task("binary", "left", ("no", "yes"), example_weight="customers"),
    "multiclass": Task("multiclass", "left", ("no", "yes", "paused"), example_weight="customers"),
    "regression": Task("regression", "left", example_weight="customers"),
}
ROWS = 200


@functools.cache
def code_of_page() -> dict[str, Any]:
    """The names that the page's two modules define."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    modules = [block for block in blocks if block.startswith('"""')]
    assert len(modules) == 2
    names: dict[str, Any] = {}
    for module in modules:
        exec(compile(module, "own-model.md", "exec"), names)
    return names


def draw(task: Task) -> dict[str, np.ndarray]:
    random = np.random.default_rng(3)
    months = random.integers(1, 60, (ROWS, 1)).astype(np.float32)
    label: Any = 20 * months if task.kind == "regression" else months.astype(int) % 3
    if task.classes:
        label = np.array(task.classes, object)[label % len(task.classes)]
    return {
        "plan": random.choice(np.array(["small", "large"], object), (ROWS, 1)),
        "months": months,
        "calls": random.normal(size=(ROWS, 1)).astype(np.float32),
        "customers": random.integers(1, 5, (ROWS, 1)),
        "left": label,
    }


def learn(
    preprocess: Callable[..., Any], rows: dict[str, np.ndarray], spec: dict[str, Any], folder: Path
) -> tft.TFTransformOutput:
    """The transformation of some rows."""
    metadata = dataset_metadata.DatasetMetadata(schema_utils.schema_from_feature_spec(spec))
    records = [{name: column[row] for name, column in rows.items()} for row in range(ROWS)]
    graph = str(folder / "graph")
    with beam.Pipeline() as pipeline, tft_beam.Context(temp_dir=str(folder / "temp")):
        function = (pipeline | beam.Create(records), metadata) | tft_beam.AnalyzeDataset(preprocess)
        _ = function | tft_beam.WriteTransformFn(graph)
        _ = metadata | tft_beam.WriteMetadata(f"{graph}/metadata", pipeline)
    return tft.TFTransformOutput(graph)


@pytest.mark.parametrize("kind", TASKS)
def test_model_of_the_page_is_trained_and_saved_for_each_task(tmp_path: Path, kind: str) -> None:
    task, names = TASKS[kind], code_of_page()
    rows = draw(task)
    dtypes = {"f": tf.float32, "i": tf.int64, "O": tf.string}
    spec = {n: tf.io.FixedLenFeature([1], dtypes[c.dtype.kind]) for n, c in rows.items()}
    custom_config = {
        **vars(task),
        "prediction": "probability",
        "features": ["plan", "months", "calls"],
        **dataclasses.asdict(load_config().training),
    }
    preprocess = functools.partial(names["preprocessing_fn"], custom_config=custom_config)
    graph = learn(preprocess, rows, spec, tmp_path)
    tensors = {name: tf.constant(column) for name, column in rows.items()}
    columns = {n: c.numpy() for n, c in graph.transform_raw_features(tensors).items()}
    np.testing.assert_array_equal(columns["customers"], rows["customers"])
    data = TrainingData(Learning.from_config(custom_config), graph, columns, columns)
    network = names["build_model"](data)
    summary = fit(network, data, str(tmp_path / "log"))
    assert summary["metrics"][task.headline.name] is not None
    save_model(network, graph, str(tmp_path / "saved"), custom_config)
    example = tf.train.Example()
    example.features.feature["plan"].bytes_list.value.append(b"small")
    for name in ("months", "calls"):
        example.features.feature[name].float_list.value.append(3.0)
    predictor = SavedModelPredictor(str(tmp_path / "saved"))
    found = predictor.predict(np.array([example.SerializeToString()], object))
    assert found.shape == (1, task.outputs)
    assert np.isfinite(found).all()


def test_network_of_the_page_is_trained_on_columns_whose_names_tensorflow_cannot_carry(
    tmp_path: Path,
) -> None:
    preprocessing, network_code = re.findall(r"```python\n(# \w+\.py:.*?)```", PAGE, re.DOTALL)
    numbers = ("trip.miles", "fare ($)", "größe", "1st")
    task, prediction = Task("binary", "is slow?", ("no", "yes")), "probability"
    shown: dict[str, Any] = {"NUMBERS": numbers, "task": task, "prediction": prediction}
    shown |= {"graph_names": graph_names, "tft": tft, "tf_keras": tf_keras}

    def preprocess(inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        scope = {**shown, "inputs": inputs}
        exec(preprocessing, scope)
        return {**scope["outputs"], **label_and_weight(task, inputs)}

    random = np.random.default_rng(3)
    rows: dict[str, np.ndarray] = {
        name: random.normal(size=(ROWS, 1)).astype(np.float32) for name in numbers
    }
    rows[task.label] = np.where(rows["trip.miles"] > 0, "yes", "no").astype(object)
    spec = {name: tf.io.FixedLenFeature([1], tf.float32) for name in numbers}
    spec[task.label] = tf.io.FixedLenFeature([1], tf.string)
    graph = learn(preprocess, rows, spec, tmp_path)
    tensors = {name: tf.constant(column) for name, column in rows.items()}
    columns = {n: c.numpy() for n, c in graph.transform_raw_features(tensors).items()}
    shown["names"] = graph_names(numbers, [task.label, prediction])
    exec(network_code, shown)
    hidden = tf_keras.layers.Concatenate()(shown["network_inputs"])
    logits = tf_keras.layers.Dense(1)(hidden)
    network = tf_keras.Model(shown["network_inputs"], output_layer(task, logits, prediction))
    custom_config = {
        **vars(task),
        "prediction": prediction,
        "features": numbers,
        **dataclasses.asdict(load_config().training),
        "epochs": 20,
        "batch_size": 20,
        "learning_rate": 0.05,
    }
    data = TrainingData(Learning.from_config(custom_config), graph, columns, columns)
    assert fit(network, data, str(tmp_path / "log"))["metrics"]["auc"] > 0.95
    save_model(network, graph, str(tmp_path / "saved"), custom_config)
    example = tf.train.Example()
    for name in numbers:
        example.features.feature[name].float_list.value.append(3.0)
    predictor = SavedModelPredictor(str(tmp_path / "saved"))
    (found,) = predictor.predict(np.array([example.SerializeToString()], object))
    assert found > 0.9
