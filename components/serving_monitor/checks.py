"""Compares requests and predictions with limits: a `Check` for each comparison."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pandas as pd
import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2

from ml.chance import drift_by_chance, effective_rows, is_more, share_by_chance
from ml.comparisons import drifts, read_anomalies
from ml.relations import Relations
from ml.requests import CURRENT
from ml.statistics import Statistics, categories, missing_rates

# The baselines of checks.
SCHEMA = "schema"
TRAINING = "training"
BEFORE = "previous period"
LABELS = "labels"
_ENVIRONMENT = "SERVING"
# TFDV counts so many categories of a feature; it may not list a known one if there are more.
_COUNTED_CATEGORIES = 1000


@dataclass(frozen=True)
class Check:
    """A value and its limit.

    Attributes:
      kind: What was measured.
      subject: The feature or slice; "" for all.
      against: What it was compared with.
      value: The value.
      limit: The limit.
      at_least: Whether the limit is a minimum, not a maximum.
      text: The check as a sentence.
    """

    kind: str
    subject: str
    against: str
    value: float
    limit: float
    text: str
    at_least: bool = False

    @property
    def alarms(self) -> bool:
        """Whether the value is beyond the limit; NaN is."""
        inside = self.value >= self.limit if self.at_least else self.value <= self.limit
        return not inside

    @property
    def closeness(self) -> float:
        """The value relative to its limit: 1 at the limit, more beyond it."""
        # Of two negative numbers the one further from 0 is the lower one.
        above, below = self.limit, self.value
        if self.at_least == (self.limit < 0):
            above, below = below, above
        if below == 0 or (above < 0) != (below < 0):
            return math.inf if self.alarms else 0.0
        return above / below


def check_schema(now: Statistics, schema: schema_pb2.Schema) -> Iterator[Check]:
    """Types, presence, ranges and domains; each anomaly of TFDV alarms."""
    plain = schema_pb2.Schema()
    plain.CopyFrom(schema)
    for feature in plain.feature:
        feature.ClearField("drift_comparator")
        feature.ClearField("skew_comparator")
    found = tfdv.validate_statistics(now, plain, environment=_environment(plain))
    for anomaly in read_anomalies(CURRENT, found, schema):
        serious = anomaly.severity == anomalies_pb2.AnomalyInfo.ERROR
        text = f"{anomaly.feature}: {anomaly.type}: {anomaly.description}"
        yield Check(anomaly.type, anomaly.feature, SCHEMA, float(serious), 0.0, text)


def check_skew(now: Statistics, served: Statistics, schema: schema_pb2.Schema) -> Iterator[Check]:
    """Distances from the training data, as TFDV measures the skew between training and serving."""
    of_skew = schema_pb2.Schema()
    of_skew.CopyFrom(schema)
    for feature in of_skew.feature:
        if not feature.HasField("skew_comparator") and feature.HasField("drift_comparator"):
            feature.skew_comparator.CopyFrom(feature.drift_comparator)
        feature.ClearField("drift_comparator")
    found = tfdv.validate_statistics(served, of_skew, serving_statistics=now)
    for name, value, limit in _granted(drifts(found), now, served, of_skew):
        text = f"{name}: skew {value:.3f} against the training data; {limit:.3g} is allowed"
        yield Check("skew", name, TRAINING, value, limit, text)


def check_drift(now: Statistics, past: Statistics, schema: schema_pb2.Schema) -> Iterator[Check]:
    """Distances from the previous period, as TFDV measures drift."""
    of_drift = schema_pb2.Schema()
    of_drift.CopyFrom(schema)
    for feature in of_drift.feature:
        feature.ClearField("skew_comparator")
    found = tfdv.validate_statistics(
        now, of_drift, environment=_environment(of_drift), previous_statistics=past
    )
    for name, value, limit in _granted(drifts(found), now, past, of_drift):
        text = f"{name}: drift {value:.3f} against the previous period; {limit:.3g} is allowed"
        yield Check("drift", name, BEFORE, value, limit, text)


def _environment(schema: schema_pb2.Schema) -> str | None:
    """The environment of requests, if the schema has it."""
    return _ENVIRONMENT if _ENVIRONMENT in schema.default_environment else None


def _granted(
    measured: Iterable[tuple[str, float, float]],
    now: Statistics,
    past: Statistics,
    schema: schema_pb2.Schema,
) -> Iterator[tuple[str, float, float]]:
    """Drifts with their limits, which allow for chance."""
    features = {feature.name: feature for feature in schema.feature}
    for name, value, limit in measured:
        chance = drift_by_chance(features[name], value, now, past) if value > limit else 0.0
        yield name, value, limit + chance


def check_missing(
    now: Statistics, past: Statistics, names: list[str], against: str, limit: float
) -> Iterator[Check]:
    """Changes of the shares of rows without a value."""
    rates, rates_before = missing_rates(now), missing_rates(past)
    rows = effective_rows(now.datasets[0].num_examples, past.datasets[0].num_examples)
    for name in names:
        # TFDV has no statistics of a feature without values.
        rate, before = rates.get(name, 1.0), rates_before.get(name, 1.0)
        text = (
            f"{name}: {rate:.1%} of the rows have no value, {before:.1%} in the {named(against)}; "
            f"a change by {limit:.0%} is allowed"
        )
        change = abs(rate - before)
        granted = limit + share_by_chance(rows) if change > limit else limit
        yield Check("missing", name, against, change, granted, text)


def check_unseen(
    now: Statistics, served: Statistics, names: list[str], limit: float
) -> Iterator[Check]:
    """Shares of rows with a category that the training data does not have."""
    for name in names:
        values, known = categories(now, name), categories(served, name)
        if not values or not 0 < len(known) < _COUNTED_CATEGORIES:
            continue
        unseen = sorted(values.keys() - known.keys(), key=lambda value: -values[value])
        count, rows = sum(values[value] for value in unseen), sum(values.values())
        share = count / rows
        text = (
            f"{name}: {share:.1%} of the rows have a value that the training data does not have "
            f"({', '.join(unseen[:5]) or 'none'}); {limit:.0%} are allowed"
        )
        by_chance = share > limit and not is_more(count, rows, limit)
        yield Check("unseen", name, TRAINING, share, share if by_chance else limit, text)


def check_relations(now: pd.DataFrame, past: pd.DataFrame, limit: float) -> Iterator[Check]:
    """Growth of the error of numeric features predicted from the others; see `Relations`."""
    for name, growth in Relations(past).error_growth(now).items():
        text = (
            f"{name}: predicted from the other features, its squared error is {growth:.1f} times "
            f"that of the previous period; {limit:g} times is allowed. Are the units the same?"
        )
        yield Check("relation", name, BEFORE, growth, limit, text)


def named(against: str) -> str:
    """What a check compares with, in a sentence."""
    return {TRAINING: "training data", LABELS: "labels that have arrived"}.get(against, against)
