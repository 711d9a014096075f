"""A finished run with its rows of `test`, and paired comparisons of predictions of them."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import tensorflow as tf
import tensorflow_transform as tft
import tf_keras
from scipy import stats
from tfx import v1 as tfx

from benchmarks.quality import divide, read_split
from ml.artifacts import load_statistics, serving_model_uri, split_files
from ml.bootstrap import poisson_counts
from ml.examples import columns_of_files
from ml.metrics import Metric
from ml.parameters import load_function
from ml.predictors import SavedModelPredictor, load_predictor
from ml.statistics import Statistics
from ml.tallies import Counter, Problem
from ml.task_metrics import METRICS
from orchestration.local.history import RunRecord, read_run
from orchestration.local.model_directories import list_directories
from orchestration.local.output_directory import OutputDirectory
from orchestration.outcome import Outcome
from pipeline.config import load_config
from pipeline.model import Model
from storage.tfrecords import open_records, read_records

_REPLICATES = 100
_CONFIDENCE = 0.95
_BATCH = 8192
_MODEL = "model"
_artifacts = tfx.types.standard_artifacts

# A column of texts, and one of its values.
Segment = tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Gain:
    """How much better a prediction is than another, in the task's headline metric.

    Attributes:
      value: On the rows; below 0 it is worse. Of a metric in the label's unit, a share.
      replicates: In each replicate of a paired bootstrap, [replicates].
    """

    value: float
    replicates: np.ndarray

    @property
    def margin(self) -> float:
        """Half the width of the 95% interval that the rows give; NaN where they give none."""
        known = self.replicates[np.isfinite(self.replicates)]
        if len(known) < 2:
            return float("nan")
        return float(np.std(known, ddof=1)) * two_sided(len(known) - 1)

    def __str__(self) -> str:
        return f"{self.value:+.4f} ±{self.margin:.4f}"

    @classmethod
    def mean(cls, gains: Sequence[Gain]) -> Gain:
        """The mean of gains."""
        values = [gain.value for gain in gains]
        return cls(float(np.mean(values)), np.mean([gain.replicates for gain in gains], axis=0))


def two_sided(degrees: int) -> float:
    """Student's quantile of a two-sided 95% interval."""
    return float(stats.t.ppf((1 + _CONFIDENCE) / 2, degrees))


class EvaluatedRun:
    """A run of a model, and its rows of `test`.

    Args:
      directory: The directory of the model's runs.
      record: The run.
    """

    def __init__(self, directory: OutputDirectory, record: RunRecord):
        self._folder = directory.artifacts / record.run_id
        self.model = Model.load(load_config(settings=[f"model={directory.model}"]))
        self.pushed = record.outcome == Outcome.PUSHED
        (month,) = record.months["test"]
        self.name = directory.model
        self.title = str(month or self.name)

    @cached_property
    def records(self) -> np.ndarray:
        """Serialized examples of `test`, bytes [rows]."""
        examples = self._artifact("SpanExampleGen", "examples", _artifacts.Examples)
        files = split_files(examples, "test")
        return np.array(list(read_records(files).as_numpy_iterator()), object)

    @cached_property
    def _rows(self) -> tuple[pd.DataFrame, np.ndarray]:
        return divide(self.model.task, read_split(self.model, self._folder, "test"))

    @property
    def labels(self) -> np.ndarray:
        """The encoded labels of `test`, float64 [rows]."""
        return self._rows[1]

    @property
    def features(self) -> pd.DataFrame:
        """The raw features of `test`; texts are `str`."""
        rows = self._rows[0].copy()
        for name in rows.select_dtypes(object):
            rows[name] = [v.decode() if isinstance(v, bytes) else v for v in rows[name]]
        return rows

    @cached_property
    def _counts(self) -> np.ndarray:
        """How often each row counts in the data and in its replicates, [rows, 1 + replicates]."""
        drawn = poisson_counts(self.records, _REPLICATES)
        return np.concatenate([np.ones((len(drawn), 1)), drawn], axis=1)

    @property
    def statistics(self) -> Statistics:
        """Those of `train`."""
        artifact = self._artifact("StatisticsGen", "statistics", _artifacts.ExampleStatistics)
        found = load_statistics(artifact, "train")
        if found is None:
            raise click.ClickException(f"{artifact.uri} has no statistics of train")
        return found

    def predict(self, records: np.ndarray) -> np.ndarray:
        """Predicts serialized examples by `model.tflite`, float32 [rows, outputs]."""
        model = self._artifact("Quantizer", "quantized_model", _artifacts.Model)
        predictor = load_predictor(serving_model_uri(model))
        parts = [predictor.predict(records[i : i + _BATCH]) for i in range(0, len(records), _BATCH)]
        return np.concatenate(parts)

    def train(
        self, seed: int, others: Mapping[str, np.ndarray], segment: Segment | None = None
    ) -> dict[str, np.ndarray]:
        """Trains the float network by the model's `run_fn`.

        Args:
          seed: The seed.
          others: Serialized examples to predict, by name.
          segment: Train and stop early by the rows of this segment alone.

        Returns:
          Predictions by name, float32 [rows, outputs].
        """
        settings = load_config(settings=[f"model={self.name}", f"training.seed={seed}"])
        network = {"network": settings.network} if settings.network else {}
        transformed = self._artifact("Transform", "transformed_examples", _artifacts.Examples)
        graph = self._artifact("Transform", "transform_graph", _artifacts.TransformGraph).uri
        tf_keras.backend.clear_session()
        with tempfile.TemporaryDirectory() as folder:
            files = {split: split_files(transformed, split) for split in ("train", "eval")}
            if segment:
                column, value = segment
                example = self.records[(self.features[column] == value).to_numpy()][0]
                transform = tft.TFTransformOutput(graph)
                files = {
                    split: [select_segment(paths, transform, column, example, f"{folder}/{split}")]
                    for split, paths in files.items()
                }
            load_function(self.model.run_fn)(
                tfx.components.FnArgs(
                    train_files=files["train"],
                    eval_files=files["eval"],
                    transform_output=graph,
                    serving_model_dir=f"{folder}/model",
                    model_run_dir=f"{folder}/run",
                    custom_config=dataclasses.asdict(settings.training)
                    | network
                    | self.model.custom_config,
                )
            )
            predictor = SavedModelPredictor(f"{folder}/model")
            return {name: predictor.predict(records) for name, records in others.items()}

    def score(
        self, predictions: np.ndarray, rows: np.ndarray | None = None, metric: str = ""
    ) -> np.ndarray:
        """A metric as the Evaluator computes it, in the data and in each replicate.

        Args:
          predictions: [rows, outputs].
          rows: A mask of the rows that count; None for all.
          metric: Name of a metric of the task; "" for its headline.

        Returns:
          float64 [1 + replicates]; NaN where the rows do not define it.
        """
        labels = self.labels
        kept = np.flatnonzero(np.isfinite(labels) & (True if rows is None else rows))
        computed = METRICS[self._metric(metric).tfma_class]
        if not len(kept):
            return np.full(1 + _REPLICATES, np.nan)
        counter = Counter({Problem(_MODEL): computed.needs})
        own = {_MODEL: predictions[kept]}
        places = {_MODEL: np.arange(len(kept))}
        ((_, tally),) = counter.count(labels[kept], own, self._counts[kept], places)
        return computed.value(counter, tally, Problem(_MODEL))

    def gain(
        self,
        new: np.ndarray,
        old: np.ndarray,
        rows: np.ndarray | None = None,
        metric: str = "",
    ) -> Gain:
        """How much better some predictions are than others; see `score`."""
        loss = self._metric(metric).loss
        scores = (self.score(predictions, rows, metric) for predictions in (new, old))
        pairs = zip(*scores, strict=True)
        gains = np.array([0.0 - loss(*pair) for pair in pairs])  # No -0.0.
        return Gain(float(gains[0]), gains[1:])

    def _metric(self, name: str) -> Metric:
        task = self.model.task
        return task.metric(name) if name else task.headline

    def _artifact(self, node: str, key: str, kind: Any) -> Any:
        folders = list(self._folder.glob(f"{node}/{key}/*"))
        if len(folders) != 1:
            raise click.ClickException(f"{self._folder} has no {key} of its own {node}")
        artifact = kind()
        artifact.uri = str(folders[0])
        if kind is _artifacts.Examples:
            artifact.split_names = '["train", "eval", "test"]'
        return artifact


def find_runs(output: Path) -> list[EvaluatedRun]:
    """The runs of the one model of an output directory, the oldest first.

    Raises:
      click.ClickException: If there are runs of no model or of several, or none that evaluated.
    """
    directories = list_directories(output)
    if len(directories) != 1:
        raise click.ClickException(f"{output} has runs of {len(directories)} models; one is needed")
    (directory,) = directories
    records = [read_run(directory, path.stem) for path in sorted(directory.runs.glob("*.json"))]
    kept = [one for one in records if one and one.outcome in (Outcome.PUSHED, Outcome.NOT_BLESSED)]
    if not kept:
        raise click.ClickException(f"{output} has no run that came to an evaluation")
    return [EvaluatedRun(directory, record) for record in kept]


def select_segment(
    paths: Sequence[str], graph: tft.TFTransformOutput, column: str, example: bytes, folder: str
) -> str:
    """Writes the transformed examples that have one value to one file.

    Args:
      paths: Files of transformed examples.
      graph: The transformation, which keeps the column, as an id, under its own name.
      column: The column.
      example: A serialized raw example with the value.
      folder: Folder to make for the file.

    Returns:
      The file's path.
    """
    raw = tf.io.parse_example([example], graph.raw_feature_spec())
    wanted = np.ravel(graph.transform_features_layer()(raw)[column])[0]
    columns = columns_of_files(list(paths), graph.transformed_metadata.schema)
    chosen = np.ravel(columns[column]) == wanted
    Path(folder).mkdir()
    path = f"{folder}/examples.gz"
    with open_records(path) as writer:
        records = read_records(list(paths)).as_numpy_iterator()
        for record, one in zip(records, chosen, strict=True):
            if one:
                writer.write(record)
    return path
