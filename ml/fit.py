"""Fine-tunes networks and measures how good they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tf_keras
from sklearn.metrics import roc_auc_score

from ml import progress
from ml.examples import Columns
from ml.parameters import require
from storage.errors import UserError

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


def check_keys(columns: Columns, settings: FitSettings) -> None:
    """Raises a `UserError` if label or weight are not among the columns, which it lists."""
    for name in ("label_key", "weight_key"):
        key = getattr(settings, name)
        require(not key or key in columns, name, key, " or ".join(sorted(columns)))


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
    values = [history.get("loss", []), *network.get_weights()]
    if not all(np.isfinite(array).all() for array in values):
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
