"""Reads what TrafficExampleGen wrote, and compares champion and challenger."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binom
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx import v1 as tfx

from components.serving_monitor.comparison import Rules, Traffic, compare
from ml.chance import FALSE_ALARMS
from ml.compared_requests import COMPARED, FEATURES, STRETCH_FEATURE, Pair
from ml.comparisons import only
from ml.examples import read_rows, read_vectors
from ml.request_log import show_time
from ml.sequential_test import NOT_YET, WORSE
from ml.tasks import Task
from storage.names import (
    CHALLENGER,
    CHAMPION,
    ID_FEATURE,
    LATENCY_FEATURE,
    PREDICTION_PREFIX,
    ROLE_FEATURE,
    ROW_FEATURE,
    TIME_FEATURE,
)

_MICROSECONDS = 1_000_000
_PERCENTILES = (0.5, 0.99)


def compare_traffic(
    task: Task,
    examples: tfx.dsl.Artifact,
    schema: schema_pb2.Schema,
    output: str,
    slices: list[str],
    min_slice_rows: int,
    settings: dict[str, Any],
) -> dict[str, Any] | None:
    """Compares the two versions.

    Args:
      task: The task.
      examples: Output of TrafficExampleGen.
      schema: The schema of the features.
      output: Name of the model's output.
      slices: Columns to slice by.
      min_slice_rows: Slices with fewer labelled rows of either version are left out.
      settings: `block_seconds`, and the fields of `Rules`.

    Returns:
      The comparison as a JSON object; None where no challenger has traffic.
    """
    text = examples.get_string_custom_property("pair")
    if not text:
        return None
    pair = Pair.from_json(text)
    settings = dict(settings)
    block_seconds, rules = settings.pop("block_seconds"), Rules(**settings)
    facts = {
        "champion": pair.champion,
        "challenger": pair.challenger,
        "since": show_time(int(pair.stretches[0][0])),
        "left_out": pair.left_out,
        "alpha": rules.alpha,
    }
    if examples.split_names == "[]":
        found: dict[str, Any] = {
            "verdict": NOT_YET,
            "reasons": ["nothing was logged of the two yet"],
        }
        found |= {"mode": "", "metric": rules.metric, "slices": [], "rows": {}, "latency": {}}
    else:
        wanted = only([*slices, task.label, task.example_weight], schema)
        wanted.feature.extend(
            schema_pb2.Feature(name=name, type=kind) for name, kind in FEATURES.items()
        )
        rows = read_rows(examples, COMPARED, wanted)
        predictions = read_vectors(examples, COMPARED, PREDICTION_PREFIX + output, task.outputs)
        latency = measure_latency(rows)
        comparison = compare(
            task,
            to_traffic(task, rows, predictions, block_seconds, slices),
            rules,
            slices,
            min_slice_rows,
            {role: one["0.99"][1:] for role, one in latency.items()},
        )
        found = {**comparison.to_dict(), "latency": latency}
    if pair.taken_out:
        found["verdict"] = WORSE
        found["reasons"] = [f"a server took it out: {pair.taken_out}", *found["reasons"]]
    return {**facts, **found}


def to_traffic(
    task: Task, rows: pd.DataFrame, predictions: np.ndarray, block_seconds: float, slices: list[str]
) -> Traffic:
    """The rows for a comparison.

    A change of the policy begins a new block. Rows of a request are a pair where each of the two
    versions has one.

    Args:
      task: The task.
      rows: The columns of `ml.compared_requests.FEATURES`, the label, the weight, if the task has
        one, and slices.
      predictions: [rows, outputs].
      block_seconds: Length of a block, in seconds.
      slices: The columns to slice by.
    """
    seconds = rows[TIME_FEATURE].to_numpy(float) / _MICROSECONDS
    stretch = rows[STRETCH_FEATURE].to_numpy(int)
    _, block = np.unique([stretch, np.floor(seconds / block_seconds)], axis=1, return_inverse=True)
    challenger = (rows[ROLE_FEATURE] == CHALLENGER.encode()).to_numpy()
    by_row = rows.groupby([ID_FEATURE, ROW_FEATURE], sort=False)
    pair = by_row.ngroup().to_numpy()
    pair = np.where(by_row[ROLE_FEATURE].transform("nunique").to_numpy() == 2, pair, -1)
    return Traffic(
        challenger=challenger,
        block=block.reshape(-1),
        pair=pair,
        labels=encode_labels(task, rows[task.label]),
        predictions=predictions,
        weights=row_weights(task, rows),
        columns=rows[slices].reset_index(drop=True),
    )


def encode_labels(task: Task, labels: pd.Series) -> np.ndarray:
    """Encoded labels, [rows]; NaN where there is none."""
    known = labels.notna().to_numpy()
    encoded = np.full(len(labels), np.nan)
    encoded[known] = task.encode(labels[known].to_numpy())
    return encoded


def row_weights(task: Task, rows: pd.DataFrame) -> np.ndarray:
    """Weights, [rows]; 0 where it is absent, 1 if the task has none."""
    if task.example_weight not in rows:
        return np.ones(len(rows))
    weights: np.ndarray = rows[task.example_weight].fillna(0).to_numpy(float)
    return weights


def measure_latency(rows: pd.DataFrame) -> dict[str, dict[str, tuple[float, float, float]]]:
    """Percentiles of the latency of a request, by role, with their intervals.

    The ends of an interval are order statistics (David and Nagaraja, "Order Statistics", 2003,
    7.1), so nothing is assumed about the distribution; it misses at the rate
    `ml.chance.FALSE_ALARMS`.

    Returns:
      By role and percentile: value, lower and upper end, in microseconds; without a role that has
      no latency.
    """
    timed = rows[rows[LATENCY_FEATURE] >= 0]
    found = {}
    for role in (CHAMPION, CHALLENGER):
        of_role = timed[timed[ROLE_FEATURE] == role.encode()]
        values = np.sort(of_role.groupby(ID_FEATURE)[LATENCY_FEATURE].first().to_numpy(float))
        if len(values):
            found[role] = {str(share): _percentile(values, share) for share in _PERCENTILES}
    return found


def _percentile(values: np.ndarray, share: float) -> tuple[float, float, float]:
    number = len(values)
    low, high = binom.ppf([FALSE_ALARMS / 2, 1 - FALSE_ALARMS / 2], number, share).astype(int)
    ends = values[max(low - 1, 0)], values[min(high, number - 1)]
    return float(np.quantile(values, share)), float(ends[0]), float(ends[1])
