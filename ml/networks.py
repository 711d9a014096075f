"""What components that train have in common: columns of examples, networks, and how good one is."""

from __future__ import annotations

import importlib
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import tensorflow_transform as tft
import tf_keras
from sklearn.metrics import roc_auc_score
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx import v1 as tfx
from tfx_bsl.public import tfxio

from ml import progress
from ml.artifacts import serving_model_uri, split_files
from storage.errors import UserError

Columns = dict[str, np.ndarray]
SaveFn = Callable[[tf_keras.Model, tft.TFTransformOutput, str], None]

_EVALUATION_BATCH = 8192


@dataclass(frozen=True)
class FitSettings:
    """How a trained network is trained on.

    Attributes:
      label_key: Column of the label, of shape [rows, 1].
      weight_key: Column of the weight of a row; empty where all weigh the same.
      loss: Name of a Keras loss.
      epochs: Passes over the rows.
      batch_size: Rows per step.
      learning_rate: Adam's learning rate at the start, from which it falls along a cosine to 0.
      seed: Seed of all random choices.
    """

    label_key: str
    weight_key: str
    loss: str
    epochs: int
    batch_size: int
    learning_rate: float
    seed: int

    def check(self) -> None:
        """Checks the values.

        Raises:
          UserError: Naming the setting, its value and what is allowed.
        """
        require(self.epochs >= 0, "epochs", self.epochs, "0 or more")
        require(self.batch_size >= 1, "batch_size", self.batch_size, "1 or more")
        require(0 < self.learning_rate <= 1, "learning_rate", self.learning_rate, "above 0, to 1")
        try:
            known = callable(tf_keras.losses.get(self.loss))
        except (TypeError, ValueError):
            known = False
        if not known:
            raise UserError(f"loss = {self.loss!r}: not the name of a Keras loss")


def require(condition: bool, name: str, value: Any, allowed: str) -> None:
    """Raises a `UserError` that names a parameter, its value and what is allowed."""
    if not condition:
        raise UserError(f"{name} = {value!r}: allowed is {allowed}")


def load_function(path: str) -> Callable[..., Any]:
    """Imports user code that a parameter names, as in `models.trips.export.save_model`.

    Raises:
      UserError: If there is no such function.
    """
    module, _, name = path.rpartition(".")
    try:
        function = getattr(importlib.import_module(module), name)
        if not callable(function):
            raise TypeError(f"it is a {type(function).__name__}")
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise UserError(f"{path!r} is not the import path of a function: {error}") from error
    return function


def read_columns(examples: tfx.dsl.Artifact, split: str, schema: schema_pb2.Schema) -> Columns:
    """Reads a split of transformed examples into memory.

    Record batches are decoded a column at a time, in half the time of a tf.data.Dataset.

    Args:
      examples: Transformed examples, every feature dense.
      split: Name of the split.
      schema: Schema of the transformed examples.

    Returns:
      By feature, an array of shape [rows, width].

    Raises:
      UserError: If the split is not there or is empty.
    """
    return columns_of_files(split_files(examples, split), schema)


def columns_of_files(patterns: list[str], schema: schema_pb2.Schema) -> Columns:
    """Reads transformed examples of the files that match some patterns; see `read_columns`."""
    source = tfxio.TFExampleRecord(patterns, schema=schema, telemetry_descriptors=["networks"])
    options = tfxio.RecordBatchesOptions(
        batch_size=8192, drop_final_batch=False, num_epochs=1, shuffle=False
    )
    batches = [batch for batch in source.RecordBatches(options) if batch.num_rows]
    if not batches:
        raise UserError(f"there are no examples in {', '.join(patterns)}")
    return {
        name: np.concatenate(
            [_to_matrix(batch.column(batch.schema.get_field_index(name))) for batch in batches]
        )
        for name in batches[0].schema.names
    }


def _to_matrix(column: pa.Array) -> np.ndarray:
    """A column of lists of one length as an array of shape [rows, length]."""
    return np.asarray(column.flatten()).reshape(len(column), -1)


def load_network(model: tfx.dsl.Artifact) -> tf_keras.Model:
    """Loads the network of a `Model` artifact, without what was attached to it for serving.

    Args:
      model: A model that `tf_keras` saved, Sequential or Functional.

    Returns:
      A network of its own: training it leaves the artifact as it is.

    Raises:
      UserError: If it is something else, naming the folder.
    """
    uri = serving_model_uri(model)
    if not tfx.dsl.io.fileio.exists(os.path.join(uri, "keras_metadata.pb")):
        raise UserError(
            f"{uri} is not a tf_keras model (it has no keras_metadata.pb); "
            "save it with tf_keras: model.save(path, save_format='tf')"
        )
    try:
        loaded = tf_keras.models.load_model(uri, compile=False)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"the model in {uri} cannot be rebuilt; is a layer of its own not registered with "
            f"tf_keras.saving.register_keras_serializable? ({str(error).splitlines()[0]})"
        ) from error
    if not getattr(loaded, "_is_graph_network", False):
        raise UserError(
            f"the model in {uri} is a {type(loaded).__name__}; only Sequential and Functional "
            "tf_keras models can be rebuilt layer by layer"
        )
    network = tf_keras.Model(loaded.inputs, loaded.outputs, name=loaded.name)
    for layer in network.layers:
        if isinstance(layer, tf_keras.Model):
            raise UserError(
                f"layer {layer.name} of the model in {uri} is a model itself; its layers have to "
                "be the model's own"
            )
    return network


def check_keys(columns: Columns, settings: FitSettings) -> None:
    """Raises a `UserError` if label or weight are not among the columns, which it lists."""
    for name in ("label_key", "weight_key"):
        key = getattr(settings, name)
        require(not key or key in columns, name, key, " or ".join(sorted(columns)))


def parse_names(name: str, text: str) -> list[str]:
    """Reads a parameter that is a JSON list of strings.

    Raises:
      UserError: If it is something else.
    """
    try:
        names = json.loads(text)
    except ValueError:
        names = None
    listed = isinstance(names, list) and all(isinstance(entry, str) for entry in names)
    require(listed, name, text, "a JSON list of strings")
    return names


def clone(network: tf_keras.Model) -> tf_keras.Model:
    """A network of the same layers and weights that shares neither."""
    copy = tf_keras.models.clone_model(network)
    copy.set_weights(network.get_weights())
    return copy


def kernel_layers(network: tf_keras.Model) -> list[tf_keras.layers.Layer]:
    """Dense and convolution layers, but for those whose output is the network's."""
    last = set(map(id, _output_layers(network)))
    return [layer for layer in network.layers if hasattr(layer, "kernel") and id(layer) not in last]


def choose_layers(network: tf_keras.Model, chosen: Sequence[str]) -> list[tf_keras.layers.Layer]:
    """The layers that a person named.

    Args:
      network: The network.
      chosen: Names or types of layers; empty means `kernel_layers`.

    Returns:
      The layers, in the network's order.

    Raises:
      UserError: Naming what matches no layer, and the layers there are.
    """
    if not chosen:
        found = kernel_layers(network)
        if not found:
            raise UserError(
                "no layer to choose: the network has no dense or convolution layer before its "
                f"output; its layers are {_describe(network)}"
            )
        return found
    for entry in chosen:
        if not any(entry in (layer.name, type(layer).__name__) for layer in network.layers):
            raise UserError(f"layers: {entry!r} is none of {_describe(network)}")
    return [
        layer for layer in network.layers if layer.name in chosen or type(layer).__name__ in chosen
    ]


def _describe(network: tf_keras.Model) -> str:
    return ", ".join(
        f"{layer.name} ({type(layer).__name__})" for layer in network.layers if layer.weights
    )


def _output_layers(network: tf_keras.Model) -> Iterator[tf_keras.layers.Layer]:
    """The layers with weights that nothing with weights comes after."""
    tensors = list(network.outputs)
    while tensors:
        node = tensors.pop().node
        if node.layer.weights:
            yield node.layer
        else:
            tensors += node.keras_inputs


def fine_tune(
    network: tf_keras.Model,
    columns: Columns,
    settings: FitSettings,
    callbacks: Sequence[tf_keras.callbacks.Callback] = (),
) -> None:
    """Trains a network on from where it is.

    Args:
      network: The network; its weights change.
      columns: Rows to learn from; see `read_columns`.
      settings: How.
      callbacks: Keras callbacks.

    Raises:
      UserError: If learning diverges.
    """
    tf_keras.utils.set_random_seed(settings.seed)
    labels = columns[settings.label_key]
    steps = math.ceil(len(labels) / settings.batch_size)
    schedule = tf_keras.optimizers.schedules.CosineDecay(
        settings.learning_rate, max(1, steps * settings.epochs)
    )
    network.compile(tf_keras.optimizers.Adam(schedule), settings.loss)
    weights = columns[settings.weight_key] if settings.weight_key else None
    history = network.fit(
        select_inputs(network, columns),
        labels,
        # Of mean 1, or the learning rate and the penalties would mean something else.
        sample_weight=None if weights is None else weights / weights.mean(),
        batch_size=settings.batch_size,
        epochs=settings.epochs,
        verbose=0,
        callbacks=[*callbacks, ReportProgress(settings.epochs, steps)],
    ).history
    # A loss may stay finite where weights do not: a ReLU makes 0 of NaN.
    numbers = [history.get("loss", []), *network.get_weights()]
    if not all(np.isfinite(array).all() for array in numbers):
        raise UserError(
            "fine-tuning diverged: loss or weights are not finite; lower the learning rate "
            f"(now {settings.learning_rate:g})"
        )


def evaluate(
    network: tf_keras.Model, columns: Columns, settings: FitSettings
) -> dict[str, float | None]:
    """Mean loss and AUC of a network on some rows; see `area_under_curve`."""
    labels = columns[settings.label_key]
    answers = network.predict(
        select_inputs(network, columns), batch_size=_EVALUATION_BATCH, verbose=0
    )
    loss = tf_keras.losses.get(settings.loss)(labels, answers)
    return {"loss": float(np.mean(loss)), "auc": area_under_curve(labels, answers)}


def area_under_curve(labels: np.ndarray, answers: np.ndarray) -> float | None:
    """Area under the ROC curve; for several classes the mean of one against the rest.

    Hand and Till 2001, https://doi.org/10.1023/A:1010920819831.

    Args:
      labels: Class of each row, [rows] or [rows, 1].
      answers: Probability of the positive class [rows, 1] or of each class [rows, classes].

    Returns:
      The area, or None where the rows do not hold every class or an answer is NaN or infinite.
    """
    labels = np.ravel(labels)
    answers = answers.reshape(len(labels), -1)
    classes = max(2, answers.shape[1])
    if len(np.unique(labels)) < classes or not np.isfinite(answers).all():
        return None
    if classes == 2:
        return float(roc_auc_score(labels, answers[:, -1]))
    answers = answers / answers.sum(axis=1, keepdims=True)
    return float(roc_auc_score(labels, answers, multi_class="ovr"))


def select_inputs(network: tf_keras.Model, columns: Columns) -> Columns:
    """The columns that a network reads, by the names of its inputs."""
    return {name: columns[name] for name in network.input_names}


class ReportProgress(tf_keras.callbacks.Callback):
    """Reports epoch, step and loss some ten times an epoch.

    Args:
      epochs: Epochs in all.
      steps: Steps per epoch.
      metric: Name of the metric to report.
    """

    def __init__(self, epochs: int, steps: int, metric: str = "loss"):
        super().__init__()
        self._epochs, self._steps, self._metric = epochs, steps, metric
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Counts epochs."""
        self._epoch = epoch + 1

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Reports a tenth of an epoch."""
        step = batch + 1
        if step % max(1, self._steps // 10) and step != self._steps:
            return
        value = (logs or {}).get(self._metric, math.nan)
        progress.report(
            f"epoch {self._epoch} of {self._epochs}, step {step} of {self._steps}, "
            f"{self._metric.replace('_', ' ')} {value:.4f}"
        )
