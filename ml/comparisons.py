"""Compares data with a schema and with other data, for DataGate and ServingMonitor."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2

from ml.chance import drift_by_chance, is_more
from ml.statistics import Statistics, categories, missing_rates

DATA_SET = "(data set)"
ERROR = anomalies_pb2.AnomalyInfo.ERROR
WARNING = anomalies_pb2.AnomalyInfo.WARNING

_IMPROBABLE = 1e-9
DRIFTS = frozenset({"COMPARATOR_L_INFTY_HIGH", "COMPARATOR_JENSEN_SHANNON_DIVERGENCE_HIGH"})


@dataclass(frozen=True)
class Anomaly:
    """One thing that is wrong with one feature of one split."""

    split: str
    feature: str
    type: str
    severity: int
    description: str

    def blocks(self, warn_only: frozenset[str]) -> bool:
        """Whether it stops the run: it is an error, and `warn_only` does not name it."""
        named = {self.type, f"{self.feature}:{self.type}"}
        return self.severity == ERROR and not named & warn_only

    def __str__(self) -> str:
        return f"{self.split}: {self.feature}: {self.type}: {self.description}"


def read_anomalies(
    split: str, found: anomalies_pb2.Anomalies, schema: schema_pb2.Schema
) -> Iterator[Anomaly]:
    """The anomalies of one split, those of the whole data set first."""
    if found.HasField("dataset_anomaly_info"):
        yield from _read_reasons(split, DATA_SET, found.dataset_anomaly_info, "")
    allowed = {feature.name: _allowed(feature) for feature in schema.feature}
    # The keys are not the names: TFDV quotes some, such as 'trip.miles'.
    for key, info in sorted(found.anomaly_info.items()):
        feature = info.path.step[0] if info.path.step else key
        yield from _read_reasons(split, feature, info, allowed.get(feature, ""))


def _read_reasons(
    split: str, feature: str, info: anomalies_pb2.AnomalyInfo, allowed: str
) -> Iterator[Anomaly]:
    for reason in info.reason:
        name = anomalies_pb2.AnomalyInfo.Type.Name(reason.type)
        about_range = name.startswith(("INT_TYPE", "FLOAT_TYPE"))
        description = f"{reason.description} {allowed}" if about_range else reason.description
        yield Anomaly(split, feature, name, info.severity, description.strip())


def _allowed(feature: schema_pb2.Feature) -> str:
    """Describes the schema's range of a feature, as part of a message."""
    kind = feature.WhichOneof("domain_info")
    if kind in ("int_domain", "float_domain"):
        domain = getattr(feature, kind)
        return f"The schema allows {domain.min:g} to {domain.max:g}."
    return ""


def only(names: Sequence[str], schema: schema_pb2.Schema) -> schema_pb2.Schema:
    """A schema of some features of another."""
    kept = [feature for feature in schema.feature if feature.name in names]
    return schema_pb2.Schema(
        feature=kept,
        string_domain=schema.string_domain,
        default_environment=schema.default_environment,
    )


class Drift(NamedTuple):
    """The drift or skew of a feature, and its limit."""

    feature: str
    value: float
    limit: float


def drifts(result: anomalies_pb2.Anomalies) -> Iterator[Drift]:
    """Each comparison that TFDV made."""
    for info in result.drift_skew_info:
        for measured in (*info.drift_measurements, *info.skew_measurements):
            yield Drift(info.path.step[0], measured.value, measured.threshold)


def nearest_limit(result: anomalies_pb2.Anomalies) -> Drift | None:
    """The drift that is highest relative to its limit, if there is any."""
    return max(drifts(result), key=lambda drift: drift.value / drift.limit, default=None)


def nearest_drift(
    new: Statistics,
    served: Statistics,
    schema: schema_pb2.Schema,
) -> Drift | None:
    """The drift between two data sets that is highest relative to its limit.

    Args:
      new: Statistics of the new data.
      served: Training statistics of the served model.
      schema: The schema, with the limits.

    Returns:
      The drift; None if the schema limits none.
    """
    return nearest_limit(tfdv.validate_statistics(new, schema, previous_statistics=served))


def grant_chance(
    found: Iterable[Anomaly],
    result: anomalies_pb2.Anomalies,
    new: Statistics,
    baseline: Statistics | None,
    schema: schema_pb2.Schema,
) -> Iterator[Anomaly]:
    """Turns each anomaly that chance explains into a warning.

    Args:
      found: Anomalies of TFDV's.
      result: TFDV's result, with its measurements.
      new: Statistics of the data.
      baseline: Statistics of the data that it was compared with.
      schema: The schema.
    """
    features = {feature.name: feature for feature in schema.feature}
    measured = {name: (value, limit) for name, value, limit in drifts(result)}
    for anomaly in found:
        feature = features.get(anomaly.feature)
        reason = ""
        if feature is None:
            pass
        elif anomaly.type in DRIFTS and baseline and anomaly.feature in measured:
            value, limit = measured[anomaly.feature]
            granted = limit + drift_by_chance(feature, value, new, baseline)
            if value <= granted:
                reason = f"without drift these rows may show {granted:.3g}"
        elif anomaly.type == "FEATURE_TYPE_LOW_FRACTION_PRESENT":
            rows = new.datasets[0].num_examples
            missing = missing_rates(new).get(anomaly.feature, 1.0) * rows
            allowed = 1 - feature.presence.min_fraction
            if allowed and not is_more(round(missing), rows, allowed):
                reason = f"{rows:,} rows are too few to tell"
        elif anomaly.type == "ENUM_TYPE_UNEXPECTED_STRING_VALUES":
            unseen, rows = count_unseen(feature, new, schema)
            allowed = 1 - feature.distribution_constraints.min_domain_mass
            if allowed and not is_more(unseen, rows, allowed):
                reason = f"{rows:,.0f} rows are too few to tell"
        if reason:
            description = f"{anomaly.description} By chance: {reason}."
            anomaly = replace(anomaly, severity=WARNING, description=description)
        yield anomaly


def count_unseen(
    feature: schema_pb2.Feature,
    statistics: Statistics,
    schema: schema_pb2.Schema,
) -> tuple[float, float]:
    """Counts the rows with a value outside the domain of a feature, and those with any value."""
    domains = {domain.name: set(domain.value) for domain in schema.string_domain}
    known = domains.get(feature.domain, set(feature.string_domain.value))
    values = categories(statistics, feature.name)
    return sum(c for value, c in values.items() if value not in known), sum(values.values())


def improbable(share: float, rows: float) -> bool:
    """Whether an event of probability `share` is unlikely to happen in every one of `rows` rows."""
    return share == 0 or rows * math.log(share) < math.log(_IMPROBABLE)
