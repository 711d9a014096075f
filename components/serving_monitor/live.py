"""Measures the live quality of a model, on the labels that have arrived."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from components.serving_monitor.deviations import standard_deviations
from ml.scores import Score, measure
from ml.tasks import MULTICLASS, Task

OVERALL = "Overall"


@dataclass(frozen=True)
class Live:
    """The live quality of a model overall or on a slice.

    Attributes:
      name: "Overall", or `<feature>:<value>`.
      rows: Rows with a label.
      metrics: The metrics of the task; None where the rows do not define one, as an AUC of one
        class.
      deviations: Their standard deviations, by chance.
      mean_predictions: Mean of each output.
      mean_labels: Mean of the labels, or the share of each class.
    """

    name: str
    rows: int
    metrics: dict[str, Score]
    deviations: dict[str, Score]
    mean_predictions: list[float]
    mean_labels: list[float]


def measure_live(
    task: Task,
    rows: pd.DataFrame,
    labels: np.ndarray,
    predictions: np.ndarray,
    weights: np.ndarray,
    slices: Sequence[str],
    min_rows: int,
) -> list[Live]:
    """Quality overall, then by slice, the largest first; empty if no label has arrived.

    Args:
      task: The task.
      rows: Columns to slice by.
      labels: Encoded labels, [rows]; NaN where there is none.
      predictions: [rows, outputs]; rows that are not finite are left out.
      weights: [rows]; rows without a positive one are left out.
      slices: The columns to slice by.
      min_rows: Smallest number of labelled rows of a slice, and of the whole.
    """
    known = np.isfinite(labels) & np.isfinite(predictions).all(axis=1) & (weights > 0)
    parts = [(OVERALL, np.flatnonzero(known))]
    for column in slices:
        values = rows[column].reset_index(drop=True)[known]
        for value, places in values.groupby(values).groups.items():
            shown = value.decode(errors="replace") if isinstance(value, bytes) else value
            parts.append((f"{column}:{shown}", places.to_numpy()))
    parts.sort(key=lambda part: -len(part[1]))
    return [
        _measure(task, name, labels[places], predictions[places], weights[places])
        for name, places in parts
        if len(places) >= min_rows
    ]


def _measure(
    task: Task, name: str, labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray
) -> Live:
    values = measure(task, labels, predictions, weights)
    deviations = standard_deviations(task, labels, predictions, values)
    # Rows of unequal weight are worth fewer (Kish, Survey Sampling, 1965, 11.7).
    worth = math.sqrt(len(weights) * (weights**2).sum()) / weights.sum()
    truth = labels[:, None]
    if task.kind == MULTICLASS:
        truth = np.eye(len(task.classes))[labels.astype(int)]
    return Live(
        name=name,
        rows=len(labels),
        metrics=values,
        deviations={
            metric: None if deviation is None else deviation * worth
            for metric, deviation in deviations.items()
        },
        mean_predictions=np.average(predictions, axis=0, weights=weights).tolist(),
        mean_labels=np.average(truth, axis=0, weights=weights).tolist(),
    )
