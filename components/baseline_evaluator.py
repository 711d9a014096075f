"""BaselineEvaluator: fits simple models, which the Evaluator compares the network with."""

import io
import json
import math
import os
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pyarrow as pa
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx import v1 as tfx

from ml.artifacts import BaselineReport, load_schema, load_statistics, split_files
from ml.baselines import Sample, fit_baselines, sampling_step
from ml.comparisons import only
from ml.examples import RowDecoder, read_rows
from ml.scores import measure
from ml.tasks import Task
from storage.errors import UserError
from storage.tfrecords import read_records

PREDICTIONS_FILE = "predictions.npz"
_BATCH = 16_384
# Predictions that are kept of a baseline; of larger splits, those of every n-th row.
_MOST_PREDICTIONS = 20_000_000


@tfx.dsl.components.component
def BaselineEvaluator(
    examples: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Examples],
    statistics: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.ExampleStatistics],
    schema: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Schema],
    baselines: tfx.dsl.components.OutputArtifact[BaselineReport],
    task: tfx.dsl.components.Parameter[str],
    features: tfx.dsl.components.Parameter[str],
    split: tfx.dsl.components.Parameter[str],
) -> None:
    """Fits a constant, the best single column, and gradient boosting, and measures them.

    They read the raw features of the splits `train` and `eval`, of which no more rows are taken
    than a few seconds allow. See `ml.baselines`.

    Example:
      baseline_evaluator = BaselineEvaluator(
          examples=example_gen.outputs["examples"],
          statistics=statistics_gen.outputs["statistics"],
          schema=schema_gen.outputs["schema"],
          task=task.to_json(),
          features='["distance", "company"]',
          split="test",
      )

    Args:
      examples: Raw examples.
      statistics: Their statistics.
      schema: Their schema.
      baselines: Component `outputs` contains: metrics and predictions of each baseline.
      task: The task, as `Task.to_json` writes it.
      features: JSON list of the features that the model reads.
      split: Split of the examples to predict.

    Raises:
      UserError: If the schema lacks a feature or the label, or a split is missing.
      DataError: If labels of a regression are not numbers.
    """
    learned = Task.from_json(task)
    reader = _Reader(learned, json.loads(features), load_schema(schema))
    learning = load_statistics(statistics, "train")
    rows = learning.datasets[0].num_examples if learning else 0
    step = sampling_step(rows, reader.width)
    train = reader.sample(read_rows(examples, "train", reader.schema, step))
    held_out = reader.sample(read_rows(examples, "eval", reader.schema, step))
    fitted = fit_baselines(learned, train, held_out)
    tested = load_statistics(statistics, split)
    predicted = (tested.datasets[0].num_examples if tested else 0) * learned.outputs
    step = max(1, math.ceil(predicted / _MOST_PREDICTIONS))
    labels, weights = [], []
    predictions: dict[str, list[np.ndarray]] = {baseline.name: [] for baseline in fitted}
    for _, sample in reader.batches(split_files(examples, split), step):
        labels.append(sample.labels)
        weights.append(sample.weights)
        for baseline in fitted:
            found = baseline.predict(sample.rows).astype(np.float32)
            predictions[baseline.name].append(found)
    results = Sample(pd.DataFrame(), np.concatenate(labels), np.concatenate(weights))
    known = np.isfinite(results.labels)
    by_name = {name: np.concatenate(parts) for name, parts in predictions.items()}
    baselines.write(
        {
            "task": json.loads(task),
            "rows": {"fitted": len(train.labels) + len(held_out.labels), split: len(known)},
            "step": step,
            "baselines": {
                baseline.name: {
                    "title": baseline.title,
                    "metrics": measure(
                        learned,
                        results.labels[known],
                        by_name[baseline.name][known],
                        results.weights[known],
                    ),
                }
                for baseline in fitted
            },
        }
    )
    content = io.BytesIO()
    np.savez(content, **by_name)
    with tfx.dsl.io.fileio.open(os.path.join(baselines.uri, PREDICTIONS_FILE), "wb") as file:
        file.write(content.getvalue())


def load_predictions(baselines: tfx.dsl.Artifact) -> dict[str, np.ndarray]:
    """Loads the predictions of each baseline, float32 [rows, outputs], by its name."""
    with tfx.dsl.io.fileio.open(os.path.join(baselines.uri, PREDICTIONS_FILE), "rb") as file:
        content = io.BytesIO(file.read())
    return dict(np.load(content, allow_pickle=False))


def examples_of(
    files: list[str], task: Task, schema: schema_pb2.Schema, step: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Reads the rows that the baselines predict, a batch at a time.

    Args:
      files: Files of raw examples.
      task: The task.
      schema: Their schema.
      step: 1 reads every row, 2 every second, and so on.

    Yields:
      Serialized examples, bytes [rows]; encoded labels and weights, float64 [rows].
    """
    reader = _Reader(task, [], schema)
    for examples, sample in reader.batches(files, step):
        yield examples, sample.labels, sample.weights


class _Reader:
    """Reads features, labels and weights of examples.

    Attributes:
      schema: The schema of these columns.
      width: Number of columns of the features.
    """

    def __init__(self, task: Task, features: list[str], schema: schema_pb2.Schema):
        self._task = task
        names = [*features, task.label, *filter(None, [task.example_weight])]
        if unknown := sorted(set(names) - {feature.name for feature in schema.feature}):
            raise UserError(f"the schema has no feature {', '.join(unknown)}")
        self.schema = only(names, schema)
        self.width = sum(
            math.prod(dim.size for dim in feature.shape.dim)
            for feature in schema.feature
            if feature.name in features
        )

    def sample(self, rows: pd.DataFrame) -> Sample:
        """Splits columns into features, labels and weights."""
        labels = self._task.encode(rows[self._task.label].to_numpy())
        weights = np.ones(len(rows))
        without = [self._task.label]
        if name := self._task.example_weight:
            weights = rows[name].fillna(0.0).to_numpy(float)
            without.append(name)
        return Sample(rows.drop(columns=without), labels, weights)

    def batches(self, files: list[str], step: int) -> Iterator[tuple[np.ndarray, Sample]]:
        """Reads every `step`-th row of files: serialized examples, bytes [rows], and sample."""
        decoder = RowDecoder(self.schema)
        for examples in read_records(files).shard(step, 0).batch(_BATCH).as_numpy_iterator():
            table = pa.Table.from_batches([decoder.batch(examples)])
            yield examples, self.sample(decoder.rows(table))
