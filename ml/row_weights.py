"""How much each row counts: in training, and in the metrics on `eval`."""

from __future__ import annotations

import json

import numpy as np

from ml.examples import Columns
from ml.tasks import BALANCED, Task
from storage.errors import DataError, UserError


def training_weights(
    columns: Columns, task: Task, class_weights: str = "", train: Columns | None = None
) -> np.ndarray | None:
    """The weights of rows in the loss: the row's own, times its class's.

    Args:
      columns: The rows; see `ml.examples.read_columns`.
      task: The task.
      class_weights: See `class_factors`.
      train: The rows by whose classes `class_weights` is meant; `columns` by default.

    Returns:
      float64 [rows, 1]; their mean is 1, so that the learning rate and the penalties keep their
      meaning. None if all rows weigh the same.

    Raises:
      DataError: If weights are negative, not finite, or all 0.
      UserError: If the feature of the weight is missing.
    """
    weights = _column(columns, task, task.weight)
    factors = class_factors(columns if train is None else train, task, class_weights)
    if factors is not None:
        by_class = factors[columns[task.label].astype(int)]
        weights = by_class if weights is None else weights * by_class
    return None if weights is None else weights / weights.mean()


def evaluation_weights(columns: Columns, task: Task) -> np.ndarray | None:
    """The weights of rows in the metrics: those of the data, if it has any.

    A training weight that is not the data's, such as one by age, does not count here.

    Returns:
      float64 [rows, 1]; None if all rows weigh the same.
    """
    return _column(columns, task, task.weight) if task.example_weight else None


def class_factors(columns: Columns, task: Task, class_weights: str) -> np.ndarray | None:
    """The weight of each class, float64 [classes]; None if all weigh the same.

    Args:
      columns: The rows of `train`.
      task: The task.
      class_weights: "balanced" for weights by which the classes are worth the same in sum (King and
        Zeng 2001, https://doi.org/10.1093/oxfordjournals.pan.a004868), a JSON list of a weight for
        each class, or "" or "[]".
    """
    if class_weights == BALANCED:
        weights = _column(columns, task, task.weight)
        labels = np.ravel(columns[task.label]).astype(int)
        each = None if weights is None else np.ravel(weights)
        sums = np.bincount(labels, each, minlength=len(task.classes))
        if not sums.all():
            absent = [name for name, total in zip(task.classes, sums, strict=True) if not total]
            raise DataError(
                f"class_weights: no row of {task.label!r} = {', '.join(absent)} has a weight"
            )
        return np.asarray(sums.sum() / (len(sums) * sums))
    factors = json.loads(class_weights or "[]")
    return np.array(factors, float) if factors else None


def _column(columns: Columns, task: Task, name: str) -> np.ndarray | None:
    if not name:
        return None
    if name not in columns:
        raise UserError(
            f"weight = {name!r}: not among the transformed features {', '.join(sorted(columns))}; "
            "preprocessing.py has to return it, as ml.task_layers.label_and_weight does"
        )
    weights = np.asarray(columns[name], float)
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.any()):
        raise DataError(
            f"the weight {name!r}: numbers of 0 or more are needed, and one above 0; "
            f"the lowest is {weights.min():g}, the highest {weights.max():g}"
        )
    return weights
