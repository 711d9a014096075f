"""What data has to be, and how far it may be from other data."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pandas as pd
import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2

from components.data_gate.row_checks import (
    find_changed_relations,
    find_constant,
    find_duplicates,
    find_label_unrelated,
)
from components.data_gate.statistics_checks import (
    find_label_unusable,
    find_missing,
    find_near_limits,
    find_nothing_to_learn,
    find_unseen,
    find_vanished,
)
from ml.comparisons import DRIFTS, ERROR, WARNING, Anomaly, grant_chance, read_anomalies
from ml.relations import Relations
from ml.statistics import Statistics
from storage.errors import UserError

# Splits that are compared with the served model. A week, as `eval` is, has its own weather.
_COMPARED = ("train", "test")
# Types of anomalies that mean something in a whole month alone.
_OF_MONTHS = frozenset({"FEATURE_TYPE_LOW_FRACTION_PRESENT"})


@dataclass(frozen=True, kw_only=True)
class Gate:
    """What data has to be, and how far it may be from other data.

    Attributes:
      schema: What the data should be.
      features: Those whose relations are compared.
      label: The feature that is predicted; "" for none.
      max_missing_change: These and the others are described at `DataGate`.

    Raises:
      UserError: If the schema lacks one of the features, or the label.
    """

    schema: schema_pb2.Schema
    features: tuple[str, ...]
    label: str
    max_missing_change: float
    max_duplicates: float
    max_error_growth: float
    min_label_relation: float
    environment: str = "TRAINING"

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.related) - {f.name for f in self.schema.feature}):
            raise UserError(f"the schema has no feature {', '.join(unknown)}")

    @property
    def related(self) -> list[str]:
        """The columns whose relations are compared."""
        return [*self.features, *filter(None, [self.label])]

    def check_statistics(
        self, split: str, new: Statistics, served: Statistics | None
    ) -> tuple[anomalies_pb2.Anomalies, list[Anomaly]]:
        """Validates the statistics of a split, and compares them with those of the served model.

        Args:
          split: Name of the split; `train` and `test` are compared.
          new: Its statistics.
          served: Statistics that the served model learned from; None if nothing is served.

        Returns:
          What TFDV found, and the anomalies: those of TFDV, and then the gate's own.
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
        refused = any(
            a.feature == self.label and a.severity == ERROR and a.type not in DRIFTS for a in found
        )
        found += find_unseen(split, new, self.schema)
        if self.label and not refused:
            found += find_label_unusable(split, new, self.label)
        if split == "train":
            found += find_nothing_to_learn(split, new, self.features)
        if served:
            found += find_near_limits(split, result)
            found += find_missing(split, new, served, self.max_missing_change)
            found += find_vanished(split, new, served, self.schema)
        return result, found

    def check_rows(self, split: str, rows: pd.DataFrame, window: pd.DataFrame) -> Iterator[Anomaly]:
        """Looks at the rows of a new month.

        Args:
          split: Name of the split.
          rows: All columns, as of `read_rows`.
          window: Rows to learn the relations of the columns from.
        """
        yield from find_duplicates(split, rows, self.max_duplicates)
        rows, window = rows[self.related], window[self.related]
        yield from find_constant(split, rows, window)
        relations = Relations(window)
        yield from find_changed_relations(split, rows, relations, self.label, self.max_error_growth)
        yield from find_label_unrelated(
            split, rows, window, relations, self.label, self.min_label_relation
        )
