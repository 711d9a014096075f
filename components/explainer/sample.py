"""The rows that are explained, and the background rows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from components.explainer.groups import Columns
from ml.examples import raw_values
from ml.predictors import FeaturePredictor
from ml.tasks import BINARY, REGRESSION, Task
from storage.errors import DataError
from storage.tfrecords import read_records

_BATCH = 8192


def sample_examples(files: Sequence[str], count: int, seed: int) -> np.ndarray:
    """Samples rows of a split, the same ones each time.

    Args:
      files: Its files, compressed TFRecords.
      count: How many rows to take, at most.
      seed: Seed of the sample.

    Returns:
      Serialized tf.Examples, bytes [rows], in the order of the split.

    Raises:
      DataError: If there are no rows.
    """
    chance = np.random.default_rng(seed)
    kept, keys = np.empty(0, object), np.empty(0)
    for batch in read_records(files).batch(_BATCH).as_numpy_iterator():
        kept = np.concatenate([kept, batch])
        keys = np.concatenate([keys, chance.random(len(batch))])
        if len(keys) > count:  # Those with the smallest keys, of all so far.
            places = np.sort(np.argpartition(keys, count)[:count])
            kept, keys = kept[places], keys[places]
    if not len(kept):
        raise DataError(f"{os.path.dirname(files[0])} has no rows")
    return kept


@dataclass(frozen=True)
class Rows:
    """Rows of which the model gives finite predictions.

    Attributes:
      examples: Serialized tf.Examples, bytes [rows].
      columns: The model's inputs, by feature, each [rows, ...].
      predictions: float64 [rows, outputs].
      left_out: Rows whose prediction is not finite.
    """

    examples: np.ndarray
    columns: Columns
    predictions: np.ndarray
    left_out: int = 0

    @classmethod
    def read(cls, examples: np.ndarray, predictor: FeaturePredictor) -> Rows:
        """Parses and predicts serialized tf.Examples, bytes [rows]."""
        columns = predictor.parse(examples)
        predictions = predictor.predict_features(columns).reshape(len(examples), -1).astype(float)
        finite = np.isfinite(predictions).all(axis=1)
        rows = cls(examples, columns, predictions)
        return rows.take(np.flatnonzero(finite), left_out=int((~finite).sum()))

    def take(self, places: np.ndarray | slice, left_out: int = 0) -> Rows:
        """Some of the rows."""
        columns = {name: column[places] for name, column in self.columns.items()}
        return Rows(self.examples[places], columns, self.predictions[places], left_out)

    def __len__(self) -> int:
        return len(self.examples)

    def labels(self, task: Task) -> np.ndarray:
        """Encoded labels, float64 [rows]; NaN where there is none."""
        return task.encode(raw_values(self.examples, task.label))


def choose_rows(
    predictions: np.ndarray, labels: np.ndarray, task: Task, count: int, seed: int
) -> list[tuple[int, str]]:
    """Chooses the rows that matter.

    Args:
      predictions: float64 [rows, outputs].
      labels: Encoded labels, float64 [rows]; NaN where there is none.
      task: The task.
      count: Rows of each kind.
      seed: Seed of the random rows.

    Returns:
      Places, each once, and why: "most wrong", "most uncertain" (of classes) or "random".
    """
    rows = len(predictions)
    kinds: dict[str, Sequence[int]] = {}
    wrong = _errors(predictions, labels, task)
    known = np.flatnonzero(np.isfinite(wrong))
    kinds["most wrong"] = known[np.argsort(-wrong[known], kind="stable")].tolist()
    if task.kind != REGRESSION:
        kinds["most uncertain"] = np.argsort(_margins(predictions, task), kind="stable").tolist()
    kinds["random"] = np.random.default_rng(seed).permutation(rows).tolist()
    chosen: dict[int, str] = {}
    for why, places in kinds.items():
        for place in [place for place in places if place not in chosen][:count]:
            chosen[place] = why
    return list(chosen.items())


def _errors(predictions: np.ndarray, labels: np.ndarray, task: Task) -> np.ndarray:
    """How wrong each prediction is, NaN without a label."""
    if task.kind in (BINARY, REGRESSION):
        return np.abs(predictions[:, 0] - labels)
    known = np.isfinite(labels)
    errors = np.full(len(labels), np.nan)
    errors[known] = 1 - predictions[known, labels[known].astype(int)]
    return errors


def _margins(predictions: np.ndarray, task: Task) -> np.ndarray:
    """How much more probable the predicted class is than the next."""
    if task.kind == BINARY:
        return np.abs(predictions[:, 0] - 0.5)
    ordered = np.sort(predictions, axis=1)
    return ordered[:, -1] - ordered[:, -2]
