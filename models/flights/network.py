"""The wide-and-deep network and its training (Cheng et al. 2016, https://arxiv.org/abs/1606.07792)."""

from __future__ import annotations

import json
import math
import os
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_transform as tft
import tf_keras
from tfx import v1 as tfx

from ml.artifacts import TRAINING_FILE
from ml.examples import Columns, columns_of_files
from ml.fit import ReportProgress, select_inputs
from ml.keras_setup import skip_autograph_of_keras
from ml.learning import Learning
from ml.weight_average import AverageWeights
from storage.errors import DataError, UserError

from .export import save_model
from .features import CROSSES, IDS, NUMERIC, VOCABULARIES
from .warm_start import start_from

_TRUNK = (256, 128, 64)
_EMBEDDING = 8
_LOG_LOSS = "log_loss"


def run_fn(fn_args: tfx.components.FnArgs) -> None:
    """Trains and saves the network; the `run_fn` of Trainer.

    Args:
      fn_args: Supplied by Trainer; `custom_config` holds the fields of `Learning`, and
        `base_model` is the folder of the served model where `warm_start` is not 0.

    Raises:
      DataError: If the labels of a split are not 0 and 1, both of them.
      UserError: If learning diverges.
    """
    skip_autograph_of_keras()
    config = Learning(**fn_args.custom_config)
    tf_keras.utils.set_random_seed(config.seed)
    graph = tft.TFTransformOutput(fn_args.transform_output)
    schema = graph.transformed_metadata.schema
    train = columns_of_files(fn_args.train_files, schema)
    evaluation = columns_of_files(fn_args.eval_files, schema)
    check_labels(config.label, "train", train[config.label])
    check_labels(config.label, "eval", evaluation[config.label])
    prior = float(train[config.label].mean())
    model = build_model(config, vocabulary_sizes(graph), train[NUMERIC].shape[1], prior)
    start: dict[str, Any] = {}
    if config.warm_start and fn_args.base_model:
        known = {name: graph.vocabulary_by_name(name) for name in VOCABULARIES}
        start = {
            "warm_start": start_from(model, fn_args.base_model, known, config.warm_start),
        }
    summary = _fit(model, config, train, evaluation, fn_args.model_run_dir) | start
    save_model(model, graph, fn_args.serving_model_dir, fn_args.custom_config)
    with tfx.dsl.io.fileio.open(os.path.join(fn_args.model_run_dir, TRAINING_FILE), "w") as file:
        file.write(json.dumps(summary))


def check_labels(name: str, split: str, labels: np.ndarray) -> None:
    """Refuses labels that a network cannot be trained or evaluated on.

    Raises:
      DataError: If they are not 0 and 1, both of them.
    """
    values = np.unique(labels)
    if values.tolist() != [0, 1]:
        shown = ", ".join(f"{value:g}" for value in values[:5])
        raise DataError(
            f"{split}: the values of the label {name!r} are {shown or 'none'}; 0 and 1 are "
            f"needed, both of them ({len(labels):,} rows). Are the labels of these months there "
            "yet?"
        )


def vocabulary_sizes(graph: tft.TFTransformOutput) -> dict[str, int]:
    """Number of ids of each string feature, including the one of unknown values."""
    return {name: graph.vocabulary_size_by_name(name) + 1 for name in VOCABULARIES}


def build_model(
    config: Learning, vocabularies: dict[str, int], width: int, prior: float
) -> tf_keras.Model:
    """Builds the network.

    The deep part reads embeddings and numeric features through three dense layers. The wide part
    adds one weight per id and per pair of ids in `CROSSES`.

    Args:
      config: Regularisation, and the name of the prediction.
      vocabularies: Number of ids of each string feature.
      width: Width of the feature `numeric`.
      prior: Share of positive labels, from which the bias of the output starts.

    Returns:
      A model from the transformed features, each of shape [batch, 1] or [batch, width], to the
      probability of the label, shape [batch, 1].
    """
    layers = tf_keras.layers
    l2 = tf_keras.regularizers.l2(config.l2)
    sizes = vocabularies | IDS
    inputs = {name: tf_keras.Input((1,), dtype=tf.int64, name=name) for name in sizes}
    inputs[NUMERIC] = tf_keras.Input((width,), name=NUMERIC)
    crossed = [inputs[left] * sizes[right] + inputs[right] for left, right in CROSSES]
    counts = [sizes[left] * sizes[right] for left, right in CROSSES]
    ids = [inputs[name] for name in sizes]
    embedded = _embed(
        "embedding",
        ids,
        list(sizes.values()),
        _EMBEDDING,
        tf_keras.initializers.RandomNormal(stddev=0.05),
    )
    hidden = layers.Concatenate()([layers.Flatten()(embedded), inputs[NUMERIC]])
    hidden = layers.Dropout(config.dropout)(hidden)
    for number, units in enumerate(_TRUNK, 1):
        hidden = layers.Dense(
            units,
            "relu",
            kernel_initializer="he_normal",
            kernel_regularizer=l2,
            name=f"hidden_{number}",
        )(hidden)
        hidden = layers.Dropout(config.dropout)(hidden)
    bias = tf_keras.initializers.Constant(math.log(prior / (1 - prior)))
    deep = layers.Dense(1, bias_initializer=bias, kernel_regularizer=l2, name="deep")(hidden)
    wide = _embed("wide", ids + crossed, [*sizes.values(), *counts], 1, "zeros")
    logit = deep + tf.reduce_sum(wide, axis=1)
    output = layers.Activation("sigmoid", name=config.prediction)(logit)
    return tf_keras.Model(inputs, output)


def _embed(
    name: str, ids: list[tf.Tensor], counts: list[int], length: int, initializer: Any
) -> tf.Tensor:
    """Vectors of several ids, each [batch, 1], as [batch, ids, length], from one table.

    One lookup in one table is much faster than a lookup in a table for each.
    """
    starts = np.cumsum([0, *counts[:-1]])
    table = tf_keras.layers.Embedding(
        sum(counts), length, embeddings_initializer=initializer, name=name
    )
    return table(tf_keras.layers.Concatenate()(ids) + starts)


def _fit(
    model: tf_keras.Model,
    config: Learning,
    train: Columns,
    evaluation: Columns,
    log_dir: str,
) -> dict[str, Any]:
    """Trains until the log loss on `eval` stops falling and keeps the best weights."""
    steps = math.ceil(len(train[config.label]) / config.batch_size)
    schedule = tf_keras.optimizers.schedules.CosineDecay(
        config.learning_rate, steps * config.epochs
    )
    model.compile(
        tf_keras.optimizers.Adam(schedule),
        "binary_crossentropy",
        # The loss includes the L2 penalty, so early stopping does not use it.
        metrics=[
            tf_keras.metrics.BinaryCrossentropy(name=_LOG_LOSS),
            tf_keras.metrics.AUC(name="auc"),
        ],
    )
    stopping = tf_keras.callbacks.EarlyStopping(
        f"val_{_LOG_LOSS}", mode="min", patience=config.patience, restore_best_weights=True
    )
    history = model.fit(
        select_inputs(model, train),
        train[config.label],
        # Their mean is 1, so that the learning rate and the L2 penalty keep their meaning.
        sample_weight=train[config.weight] / train[config.weight].mean(),
        batch_size=config.batch_size,
        epochs=config.epochs,
        validation_data=(select_inputs(model, evaluation), evaluation[config.label]),
        validation_batch_size=8192,
        verbose=2,
        callbacks=[
            AverageWeights(),
            stopping,
            tf_keras.callbacks.TensorBoard(log_dir, update_freq="epoch"),
            tf_keras.callbacks.TerminateOnNaN(),
            ReportProgress(config.epochs, steps, _LOG_LOSS),
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
