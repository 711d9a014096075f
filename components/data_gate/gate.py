"""Applies the checks of DataGate: the schema, and limits on changes."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2

from components.data_gate.label_checks import (
    find_classes_to_doubt,
    find_label_unrelated,
    find_label_unusable,
    find_leaks,
    find_weight_unusable,
)
from components.data_gate.row_checks import (
    find_changed_relations,
    find_constant,
    find_duplicates,
)
from components.data_gate.statistics_checks import (
    find_missing,
    find_near_limits,
    find_nothing_to_learn,
    find_unseen,
    find_vanished,
)
from ml.baselines import Sample
from ml.comparisons import DRIFTS, ERROR, WARNING, Anomaly, grant_chance, read_anomalies
from ml.examples import vector_width
from ml.relations import Relations
from ml.statistics import Statistics
from ml.tasks import Task
from storage.errors import DataError, UserError

# Splits that are compared with the served model. `eval` is a week, too short to compare.
_COMPARED = ("train", "test")
# Rows of the window that relations are fitted on, or up to twice as many.
TRAINING_SAMPLE = 10_000
# Rows of a split of which all columns are in memory at once, or up to twice as many.
MOST_ROWS = 100_000
# Types of anomalies that mean something only in a whole month.
_OF_MONTHS = frozenset({"FEATURE_TYPE_LOW_FRACTION_PRESENT"})


@dataclass(frozen=True, kw_only=True)
class Gate:
    """The checks of DataGate, with their limits.

    Attributes:
      schema: The schema of the data.
      features: Features whose relations are compared: those that the model reads.
      task: What is predicted.
      max_missing_change: See `DataGate`, for this and the other limits.

    Raises:
      UserError: If the schema lacks one of the features, or the label.
    """

    schema: schema_pb2.Schema
    features: tuple[str, ...]
    task: Task
    max_missing_change: float
    max_duplicates: float
    max_error_growth: float
    min_label_relation: float
    environment: str = "TRAINING"

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.columns) - {f.name for f in self.schema.feature}):
            raise UserError(f"the schema has no feature {', '.join(unknown)}")

    @property
    def columns(self) -> list[str]:
        """The features and the label, and the example weight if there is one."""
        return [*self.features, self.task.label, *filter(None, [self.task.example_weight])]

    @property
    def label_columns(self) -> list[str]:
        """The label, and the example weight if there is one."""
        return self.columns[len(self.features) :]

    def check_statistics(
        self, split: str, new: Statistics, served: Statistics | None
    ) -> tuple[anomalies_pb2.Anomalies, list[Anomaly]]:
        """Validates the statistics of a split, and compares them with those of the served model.

        Args:
          split: Name of the split; `train` and `test` are compared.
          new: Its statistics.
          served: Training statistics of the served model; None if nothing is served.

        Returns:
          TFDV's result, and the anomalies: TFDV's, then the gate's own.
        """
        if split not in _COMPARED:
            served = None
        result = tfdv.validate_statistics(
            new, self.schema, environment=self.environment, previous_statistics=served
        )
        found = [
            replace(anomaly, severity=WARNING)
            if split not in _COMPARED and anomaly.type in _OF_MONTHS
            else anomaly
            for anomaly in grant_chance(
                read_anomalies(split, result, self.schema), result, new, served, self.schema
            )
        ]
        found += find_unseen(split, new, self.schema)
        if split == "train":
            found += find_nothing_to_learn(split, new, self.features)
        if served:
            found += find_near_limits(split, result)
            found += find_missing(split, new, served, self.max_missing_change)
            found += find_vanished(split, new, served, self.schema)
        return result, found

    def check_labels(
        self,
        split: str,
        labels: pd.DataFrame,
        train: pd.DataFrame | None,
        found: list[Anomaly],
    ) -> Iterator[Anomaly]:
        """Checks labels and example weights of all rows.

        Args:
          split: Name of the split.
          labels: The columns `label_columns` of its rows.
          train: The same of the split `train`; None if it has none.
          found: What the statistics of the split showed. A label that they refuse is not described
            once more.
        """
        label, weight = self.task.label, self.task.example_weight
        if weight:
            yield from find_weight_unusable(split, labels[weight].to_numpy(float), self.task)
        if any(a.feature == label and a.severity == ERROR and a.type not in DRIFTS for a in found):
            return
        unusable = [*find_label_unusable(split, labels[label].to_numpy(), self.task)]
        yield from unusable
        if not unusable:
            yield from find_classes_to_doubt(
                split,
                self.task.encode(labels[label].to_numpy()),
                None if train is None else self.task.encode(train[label].to_numpy()),
                self.task,
            )

    def check_window(self, split: str, window: pd.DataFrame) -> Iterator[Anomaly]:
        """Checks rows that a model is to learn from.

        Args:
          split: Name of the split.
          window: All columns of some of its rows; see `read_rows`.
        """
        yield from find_leaks(split, self._sample(window), self.task, self.features)

    def check_repeated(self, split: str, rows: np.ndarray, window: np.ndarray) -> Iterator[Anomaly]:
        """Checks that the rows of a new month are not there twice.

        Args:
          split: Name of the split.
          rows: Hashes of its rows; see `components.data_gate.reading.hash_rows`.
          window: The same of rows of the window.
        """
        yield from find_duplicates(split, rows, window, self.max_duplicates)

    def check_rows(self, split: str, rows: pd.DataFrame, window: pd.DataFrame) -> Iterator[Anomaly]:
        """Checks the rows of a new month, or a sample of them.

        Args:
          split: Name of the split.
          rows: All columns; see `read_rows`.
          window: The same of some rows of the window.
        """
        window = window.iloc[:: max(1, len(window) // TRAINING_SAMPLE)]
        # Pixels are related too closely, and many are constant.
        scalar = [f.name for f in self.schema.feature if vector_width(f) is None]
        features = [name for name in self.features if name in scalar]
        yield from find_constant(split, rows[features], window[features])
        if features:
            columns = [*features, self.task.label]
            relations = Relations(window[columns])
            yield from find_changed_relations(
                split, rows[columns], relations, self.task.label, self.max_error_growth
            )
        yield from find_label_unrelated(
            split, self._sample(rows), self._sample(window), self.task, self.min_label_relation
        )

    def _sample(self, rows: pd.DataFrame) -> Sample:
        known = set(self.features)
        names = [n for n in rows if n in known or n.rpartition("[")[0] in known]
        try:
            labels = self.task.encode(rows[self.task.label].to_numpy())
        except DataError:  # `check_labels` says so.
            labels = np.full(len(rows), np.nan)
        weights = np.ones(len(rows))
        if self.task.example_weight:
            weights = rows[self.task.example_weight].fillna(0.0).to_numpy(float)
        return Sample(rows[names], labels, weights)
