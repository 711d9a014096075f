"""Counts the rows of slices, and of slices crossed two by two, and compares them for fairness."""

from __future__ import annotations

import json
import math
import os
from collections import Counter as Count
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import tensorflow_model_analysis as tfma
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx import v1 as tfx

from components.evaluator.columns import COLUMNS, REPLICATES, AddTallies, numbers
from components.evaluator.slices import SliceKey, rows_by_slice
from ml.bootstrap import poisson_counts
from ml.fairness.metrics import Quantities
from ml.fairness.report import FairnessSettings, compare_slices
from ml.file_names import FAIRNESS_FILE
from ml.record_batches import read_record_batches
from ml.tallies import Tally
from ml.tasks import Task
from storage.errors import DataError

_BATCH = 16_384
# Slices of a column that are compared, the largest; and sums of all crossed slices in memory, of
# which each has 42 float64.
_MOST_SLICES = 100
_MOST_SUMS = 250_000


@dataclass(frozen=True)
class Fairness:
    """What is counted of a split.

    Attributes:
      task: The task.
      settings: What is compared.
      model: Name of the model in the predictions.
      weight: Column of example weights; "" for none.
      kept: The values of each column that make a slice.
      left_out: Why, and how many, other values do not.
    """

    task: Task
    settings: FairnessSettings
    model: str
    weight: str
    kept: dict[str, frozenset[Any]]
    left_out: list[dict[str, Any]]

    @property
    def quantities(self) -> Quantities:
        """What is compared."""
        return Quantities(self.task, self.settings.thresholds, self.model)


def plan_fairness(
    files: Sequence[str],
    schema: schema_pb2.Schema,
    task: Task,
    settings: FairnessSettings,
    model: str,
) -> Fairness:
    """Finds the slices of a split that are large enough.

    Args:
      files: Gzipped TFRecords of raw examples.
      schema: Their schema.
      task: The task.
      settings: What is compared.
      model: Name of the model in the predictions.

    Raises:
      DataError: If a value is not UTF-8.
    """
    columns = schema_pb2.Schema(feature=[f for f in schema.feature if f.name in settings.columns])
    counts: dict[str, Count[Any]] = {name: Count() for name in settings.columns}
    for batch in read_record_batches(files, columns, _BATCH):
        for key, rows in rows_by_slice(batch, _specs(settings.columns)).items():
            ((name, value),) = key
            counts[name][value] += len(rows)
    pairs = max(math.comb(len(settings.columns), 2), 1)
    sums = Quantities(task, settings.thresholds, model).sums
    most = min(_MOST_SLICES, max(2, math.isqrt(_MOST_SUMS // (pairs * sums))))
    kept, left_out = {}, []
    for name, found in counts.items():
        # By size; those of the same size in an order that does not depend on the order of rows.
        order = sorted(found, key=lambda value: (-found[value], repr(value)))
        large = [value for value in order if found[value] >= settings.min_slice_examples]
        kept[name] = frozenset(large[:most])
        for why, values in (
            (f"fewer than {settings.min_slice_examples:,} rows", order[len(large) :]),
            (f"not among the {most} largest", large[most:]),
        ):
            if values:
                count = sum(found[value] for value in values)
                left_out.append({"column": name, "slices": len(values), "rows": count, "why": why})
    return Fairness(task, settings, model, task.example_weight, kept, left_out)


class CompareSlices(beam.PTransform):
    """Counts and compares the slices of extracts, and writes `fairness.json`.

    The extracts are those of `columns.make_evaluator`; labels and draws of the bootstrap too.

    Args:
      fairness: What is counted.
      output: URI of the folder.
    """

    def __init__(self, fairness: Fairness, output: str):
        super().__init__()
        self._fairness, self._output = fairness, output

    def expand(self, extracts: beam.PCollection) -> dict[str, beam.PCollection]:
        """Adds the steps."""
        written = (
            extracts
            | "CountGroups" >> beam.ParDo(_CountGroups(self._fairness))
            | "AddGroups" >> beam.CombinePerKey(AddTallies())
            | "Gather" >> beam.CombineGlobally(beam.combiners.ToListCombineFn())
            | "Compare" >> beam.Map(_write, self._fairness, self._output)
        )
        return {"fairness": written}


class _CountGroups(beam.DoFn):
    """Counts the rows of a batch by slice."""

    def __init__(self, fairness: Fairness):
        self._fairness = fairness

    def setup(self) -> None:
        """Lists what to count."""
        self._counter = self._fairness.quantities.counter

    def process(self, extracts: dict[str, Any]) -> Iterator[tuple[SliceKey, Tally]]:
        """Counts a batch."""
        batch, name = extracts[COLUMNS], self._fairness.model
        own = np.ones(batch.num_rows)
        if self._fairness.weight:
            own = numbers(batch, self._fairness.weight)
        draws = poisson_counts(extracts[tfma.INPUT_KEY], REPLICATES)
        weights = np.column_stack([own, own[:, None] * draws, own**2])
        yield from self._counter.count(
            extracts[tfma.LABELS_KEY],
            {name: extracts[tfma.PREDICTIONS_KEY][name]},
            weights,
            rows_by_group(batch, self._fairness.kept),
        )


def rows_by_group(
    batch: pa.RecordBatch, kept: dict[str, frozenset[Any]]
) -> dict[SliceKey, np.ndarray]:
    """Indices of all rows, of those of each value that is kept, and of each pair of values."""
    single = {
        key: rows
        for key, rows in rows_by_slice(batch, _specs(kept)).items()
        if key[0][1] in kept[key[0][0]]
    }
    crossed = {}
    for (one, rows), (other, others) in combinations(single.items(), 2):
        if one[0][0] != other[0][0]:
            both = np.intersect1d(rows, others, assume_unique=True)
            if len(both):
                crossed[tuple(sorted(one + other, key=lambda pair: pair[0]))] = both
    return {(): np.arange(batch.num_rows), **single, **crossed}


def _specs(columns: Any) -> list[tfma.SlicingSpec]:
    return [tfma.SlicingSpec(feature_keys=[name]) for name in columns]


def _write(tallies: list[tuple[SliceKey, Tally]], fairness: Fairness, output: str) -> str:
    content = compare_slices(
        fairness.task, fairness.settings, fairness.quantities, dict(tallies), fairness.left_out
    )
    path = os.path.join(output, FAIRNESS_FILE)
    tfx.dsl.io.fileio.makedirs(output)
    with tfx.dsl.io.fileio.open(path, "w") as file:
        file.write(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    return path


def read_fairness(evaluation_uri: str) -> dict[str, Any] | None:
    """Reads the comparison of an evaluation; None if it was made without columns of fairness.

    Raises:
      DataError: If it is no JSON object.
    """
    path = os.path.join(evaluation_uri, FAIRNESS_FILE)
    if not tfx.dsl.io.fileio.exists(path):
        return None
    with tfx.dsl.io.fileio.open(path, "r") as file:
        try:
            content = json.loads(file.read())
        except ValueError as error:
            raise DataError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} is no JSON object")
    return content


def describe_fairness(content: dict[str, Any]) -> str:
    """One line about a comparison: the largest differences, and how many slices are worse."""
    largest: dict[str, dict[str, Any]] = {}
    for one in content["comparisons"]:
        before = largest.get(one["metric"])
        if before is None or one["difference"]["value"] > before["difference"]["value"]:
            largest[one["metric"]] = one
    shown = [
        f"{name.replace('_', ' ')} {one['difference']['value']:.4g} apart by {one['column']}"
        for name, one in largest.items()
    ]
    worse = len(content["worst_slices"])
    return (
        f"fairness by {', '.join(content['columns'])}: {'; '.join(shown) or 'nothing is known'}; "
        f"{worse or 'no'} slice{'' if worse == 1 else 's'} worse than the rest by more than chance"
    )
