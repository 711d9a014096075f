"""A small network that reads embeddings and numeric features, and its training."""

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

from .export import save_model
from .features import IDS, NUMERIC, VOCABULARIES

_TRUNK = (64, 32)
_EMBEDDING = 4
_LOG_LOSS = "log_loss"


def run_fn(fn_args: tfx.components.FnArgs) -> None:
    """Trains and saves the network; the `run_fn` of Trainer.

    Args:
      fn_args: Supplied by Trainer; `custom_config` holds the fields of `Learning`.
    """
    skip_autograph_of_keras()
    config = Learning(**fn_args.custom_config)
    tf_keras.utils.set_random_seed(config.seed)
    graph = tft.TFTransformOutput(fn_args.transform_output)
    schema = graph.transformed_metadata.schema
    train = columns_of_files(fn_args.train_files, schema)
    evaluation = columns_of_files(fn_args.eval_files, schema)
    sizes = {name: graph.vocabulary_size_by_name(name) + 1 for name in VOCABULARIES}
    model = build_model(config, sizes | IDS, train[NUMERIC].shape[1])
    summary = _fit(model, config, train, evaluation, fn_args.model_run_dir)
    save_model(model, graph, fn_args.serving_model_dir, fn_args.custom_config)
    with tfx.dsl.io.fileio.open(os.path.join(fn_args.model_run_dir, TRAINING_FILE), "w") as file:
        file.write(json.dumps(summary))


def build_model(config: Learning, sizes: dict[str, int], width: int) -> tf_keras.Model:
    """Builds the network.

    Args:
      config: Regularisation.
      sizes: Number of ids of each feature that has ids.
      width: Width of the feature `numeric`.

    Returns:
      A model from the transformed features to the probability of the label, shape [batch, 1].
    """
    layers = tf_keras.layers
    inputs = {name: tf_keras.Input((1,), dtype=tf.int64, name=name) for name in sizes}
    inputs[NUMERIC] = tf_keras.Input((width,), name=NUMERIC)
    starts = np.cumsum([0, *sizes.values()])
    ids = layers.Concatenate()([inputs[name] for name in sizes]) + starts[:-1]
    embedded = layers.Embedding(int(starts[-1]), _EMBEDDING, name="embedding")(ids)
    hidden = layers.Concatenate()([layers.Flatten()(embedded), inputs[NUMERIC]])
    for number, units in enumerate(_TRUNK, 1):
        hidden = layers.Dense(
            units,
            "relu",
            kernel_regularizer=tf_keras.regularizers.l2(config.l2),
            name=f"hidden_{number}",
        )(hidden)
        hidden = layers.Dropout(config.dropout)(hidden)
    logit = layers.Dense(1, name="deep")(hidden)
    return tf_keras.Model(inputs, layers.Activation("sigmoid", name=config.prediction)(logit))


def _fit(
    model: tf_keras.Model, config: Learning, train: Columns, evaluation: Columns, log_dir: str
) -> dict[str, Any]:
    """Trains until the log loss on `eval` stops falling and keeps the best weights."""
    steps = math.ceil(len(train[config.label]) / config.batch_size)
    schedule = tf_keras.optimizers.schedules.CosineDecay(
        config.learning_rate, steps * config.epochs
    )
    model.compile(
        tf_keras.optimizers.Adam(schedule),
        "binary_crossentropy",
        metrics=[
            tf_keras.metrics.BinaryCrossentropy(name=_LOG_LOSS),
            tf_keras.metrics.AUC(name="auc"),
        ],
    )
    history = model.fit(
        select_inputs(model, train),
        train[config.label],
        sample_weight=train[config.weight] / train[config.weight].mean(),
        batch_size=config.batch_size,
        epochs=config.epochs,
        validation_data=(select_inputs(model, evaluation), evaluation[config.label]),
        validation_batch_size=8192,
        verbose=2,
        callbacks=[
            AverageWeights(),
            tf_keras.callbacks.EarlyStopping(
                f"val_{_LOG_LOSS}", mode="min", patience=config.patience, restore_best_weights=True
            ),
            tf_keras.callbacks.TensorBoard(log_dir, update_freq="epoch"),
            ReportProgress(config.epochs, steps, _LOG_LOSS),
        ],
    ).history
    losses = history[f"val_{_LOG_LOSS}"]
    best = int(np.argmin(losses))
    return {"epochs": len(losses), "best_epoch": best + 1, "auc": history["val_auc"][best]}
