"""The wide-and-deep network and how it learns (Cheng et al. 2016, https://arxiv.org/abs/1606.07792)."""

from __future__ import annotations

import json
import math
import os
from typing import Any

import numpy as np
import pyarrow as pa
import tensorflow as tf
import tensorflow_transform as tft
import tf_keras
from tfx import v1 as tfx
from tfx_bsl.public import tfxio

from components import progress
from components.errors import UserError
from components.keras_setup import skip_autograph_of_keras
from components.weight_average import AverageWeights
from pipeline.config import TrainingConfig
from pipeline.export import save_model
from pipeline.features import CROSSES, IDS, LABEL, NUMERIC, PROBABILITY, VOCABULARIES, WEIGHT

_TRUNK = (256, 128, 64)
_LOG_LOSS = "log_loss"

Columns = dict[str, np.ndarray]


def run_fn(fn_args: tfx.components.FnArgs) -> None:
    """Trains and saves the network; the `run_fn` of Trainer.

    Args:
      fn_args: Supplied by Trainer; `custom_config` holds the fields of `TrainingConfig`.

    Raises:
      UserError: If learning diverges.
    """
    skip_autograph_of_keras()
    config = TrainingConfig(**fn_args.custom_config)
    tf_keras.utils.set_random_seed(config.seed)
    graph = tft.TFTransformOutput(fn_args.transform_output)
    train = _read_columns(fn_args, fn_args.train_files, graph)
    evaluation = _read_columns(fn_args, fn_args.eval_files, graph)
    prior = float(train[LABEL].mean())
    model = build_model(config, vocabulary_sizes(graph), train[NUMERIC].shape[1], prior)
    summary = _fit(model, config, train, evaluation, fn_args.model_run_dir)
    save_model(model, graph, fn_args.serving_model_dir)
    with tfx.dsl.io.fileio.open(os.path.join(fn_args.model_run_dir, "training.json"), "w") as file:
        file.write(json.dumps(summary))


def vocabulary_sizes(graph: tft.TFTransformOutput) -> dict[str, int]:
    """How many ids each string feature has, the one shared by unknown values included."""
    return {name: graph.vocabulary_size_by_name(name) + 1 for name in VOCABULARIES}


def build_model(
    config: TrainingConfig, vocabularies: dict[str, int], numbers: int, prior: float
) -> tf_keras.Model:
    """Builds the network.

    The deep part reads embeddings and numbers through three dense layers; the wide part adds one
    weight per id and per pair of ids in `CROSSES`.

    Args:
      config: Regularisation.
      vocabularies: Number of ids of each string feature.
      numbers: Width of the feature `numeric`.
      prior: Share of positive labels, where the bias of the output starts.

    Returns:
      A model from the transformed features, each of shape [batch, 1] or [batch, numbers], to the
      probability of the label, shape [batch, 1].
    """
    layers = tf_keras.layers
    l2 = tf_keras.regularizers.l2(config.l2)
    sizes = vocabularies | {name: size for name, (size, _) in IDS.items()}
    lengths = VOCABULARIES | {name: length for name, (_, length) in IDS.items()}
    inputs = {name: tf_keras.Input((1,), dtype=tf.int64, name=name) for name in sizes}
    inputs[NUMERIC] = tf_keras.Input((numbers,), name=NUMERIC)
    embedded = [
        layers.Flatten()(
            layers.Embedding(
                sizes[name],
                length,
                embeddings_initializer=tf_keras.initializers.RandomNormal(stddev=0.05),
                name=f"{name}_embedding",
            )(inputs[name])
        )
        for name, length in lengths.items()
    ]
    hidden = layers.Concatenate()([*embedded, inputs[NUMERIC]])
    hidden = layers.Dropout(config.dropout)(hidden)
    for units in _TRUNK:
        hidden = layers.Dense(units, "relu", kernel_initializer="he_normal", kernel_regularizer=l2)(
            hidden
        )
        hidden = layers.Dropout(config.dropout)(hidden)
    bias = tf_keras.initializers.Constant(math.log(prior / (1 - prior)))
    logits = [layers.Dense(1, bias_initializer=bias, kernel_regularizer=l2, name="deep")(hidden)]
    logits += [_weight_per_id(name, inputs[name], sizes[name]) for name in sizes]
    for left, right in CROSSES:
        pair = inputs[left] * sizes[right] + inputs[right]
        logits.append(_weight_per_id(f"{left}_{right}", pair, sizes[left] * sizes[right]))
    output = layers.Activation("sigmoid", name=PROBABILITY)(layers.Add()(logits))
    return tf_keras.Model(inputs, output)


def _weight_per_id(name: str, ids: tf.Tensor, count: int) -> tf.Tensor:
    layers = tf_keras.layers
    weight = layers.Embedding(count, 1, embeddings_initializer="zeros", name=f"{name}_wide")
    return layers.Flatten()(weight(ids))


def _read_columns(
    fn_args: tfx.components.FnArgs, files: list[str], graph: tft.TFTransformOutput
) -> Columns:
    """Reads a split into memory, a window of months of some 20 numbers a row, as [rows, width]."""
    options = tfxio.RecordBatchesOptions(batch_size=8192, drop_final_batch=False, num_epochs=1)
    schema = graph.transformed_metadata.schema
    # Record batches are decoded a column at a time, in half the time of a tf.data.Dataset.
    batches = list(fn_args.data_accessor.record_batch_factory(files, options, schema))
    return {
        name: np.concatenate(
            [_to_matrix(batch.column(batch.schema.get_field_index(name))) for batch in batches]
        )
        for name in batches[0].schema.names
    }


def _to_matrix(column: pa.Array) -> np.ndarray:
    """A column of lists of one length as an array of shape [rows, length]."""
    return np.asarray(column.flatten()).reshape(len(column), -1)


def _fit(
    model: tf_keras.Model,
    config: TrainingConfig,
    train: Columns,
    evaluation: Columns,
    log_dir: str,
) -> dict[str, Any]:
    """Trains until the log loss on `eval` stops falling and keeps the best weights."""
    steps = math.ceil(len(train[LABEL]) / config.batch_size)
    schedule = tf_keras.optimizers.schedules.CosineDecay(
        config.learning_rate, steps * config.epochs
    )
    model.compile(
        tf_keras.optimizers.Adam(schedule),
        "binary_crossentropy",
        # The loss also counts the L2 penalty, so it is not what tells when to stop.
        metrics=[
            tf_keras.metrics.BinaryCrossentropy(name=_LOG_LOSS),
            tf_keras.metrics.AUC(name="auc"),
        ],
    )
    stopping = tf_keras.callbacks.EarlyStopping(
        f"val_{_LOG_LOSS}", mode="min", patience=config.patience, restore_best_weights=True
    )
    history = model.fit(
        _select_inputs(model, train),
        train[LABEL],
        # Of mean 1, or the learning rate and the L2 penalty would mean something else.
        sample_weight=train[WEIGHT] / train[WEIGHT].mean(),
        batch_size=config.batch_size,
        epochs=config.epochs,
        validation_data=(_select_inputs(model, evaluation), evaluation[LABEL]),
        validation_batch_size=8192,
        verbose=2,
        callbacks=[
            AverageWeights(),
            stopping,
            tf_keras.callbacks.TensorBoard(log_dir, update_freq="epoch"),
            tf_keras.callbacks.TerminateOnNaN(),
            _ReportProgress(config.epochs, steps),
        ],
    ).history
    if not np.isfinite(history["loss"]).all():
        raise UserError(
            "learning diverged: the loss is not finite; lower training.learning_rate "
            f"(now {config.learning_rate:g})"
        )
    losses = history[f"val_{_LOG_LOSS}"]
    best = int(np.argmin(losses))
    return {"epochs": len(losses), "best_epoch": best + 1, "auc": history["val_auc"][best]}


def _select_inputs(model: tf_keras.Model, columns: Columns) -> Columns:
    return {name: columns[name] for name in model.input_names}


class _ReportProgress(tf_keras.callbacks.Callback):
    """Reports epoch, step and loss some ten times an epoch."""

    def __init__(self, epochs: int, steps: int):
        super().__init__()
        self._epochs, self._steps = epochs, steps
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._epoch = epoch + 1

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        step = batch + 1
        if step % max(1, self._steps // 10) and step != self._steps:
            return
        loss = (logs or {}).get(_LOG_LOSS, math.nan)
        progress.report(
            f"epoch {self._epoch} of {self._epochs}, step {step} of {self._steps}, "
            f"log loss {loss:.4f}"
        )
