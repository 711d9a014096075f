"""The labels that a version learned from, by its training statistics."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tensorflow_metadata.proto.v0 import statistics_pb2

from ml.statistics import Statistics, count_present, find_feature
from ml.tasks import BINARY, REGRESSION, Task


@dataclass(frozen=True)
class TrainingLabels:
    """The mean of some outputs in the training labels.

    Attributes:
      outputs: The outputs: of a multiclass task a class, or several that the statistics do not tell
        apart; else the only output.
      mean: Their share of the labels, or the mean label of a regression.
      deviation: Standard deviation of the label of a regression.
      rows: Rows with a label.
    """

    outputs: tuple[int, ...]
    mean: float
    deviation: float
    rows: int


def read_training_labels(task: Task, served: Statistics) -> list[TrainingLabels]:
    """The training labels; empty if the statistics do not have them."""
    label = find_feature(served, task.label)
    if label is None:
        return []
    rows = count_present(label)
    if task.kind == REGRESSION:
        stats = label.num_stats
        return [TrainingLabels((0,), float(stats.mean), float(stats.std_dev), rows)]
    groups: dict[tuple[int, ...], float] = {}
    if buckets := label.string_stats.rank_histogram.buckets:
        total = sum(bucket.sample_count for bucket in buckets)
        for bucket in buckets:
            (class_id,) = task.encode(np.array([bucket.label], object))
            if np.isfinite(class_id):
                groups[(int(class_id),)] = bucket.sample_count / total
    elif task.kind == BINARY and len(task.class_numbers()) == 2:
        low, high = task.class_numbers()
        groups[(1,)] = (label.num_stats.mean - low) / (high - low)
    else:
        groups = _shares_by_bucket(task, label.num_stats)
    if task.kind == BINARY:
        groups = {(0,): groups[1,]} if (1,) in groups else {}
    return [TrainingLabels(ids, share, 0.0, rows) for ids, share in groups.items()]


def _shares_by_bucket(
    task: Task, stats: statistics_pb2.NumericStatistics
) -> dict[tuple[int, ...], float]:
    """The share of the classes whose numbers are in a bucket of the first histogram."""
    buckets = stats.histograms[0].buckets if stats.histograms else ()
    total = sum(bucket.sample_count for bucket in buckets)
    groups: dict[tuple[int, ...], float] = {}
    for place, bucket in enumerate(buckets):
        is_last = place == len(buckets) - 1
        ids = tuple(
            class_id
            for number, class_id in task.class_numbers().items()
            if bucket.low_value <= number < bucket.high_value
            or (is_last and number == bucket.high_value)
        )
        if ids:
            groups[ids] = bucket.sample_count / total
    return groups
