"""Fine-tunes and evaluates networks."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from ml import progress
from ml.batches import shuffled_batches
from ml.determinism import make_deterministic
from ml.examples import Columns
from ml.parameters import require
from ml.row_weights import evaluation_weights, training_weights
from ml.scores import measure
from ml.stored_columns import Batches, is_stored, predict
from ml.tasks import Task
from ml.training_step import trace_as_keras, trace_once
from storage.errors import UserError

_EVALUATION_BATCH = 8192
# How often an epoch reports its progress.
_REPORTS = 10


@dataclass(frozen=True)
class FitSettings:
    """Settings of fine-tuning.

    Attributes:
      task: The task.
      loss: Name of a Keras loss; "" for the task's.
      class_weights: See `ml.row_weights.class_factors`.
      epochs: Passes over the rows.
      batch_size: Rows per step.
      learning_rate: Adam's learning rate at the start, from which it falls along a cosine to 0.
      seed: Seed of all random choices.
    """

    task: Task
    loss: str
    class_weights: str
    epochs: int
    batch_size: int
    learning_rate: float
    seed: int

    def check(self) -> None:
        """Checks the values.

        Raises:
          UserError: If a setting is not allowed; the message has name, value and what is allowed.
        """
        require(self.epochs >= 0, "epochs", self.epochs, "0 or more")
        require(self.batch_size >= 1, "batch_size", self.batch_size, "1 or more")
        require(0 < self.learning_rate <= 1, "learning_rate", self.learning_rate, "above 0, to 1")
        check_training(self.task, self.loss, self.class_weights)

    def steps(self, rows: int) -> int:
        """Number of training steps with a number of rows."""
        return self.epochs * math.ceil(rows / self.batch_size)

    @property
    def keras_loss(self) -> str:
        """Name of the Keras loss."""
        return self.loss or self.task.loss

    @property
    def loss_of_targets(self) -> str:
        """Name of the Keras loss of a probability for each class, instead of a class's id."""
        return self.keras_loss.removeprefix("sparse_")


def check_training(task: Task, loss: str, class_weights: str) -> None:
    """Checks the parameters of a node that depend on the task; see `Task.check_training`.

    Raises:
      UserError: If one is not allowed.
    """
    try:
        listed = class_weights.startswith("[")
        task.check_training(loss, json.loads(class_weights) if listed else class_weights)
    except (TypeError, ValueError) as error:
        raise UserError(str(error)) from error


def check_columns(columns: Columns, task: Task) -> None:
    """Raises a `UserError` if label or weight are not among the columns."""
    for name in ("label", "weight"):
        key = getattr(task, name)
        require(not key or key in columns, name, key, " or ".join(sorted(columns)))


def fine_tune(
    network: tf_keras.Model,
    columns: Columns,
    settings: FitSettings,
    targets: np.ndarray | None = None,
) -> None:
    """Trains a network further.

    Args:
      network: The network; its weights change.
      columns: Rows to train on; see `read_columns`.
      settings: The settings.
      targets: What to learn instead of the labels; see `ml.distillation.soft_targets`.

    Raises:
      UserError: If training diverges.
    """
    FineTuning(network, columns, settings, targets).run()
    trace_as_keras(network)


class FineTuning:
    """Trains a network further, if need be several times from the weights that it had at first.

    A second run need not be traced and compiled again, which takes longer than a hundred steps. See
    `trace_as_keras` for a network that is trained otherwise afterwards.

    Args:
      network: The network; its weights change.
      columns: Rows to train on; see `read_columns`.
      settings: The settings.
      targets: What to learn instead of the labels; see `ml.distillation.soft_targets`.
    """

    def __init__(
        self,
        network: tf_keras.Model,
        columns: Columns,
        settings: FitSettings,
        targets: np.ndarray | None = None,
    ):
        self._network, self._settings = network, settings
        labels = columns[settings.task.label]
        self._inputs = select_inputs(network, columns)
        self._labels = labels if targets is None else targets
        self._weights = training_weights(columns, settings.task, settings.class_weights)
        self._epoch = math.ceil(len(labels) / settings.batch_size)
        self.steps = self._epoch * settings.epochs
        self._length = tf.Variable(1.0)
        schedule = tf_keras.optimizers.schedules.CosineDecay(settings.learning_rate, self._length)
        loss = settings.keras_loss if targets is None else settings.loss_of_targets
        network.compile(
            tf_keras.optimizers.Adam(schedule),
            loss,
            steps_per_execution=steps_per_call(self._inputs, self._epoch),
        )
        trace_once(network)
        self._start = network.get_weights()

    def run(self, steps: int = 0, callbacks: Sequence[tf_keras.callbacks.Callback] = ()) -> None:
        """Trains from the first weights on, with a learning rate that falls to 0.

        Args:
          steps: Number of steps, less than `self.steps`; 0 for all.
          callbacks: Keras callbacks.

        Raises:
          UserError: If training diverges.
        """
        network, settings = self._network, self._settings
        make_deterministic(settings.seed)
        network.set_weights(self._start)
        for variable in network.optimizer.variables:
            variable.assign(tf.zeros_like(variable))
        self._length.assign(max(1, steps or self.steps))
        whole = not 0 < steps < self._epoch
        epochs = settings.epochs if not steps else math.ceil(steps / self._epoch)
        history = network.fit(
            **training_rows(
                *(self._inputs, self._labels, self._weights),
                *(settings.batch_size, settings.seed, epochs),
                steps=0 if whole else steps,
            ),
            epochs=epochs,
            verbose=0,
            callbacks=[*callbacks, ReportProgress(epochs, self._epoch if whole else steps)],
        ).history
        # The loss may be finite although weights are not: a ReLU turns NaN into 0.
        values = [history.get("loss", []), *network.get_weights()]
        if not all(np.isfinite(array).all() for array in values):
            raise UserError(
                "fine-tuning diverged: loss or weights are not finite; lower the learning rate "
                f"(now {settings.learning_rate:g})"
            )


def evaluate(network: tf_keras.Model, columns: Columns, settings: FitSettings) -> dict[str, Any]:
    """Evaluates a network on some rows.

    Returns:
      `loss`, the mean loss, and `metrics`, those of the task; see `ml.scores.measure`.
    """
    labels = columns[settings.task.label]
    weights = evaluation_weights(columns, settings.task)
    predictions = predict(network, select_inputs(network, columns), _EVALUATION_BATCH)
    losses = np.ravel(tf_keras.losses.get(settings.keras_loss)(labels, predictions))
    mean = np.average(losses, weights=None if weights is None else np.ravel(weights))
    return {
        "loss": float(mean),
        "metrics": measure(settings.task, labels, predictions, weights),
    }


def select_inputs(network: tf_keras.Model, columns: Columns) -> Columns:
    """The input columns of a network, by name.

    Raises:
      UserError: If there is no column for an input.
    """
    if absent := [name for name in network.input_names if name not in columns]:
        raise UserError(
            f"the network's inputs {', '.join(absent)} are not among the transformed features "
            f"{', '.join(sorted(columns))}"
        )
    return {name: columns[name] for name in network.input_names}


def training_rows(
    inputs: Columns,
    labels: np.ndarray,
    weights: np.ndarray | None,
    batch_size: int,
    seed: int,
    epochs: int,
    steps: int = 0,
) -> dict[str, Any]:
    """The arguments of Keras's `fit` for rows to train on, in batches.

    Arrays in memory are shuffled by TensorFlow's seed, those in files by `seed`. An epoch has
    `steps`, or if that is 0 all rows.
    """
    if is_stored(inputs):
        batches = Batches(inputs, labels, weights, batch_size, seed).dataset()
        return {"x": batches, "steps_per_epoch": steps or None}
    arrays = (inputs, labels) if weights is None else (inputs, labels, weights)
    return {
        "x": shuffled_batches(arrays, batch_size, epochs),
        "steps_per_epoch": steps or math.ceil(len(labels) / batch_size),
    }


def steps_per_call(inputs: Columns, steps: int) -> int:
    """How many steps Keras should take at once: with small batches, calls take longer than steps.

    Args:
      inputs: Inputs of the network by name.
      steps: Steps per epoch.

    Returns:
      The steps between two reports of progress; 1 for rows that are streamed from files, since
      Keras does not know how many batches there are.
    """
    return 1 if is_stored(inputs) else max(1, steps // _REPORTS)


class ReportProgress(tf_keras.callbacks.Callback):
    """Reports epoch, step and loss about ten times an epoch.

    Args:
      epochs: Number of epochs.
      steps: Steps per epoch.
      metric: Name of the metric that is the loss to report.
    """

    def __init__(self, epochs: int, steps: int, metric: str = "loss"):
        super().__init__()
        self._epochs, self._steps, self._metric = epochs, steps, metric
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Counts epochs."""
        self._epoch = epoch + 1

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Reports every tenth of an epoch."""
        step = batch + 1
        if step % max(1, self._steps // _REPORTS) and step != self._steps:
            return
        value = (logs or {}).get(self._metric, math.nan)
        progress.report(
            f"epoch {self._epoch} of {self._epochs}, step {step} of {self._steps}, loss {value:.4f}"
        )
