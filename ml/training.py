"""The part of a `run_fn` that all models share: reads the examples, trains, saves."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow_transform as tft
import tf_keras
from tfx import v1 as tfx

from ml.batches import ordered_batches
from ml.determinism import make_deterministic
from ml.examples import Columns, columns_of_files
from ml.export import save_model
from ml.file_names import TRAINING_FILE
from ml.fit import (
    ReportProgress,
    check_training,
    select_inputs,
    steps_per_call,
    training_rows,
)
from ml.keras_setup import skip_autograph_of_libraries
from ml.learning import Learning
from ml.row_weights import evaluation_weights, training_weights
from ml.scores import measure
from ml.stored_columns import Batches, count_not_finite, is_stored, predict, take
from ml.tasks import REGRESSION, Task
from ml.weight_average import AverageWeights
from storage.errors import DataError, UserError

_BATCH = 8192
# Without patience: the learning rate at the end, as a share of that at the start, and the share of
# the steps, the last ones, that the weights are averaged over. At such a rate the weights go on
# moving, and their average varies less from seed to seed (Izmailov et al. 2018,
# https://arxiv.org/abs/1803.05407).
_LAST_RATE, _AVERAGED_STEPS = 0.3, 0.5
# In `custom_config` while Tuner tries settings: the number of rows of `train` to take, 0 for all.
# Nothing is saved then but the record of the training.
TRIAL_ROWS = "trial_rows"
# The loss that early stopping watches: `loss` includes the penalties.
_LOSS = "data_loss"
# Losses that take a negative number for 0.
_OF_POSITIVE_LABELS = ("mean_squared_logarithmic_error", "poisson")


@dataclass(frozen=True)
class TrainingData:
    """What a network is trained with.

    Attributes:
      learning: The settings.
      graph: The transformation.
      train: Transformed examples to train on, by feature, each [rows, width].
      evaluation: Those to stop early by.
    """

    learning: Learning
    graph: tft.TFTransformOutput
    train: Columns
    evaluation: Columns

    @classmethod
    def load(cls, fn_args: tfx.components.FnArgs) -> TrainingData:
        """Reads the examples that Trainer names, and sets the seed.

        Args:
          fn_args: Supplied by Trainer; `custom_config` holds `Learning` and the task.

        Raises:
          DataError: If a network cannot be trained on the labels.
        """
        skip_autograph_of_libraries()
        learning = Learning.from_config(fn_args.custom_config)
        check_training(learning.task, learning.loss, learning.class_weights)
        make_deterministic(learning.seed)
        graph = tft.TFTransformOutput(fn_args.transform_output)
        schema = graph.transformed_metadata.schema
        train, evaluation = (
            columns_of_files(files, schema, learning.rows_in_memory)
            for files in (fn_args.train_files, fn_args.eval_files)
        )
        for split, columns in (("train", train), ("eval", evaluation)):
            check_labels(learning.task, split, columns[learning.task.label], learning.loss)
        if rows := fn_args.custom_config.get(TRIAL_ROWS):
            train = _sample(train, rows, learning.seed, learning.rows_in_memory)
        return cls(learning, graph, train, evaluation)

    @property
    def labels(self) -> np.ndarray:
        """The encoded labels of `train`, [rows, 1]."""
        return self.train[self.learning.task.label]


def _sample(columns: Columns, rows: int, seed: int, rows_in_memory: int) -> Columns:
    """Some rows at random, in their order; a sample has all rows of a smaller one."""
    (total, *_) = next(iter(columns.values())).shape
    chosen = np.sort(np.random.default_rng(seed).permutation(total)[:rows])
    return take(columns, chosen, rows_in_memory)


def check_labels(task: Task, split: str, labels: np.ndarray, loss: str = "") -> None:
    """Checks that a network can be trained and evaluated on encoded labels.

    Args:
      task: The task.
      split: Name of the split, for messages.
      labels: Encoded labels, [rows, 1].
      loss: Name of the Keras loss; "" for the task's.

    Raises:
      DataError: If a label is none of the classes, or not finite, or all labels of a regression
        are the same, or `split` lacks a class that training needs: `eval` may lack some of several
        classes.
    """
    where = f"{split}: the label {task.label!r}"
    if task.kind == REGRESSION:
        if not len(labels):
            raise DataError(f"{split}: there is no label {task.label!r}, because there are no rows")
        if not np.isfinite(labels).all():
            raise DataError(f"{where} is absent or not finite in some of {len(labels):,} rows")
        if loss in _OF_POSITIVE_LABELS and labels.min() < 0:
            raise DataError(
                f"{where} is {labels.min():g} at lowest; the loss {loss} needs 0 or more"
            )
        if split == "train" and np.ptp(labels) == 0:
            raise DataError(f"{where} is {labels[0, 0]:g} in all of {len(labels):,} rows")
        return
    ids = np.unique(labels)
    if len(ids) and ids[0] < 0:
        raise DataError(f"{where} has values that are none of {', '.join(task.classes)}")
    absent = [name for number, name in enumerate(task.classes) if number not in ids]
    if absent and (split == "train" or len(task.classes) == 2):
        raise DataError(
            f"{where} is never {', '.join(absent)} in {len(labels):,} rows; "
            f"all of {', '.join(task.classes)} are needed. Have all labels arrived?"
        )


def fit(model: tf_keras.Model, data: TrainingData, log_dir: str) -> dict[str, Any]:
    """Trains a network, and keeps the moving average of its weights.

    With `patience`, training ends when the loss on `eval` stops falling, and the average of the
    best epoch is kept. Without, all epochs are trained and the average of about the second half of
    the steps is kept, so that the result does not depend on chance in `eval`.

    Args:
      model: The network; its weights change.
      data: What to train with.
      log_dir: Folder for TensorBoard; "" for none.

    Returns:
      `epochs`, `best_epoch` (that of the weights that are kept), the metrics of the task on `eval`,
      and the loss of each epoch on `train` and `eval` as `history`.

    Raises:
      UserError: If an input of the network is absent or not finite, or training diverges.
    """
    config, task = data.learning, data.learning.task
    train, evaluation = data.train, data.evaluation
    for split, columns in (("train", train), ("eval", evaluation)):
        _check_inputs(split, select_inputs(model, columns))
    steps = math.ceil(len(data.labels) / config.batch_size)
    total = steps * config.epochs
    averages, last_rate = AverageWeights(), 0.0
    if not config.patience:
        momentum = max(0.0, 1 - 1 / (_AVERAGED_STEPS * total))
        averages, last_rate = AverageWeights(momentum), _LAST_RATE
    schedule = tf_keras.optimizers.schedules.CosineDecay(config.learning_rate, total, last_rate)
    loss = tf_keras.losses.get(config.loss or task.loss)
    model.compile(
        tf_keras.optimizers.Adam(schedule),
        loss,
        weighted_metrics=[tf_keras.metrics.MeanMetricWrapper(loss, name=_LOSS)],
        steps_per_execution=steps_per_call(select_inputs(model, train), steps),
    )
    stopping = []
    if config.patience:
        stopping = [
            tf_keras.callbacks.EarlyStopping(
                f"val_{_LOSS}", mode="min", patience=config.patience, restore_best_weights=True
            )
        ]
    weights = training_weights(train, task, config.class_weights)
    watching = [tf_keras.callbacks.TensorBoard(log_dir, update_freq="epoch")] if log_dir else []
    history = model.fit(
        **training_rows(
            *(select_inputs(model, train), train[task.label], weights),
            *(config.batch_size, config.seed, config.epochs),
        ),
        epochs=config.epochs,
        **_validation_rows(model, data),
        verbose=2,
        callbacks=[
            averages,
            *stopping,
            *watching,
            tf_keras.callbacks.TerminateOnNaN(),
            ReportProgress(config.epochs, steps, _LOSS),
        ],
    ).history
    # The loss may be finite although weights are not: a ReLU turns NaN into 0.
    values = [history["loss"], *model.get_weights()]
    if not all(np.isfinite(array).all() for array in values):
        raise UserError(
            "training diverged: loss or weights are not finite; lower training.learning_rate "
            f"(now {config.learning_rate:g})"
        )
    losses = history[f"val_{_LOSS}"]
    if not np.isfinite(losses).all():
        raise UserError(
            "training diverged: the loss on eval is not finite. Is a value of eval far from those "
            "of train? If not, lower training.learning_rate "
            f"(now {config.learning_rate:g})"
        )
    predictions = predict(model, select_inputs(model, evaluation), _BATCH)
    return {
        "epochs": len(losses),
        "best_epoch": int(np.argmin(losses)) + 1 if config.patience else len(losses),
        "metrics": measure(
            task, evaluation[task.label], predictions, evaluation_weights(evaluation, task)
        ),
        "history": {
            split: [float(value) for value in history[name]]
            for split, name in (("train", _LOSS), ("eval", f"val_{_LOSS}"))
        },
    }


def _validation_rows(model: tf_keras.Model, data: TrainingData) -> dict[str, Any]:
    """The arguments of Keras's `fit` for what early stopping watches.

    The weights in the loss are those of training.
    """
    config, evaluation = data.learning, data.evaluation
    inputs, labels = select_inputs(model, evaluation), evaluation[config.task.label]
    weights = training_weights(evaluation, config.task, config.class_weights, data.train)
    if is_stored(inputs):
        return {"validation_data": Batches(inputs, labels, weights, _BATCH, None).dataset()}
    values = (inputs, labels) if weights is None else (inputs, labels, weights)
    return {"validation_data": ordered_batches(values, _BATCH)}


def _check_inputs(split: str, inputs: Columns) -> None:
    for name, column in inputs.items():
        rows = count_not_finite(column)
        if rows:
            raise UserError(
                f"{split}: the transformed feature {name!r} is NaN or infinite in {rows:,} of "
                f"{len(column):,} rows; preprocessing.py has to replace absent values"
            )


def fit_and_save(
    model: tf_keras.Model,
    data: TrainingData,
    fn_args: tfx.components.FnArgs,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Trains a network, and saves it with a record of its training: the end of a `run_fn`.

    In a trial of Tuner it saves the record alone.

    Args:
      model: The network.
      data: What to train with.
      fn_args: Supplied by Trainer.
      facts: More for the record.

    Raises:
      UserError: If training diverges.
    """
    is_trial = TRIAL_ROWS in fn_args.custom_config
    summary = fit(model, data, "" if is_trial else fn_args.model_run_dir) | dict(facts or {})
    if not is_trial:
        save_model(model, data.graph, fn_args.serving_model_dir, fn_args.custom_config)
    with tfx.dsl.io.fileio.open(os.path.join(fn_args.model_run_dir, TRAINING_FILE), "w") as file:
        file.write(json.dumps(summary))
