"""Fine-tunes and evaluates networks."""

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
    """Settings of fine-tuning.

    Attributes:
      label_key: Column of the label, of shape [rows, 1].
      weight_key: Column of the row weights; "" if all weigh the same.
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
          UserError: If a setting is not allowed; the message has name, value and what is allowed.
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
    """Raises a `UserError` if label or weight are not among the columns."""
    for name in ("label_key", "weight_key"):
        key = getattr(settings, name)
        require(not key or key in columns, name, key, " or ".join(sorted(columns)))


def fine_tune(
    network: tf_keras.Model,
    columns: Columns,
    settings: FitSettings,
    callbacks: Sequence[tf_keras.callbacks.Callback] = (),
) -> None:
    """Trains a network further.

    Args:
      network: The network; its weights change.
      columns: Rows to train on; see `read_columns`.
      settings: The settings.
      callbacks: Keras callbacks.

    Raises:
      UserError: If training diverges.
    """
    tf_keras.utils.set_random_seed(settings.seed)
    labels = columns[settings.label_key]
    steps = math.ceil(len(labels) / settings.batch_size)
    schedule = tf_keras.optimizers.schedules.CosineDecay(
        settings.learning_rate, max(1, steps * settings.epochs)
    )
    network.compile(tf_keras.optimizers.Adam(schedule), settings.loss)
    history = network.fit(
        select_inputs(network, columns),
        labels,
        sample_weight=sample_weights(columns, settings.weight_key),
        batch_size=settings.batch_size,
        epochs=settings.epochs,
        verbose=0,
        callbacks=[*callbacks, ReportProgress(settings.epochs, steps)],
    ).history
    # The loss may be finite although weights are not: a ReLU turns NaN into 0.
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
    predictions = network.predict(
        select_inputs(network, columns), batch_size=_EVALUATION_BATCH, verbose=0
    )
    loss = tf_keras.losses.get(settings.loss)(labels, predictions)
    return {"loss": float(np.mean(loss)), "auc": area_under_curve(labels, predictions)}


def area_under_curve(labels: np.ndarray, predictions: np.ndarray) -> float | None:
    """Area under the ROC curve; for several classes, the mean of one against the rest.

    Hand and Till 2001, https://doi.org/10.1023/A:1010920819831.

    Args:
      labels: Class of each row, [rows] or [rows, 1].
      predictions: Probability of the positive class [rows, 1] or of each class [rows, classes].

    Returns:
      The area; None if a class has no row, or a prediction is NaN or infinite.
    """
    labels = np.ravel(labels)
    predictions = predictions.reshape(len(labels), -1)
    classes = max(2, predictions.shape[1])
    if len(np.unique(labels)) < classes or not np.isfinite(predictions).all():
        return None
    if classes == 2:
        return float(roc_auc_score(labels, predictions[:, -1]))
    predictions = predictions / predictions.sum(axis=1, keepdims=True)
    return float(roc_auc_score(labels, predictions, multi_class="ovr"))


def sample_weights(columns: Columns, key: str) -> np.ndarray | None:
    """How much each row counts, [rows, 1]; None if `key` is "" and all count the same.

    The mean is 1, so that the learning rate and the penalties keep their meaning.
    """
    return columns[key] / columns[key].mean() if key else None


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


class ReportProgress(tf_keras.callbacks.Callback):
    """Reports epoch, step and loss about ten times an epoch.

    Args:
      epochs: Number of epochs.
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
        """Reports every tenth of an epoch."""
        step = batch + 1
        if step % max(1, self._steps // 10) and step != self._steps:
            return
        value = (logs or {}).get(self._metric, math.nan)
        progress.report(
            f"epoch {self._epoch} of {self._epochs}, step {step} of {self._steps}, "
            f"{self._metric.replace('_', ' ')} {value:.4f}"
        )
