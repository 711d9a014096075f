"""DataGate: stops the run when the data is not what the schema says, or has drifted too far."""

import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import pandas as pd
import tensorflow_data_validation as tfdv
from sklearn.metrics import roc_auc_score
from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2, statistics_pb2
from tfx import v1 as tfx

from ml.artifacts import load_schema, load_statistics
from ml.chance import effective_rows, is_more, share_by_chance
from ml.comparisons import (
    DATA_SET,
    DRIFTS,
    Anomaly,
    categories,
    drifts,
    grant_chance,
    improbable,
    missing_rates,
    only,
    read_anomalies,
)
from ml.relations import Relations, read_rows
from storage.errors import BlockingAnomalies, UserError

# What TFDV has no type for.
OWN_TYPES = frozenset(
    {
        "CONSTANT",
        "DRIFT_NEAR_THRESHOLD",
        "DUPLICATE_ROWS",
        "LABEL_UNRELATED",
        "LABEL_UNUSABLE",
        "MISSING_RATE_CHANGED",
        "RELATION_CHANGED",
        "UNSEEN_VALUES",
        "VALUE_VANISHED",
    }
)
ANOMALY_TYPES = frozenset(anomalies_pb2.AnomalyInfo.Type.keys()) | OWN_TYPES

_ERROR = anomalies_pb2.AnomalyInfo.ERROR
_WARNING = anomalies_pb2.AnomalyInfo.WARNING
_SHOWN = 10

# The days held out are too few to be compared: a week has its own weather, or lacks it.
_COMPARED = ("train", "test")
# What the schema says of a month as a whole.
_OF_MONTHS = frozenset({"FEATURE_TYPE_LOW_FRACTION_PRESENT"})
# Deviations as small as this, in magnitudes of the values, are the rounding of 32-bit numbers.
STEADY = 1e-5
# Of a sum of labels, in all of them.
_ROUNDING = 1e-10
# Of a limit; above it there is a warning.
_WARN_FROM = 0.7
# Of the served rows: a category that had more does not end by chance or season.
_VANISHING_SHARE = 0.01
_TRAINING_SAMPLE = 10_000

_Statistics: TypeAlias = statistics_pb2.DatasetFeatureStatisticsList


@tfx.dsl.components.component
def DataGate(
    examples: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Examples],
    statistics: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.ExampleStatistics],
    schema: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Schema],
    served_statistics: tfx.dsl.components.InputArtifact[
        tfx.types.standard_artifacts.ExampleStatistics
    ],
    anomalies: tfx.dsl.components.OutputArtifact[tfx.types.standard_artifacts.ExampleAnomalies],
    environment: tfx.dsl.components.Parameter[str],
    warn_only: tfx.dsl.components.Parameter[str],
    features: tfx.dsl.components.Parameter[str],
    label: tfx.dsl.components.Parameter[str],
    max_missing_change: tfx.dsl.components.Parameter[float],
    max_duplicates: tfx.dsl.components.Parameter[float],
    max_error_growth: tfx.dsl.components.Parameter[float],
    min_label_relation: tfx.dsl.components.Parameter[float],
) -> None:
    """Fails on blocking anomalies, and so keeps every node that is ordered behind it from running.

    Each split is validated against the schema. The splits `train` and `test` are also compared with
    the training statistics of the model being served: by the drift comparators that the schema sets
    (L-infinity distance for categorical features, Jensen-Shannon divergence for numeric ones), by
    the share of rows without a value, and by the categories that are no longer there. Of `test`,
    the new month, the rows themselves are looked at too: for duplicates, and for what `Relations`
    tells by `train`.

    What chance alone explains in so few rows is a warning: see `ml.chance`.

    Args:
      examples: The splits, gzipped TFRecords; rows are looked at where it has `train` and `test`.
      statistics: Statistics of every split.
      schema: What the data should be.
      served_statistics: Statistics of the split `train` of the model being served; may be empty.
      anomalies: Component `outputs` contains: the anomalies of each split that do not block, in the
        layout of ExampleValidator; how many there are, the first of them and the largest drift are
        the custom properties `warnings`, `warned` and `drift`.
      environment: Environment of the schema to validate in.
      warn_only: JSON list of anomalies that are reported and do not block: a type of
        `ANOMALY_TYPES`, or `feature:TYPE` for one feature alone.
      features: JSON list of the features whose relations are compared: those that the model reads.
      label: The feature that the model predicts, 0 or 1; "" compares no label.
      max_missing_change: How far the share of rows without a value may move.
      max_duplicates: Share of the rows of `test` that may repeat another row.
      max_error_growth: How many times the squared error may grow with which a number is predicted
        from the other features.
      min_label_relation: Share of its AUC above 0.5 that a linear prediction of the label must
        keep.

    Raises:
      BlockingAnomalies: Naming split, feature, anomaly and numbers of each blocking anomaly.
      UserError: If `warn_only` names a type that does not exist, or `features` or `label` a feature
        that the schema does not have.
    """
    exceptions = parse_warn_only(json.loads(warn_only))
    gate = Gate(
        schema=load_schema(schema),
        features=tuple(json.loads(features)),
        label=label,
        max_missing_change=max_missing_change,
        max_duplicates=max_duplicates,
        max_error_growth=max_error_growth,
        min_label_relation=min_label_relation,
        environment=environment,
    )
    served = load_statistics(served_statistics, "train")
    learned = load_statistics(statistics, "train")
    drift = "nothing served yet"
    found: list[Anomaly] = []
    for split in json.loads(statistics.split_names):
        baseline = served if split in _COMPARED else None
        result, of_split = gate.check_statistics(
            split, load_statistics(statistics, split), baseline
        )
        if baseline:
            drift = _describe_drift(result)
        if (
            split == "test"
            and learned
            and {"train", "test"} <= set(json.loads(examples.split_names))
        ):
            rows = read_rows(examples, "test", gate.schema)
            step = max(1, learned.datasets[0].num_examples // _TRAINING_SAMPLE)
            before = read_rows(examples, "train", only(gate.related, gate.schema), step)
            of_split += gate.check_rows(split, rows, before)
        found += of_split
        _write_anomalies(anomalies, split, result, of_split)
    anomalies.split_names = statistics.split_names
    blocking = [anomaly for anomaly in found if anomaly.blocks(exceptions)]
    if blocking:
        raise BlockingAnomalies(_describe(blocking))
    anomalies.set_int_custom_property("warnings", len(found))
    anomalies.set_string_custom_property("warned", "\n".join(map(str, found[:_SHOWN])))
    anomalies.set_string_custom_property("drift", drift)


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
        self, split: str, new: _Statistics, served: _Statistics | None
    ) -> tuple[anomalies_pb2.Anomalies, list[Anomaly]]:
        """Validates the statistics of a split, and compares them with those of the served model.

        Returns:
          What TFDV found, and the anomalies: those of TFDV, and then the gate's own.
        """
        result = tfdv.validate_statistics(
            new, self.schema, environment=self.environment, previous_statistics=served
        )
        found = [
            replace(anomaly, severity=_WARNING)
            if split not in _COMPARED and anomaly.type in _OF_MONTHS
            else anomaly
            for anomaly in grant_chance(
                read_anomalies(split, result, self.schema), result, new, served, self.schema
            )
        ]
        refused = any(
            a.feature == self.label and a.severity == _ERROR and a.type not in DRIFTS for a in found
        )
        found += _find_unseen(split, new, self.schema)
        if self.label and not refused:
            found += _find_label_unusable(split, new, self.label)
        if split == "train":
            found += _find_nothing_to_learn(split, new, self.features)
        if served:
            found += _find_near_thresholds(split, result)
            found += _find_missing(split, new, served, self.max_missing_change)
            found += _find_vanished(split, new, served, self.schema)
        return result, found

    def check_rows(self, split: str, rows: pd.DataFrame, window: pd.DataFrame) -> Iterator[Anomaly]:
        """Looks at the rows of a new month.

        Args:
          split: Name of the split.
          rows: All columns, as of `read_rows`.
          window: Rows to learn the relations of the columns from.
        """
        yield from _find_duplicates(split, rows, self.max_duplicates)
        rows, window = rows[self.related], window[self.related]
        yield from _find_constant(split, rows, window)
        relations = Relations(window)
        yield from _find_changed_relations(
            split, rows, relations, self.label, self.max_error_growth
        )
        yield from _find_label_unrelated(
            split, rows, window, relations, self.label, self.min_label_relation
        )


def parse_warn_only(entries: list[str]) -> frozenset[str]:
    """Checks the names of anomalies that are not to block.

    Raises:
      UserError: If an entry is neither a type of anomaly nor `feature:TYPE`.
    """
    for entry in entries:
        if entry.rpartition(":")[2] not in ANOMALY_TYPES:
            raise UserError(
                f"{entry!r} is not an anomaly; allowed are the types of tensorflow_metadata's "
                "AnomalyInfo, such as ENUM_TYPE_UNEXPECTED_STRING_VALUES, or feature:TYPE, or "
                f"{', '.join(sorted(OWN_TYPES))}"
            )
    return frozenset(entries)


def _find_unseen(split: str, new: _Statistics, expected: schema_pb2.Schema) -> Iterator[Anomaly]:
    """Warns of values outside a domain, so few that the schema lets them pass."""
    domains = {domain.name: set(domain.value) for domain in expected.string_domain}
    for feature in expected.feature:
        known = domains.get(feature.domain)
        values = categories(new, feature.name)
        if known is None or not values:
            continue
        unseen = {value: count for value, count in values.items() if value not in known}
        if (
            0
            < sum(unseen.values())
            <= (1 - feature.distribution_constraints.min_domain_mass) * sum(values.values())
        ):
            named = ", ".join(sorted(unseen)[:_SHOWN])
            text = f"{sum(unseen.values()):,.0f} rows have values outside the domain: {named}"
            yield Anomaly(split, feature.name, "UNSEEN_VALUES", _WARNING, text)


def _find_label_unusable(split: str, new: _Statistics, label: str) -> Iterator[Anomaly]:
    """Looks for labels that are not 0 and 1, both of them, in every row.

    Without, there is neither a share of 1 to start from nor an AUC. Labels of 0 to 1 are all 0 or 1
    where their sum is the number of those that are not 0.
    """
    (data,) = new.datasets
    rows = data.num_examples
    stats = next((f for f in data.features if f.path.step == [label]), None)
    known = getattr(stats, stats.WhichOneof("stats")).common_stats.num_non_missing if stats else 0
    if stats is None or not known:
        reason = f"none of {rows:,} rows has a label"
    elif not stats.HasField("num_stats"):
        reason = "the labels are no numbers"
    elif unknown := rows - known + max((h.num_nan for h in stats.num_stats.histograms), default=0):
        reason = f"{unknown:,.0f} of {rows:,} rows have no label"
    elif stats.num_stats.min < 0 or stats.num_stats.max > 1:
        reason = f"the labels are {stats.num_stats.min:g} to {stats.num_stats.max:g}, not 0 and 1"
    elif stats.num_stats.min == stats.num_stats.max:
        reason = f"all of {rows:,} labels are {stats.num_stats.min:g}; both 0 and 1 are needed"
    elif 1 - stats.num_stats.num_zeros / known - stats.num_stats.mean > _ROUNDING:
        reason = "some labels are between 0 and 1; each has to be 0 or 1"
    else:
        return
    text = f"{reason}. Are the labels of these months there yet?"
    yield Anomaly(split, label, "LABEL_UNUSABLE", _ERROR, text)


def _find_nothing_to_learn(
    split: str,
    new: _Statistics,
    features: Sequence[str],
) -> Iterator[Anomaly]:
    """Warns of features that have one value, or none, in all rows to learn from."""
    (data,) = new.datasets
    known = {feature.path.step[0]: feature for feature in data.features}
    for name in features:
        text = _describe_constant(known.get(name))
        if text:
            text += "; the model can learn nothing from it"
            yield Anomaly(split, name, "CONSTANT", _WARNING, text)


def _describe_constant(feature: statistics_pb2.FeatureNameStatistics | None) -> str:
    """What the only value of a feature is, or an empty string where it varies."""
    count = 0
    if feature is not None:
        count = getattr(feature, feature.WhichOneof("stats")).common_stats.num_non_missing
    if feature is None or not count:
        return "no row has a value"
    stats, texts = feature.num_stats, feature.string_stats
    if feature.HasField("num_stats"):
        if stats.std_dev > STEADY * max(abs(stats.min), abs(stats.max)):
            return ""
        return f"all of {count:,} values are {stats.min:g}, or as good as that"
    return f"all of {count:,} values are {texts.top_values[0].value!r}" if texts.unique == 1 else ""


def _find_near_thresholds(split: str, result: anomalies_pb2.Anomalies) -> Iterator[Anomaly]:
    """Warns of drift that does not block yet."""
    for feature, value, threshold in drifts(result):
        if _WARN_FROM * threshold < value <= threshold:
            text = f"drift {value:.3f}; more than {threshold:g} blocks"
            yield Anomaly(split, feature, "DRIFT_NEAR_THRESHOLD", _WARNING, text)


def _find_missing(
    split: str,
    new: _Statistics,
    served: _Statistics,
    limit: float,
) -> Iterator[Anomaly]:
    """Compares the shares of rows without a value."""
    now, before = missing_rates(new), missing_rates(served)
    rows = effective_rows(new.datasets[0].num_examples, served.datasets[0].num_examples)
    for feature in sorted(now.keys() & before.keys()):
        change = abs(now[feature] - before[feature])
        if change > _WARN_FROM * limit:
            text = (
                f"{now[feature]:.1%} of the rows have no value, {before[feature]:.1%} of the "
                f"served model's; a change by more than {limit:.0%} blocks"
            )
            granted = limit + share_by_chance(rows) if change > limit else limit
            if limit < change <= granted:
                text += f", of so few rows {granted:.0%}"
            severity = _ERROR if change > granted else _WARNING
            yield Anomaly(split, feature, "MISSING_RATE_CHANGED", severity, text)


def _find_vanished(
    split: str,
    new: _Statistics,
    served: _Statistics,
    expected: schema_pb2.Schema,
) -> Iterator[Anomaly]:
    """Looks for categories that many rows had and none has, as when one is renamed."""
    for feature in expected.feature:
        if not feature.drift_comparator.HasField("infinity_norm"):
            continue
        now, before = categories(new, feature.name), categories(served, feature.name)
        rows, rows_before = sum(now.values()), sum(before.values())
        for value in sorted(before.keys() - now.keys()):
            share = before[value] / rows_before
            if share >= _VANISHING_SHARE and improbable(1 - share, rows):
                text = f"no row has {value!r}; {share:.1%} of the served model's had"
                yield Anomaly(split, feature.name, "VALUE_VANISHED", _ERROR, text)


def _find_duplicates(split: str, rows: pd.DataFrame, limit: float) -> Iterator[Anomaly]:
    """Counts rows that repeat another in every column."""
    repeated = int(rows.duplicated().sum())
    if repeated:
        text = (
            f"{repeated:,} of {len(rows):,} rows repeat another; more than {limit:.1%} block. "
            "Was a day delivered twice?"
        )
        severity = _ERROR if is_more(repeated, len(rows), limit) else _WARNING
        yield Anomaly(split, DATA_SET, "DUPLICATE_ROWS", severity, text)


def _find_constant(split: str, rows: pd.DataFrame, before: pd.DataFrame) -> Iterator[Anomaly]:
    """Looks for features of one value that had several, too many to be chance."""
    for feature in rows:
        values = rows[feature].dropna()
        shares = before[feature].value_counts(normalize=True)
        if values.nunique() != 1 or len(shares) < 2:
            continue
        (value,) = values.unique()
        if improbable(shares.get(value, 0.0), len(values)):
            text = f"all of {len(values):,} values are {value}; in train they vary"
            yield Anomaly(split, feature, "CONSTANT", _ERROR, text)


def _find_changed_relations(
    split: str, rows: pd.DataFrame, relations: Relations, label: str, limit: float
) -> Iterator[Anomaly]:
    """Looks for numbers that no longer follow from the others, as in other units."""
    growths = relations.error_growth(rows)
    for name in sorted(growths, key=lambda name: -growths[name]):
        if name != label and growths[name] > _WARN_FROM * limit:
            text = (
                f"it follows from the other features with {growths[name]:.0f} times the squared "
                f"error of train; more than {limit:g} blocks. Are their units the same?"
            )
            severity = _ERROR if growths[name] > limit else _WARNING
            yield Anomaly(split, name, "RELATION_CHANGED", severity, text)


def _find_label_unrelated(
    split: str,
    rows: pd.DataFrame,
    before: pd.DataFrame,
    relations: Relations,
    label: str,
    share: float,
) -> Iterator[Anomaly]:
    """Compares how well the label follows from the features, as shuffled labels do not."""
    if not label or any(set(part[label].dropna()) != {0, 1} for part in (rows, before)):
        return  # what else a label may be, the schema says
    now, known = (
        _label_auc(part.dropna(subset=[label]), relations, label) for part in (rows, before)
    )
    positive = int(rows[label].sum())
    negative = int(rows[label].count()) - positive
    # The standard deviation of the AUC of labels that follow from nothing (Mann and Whitney, 1947).
    deviation = math.sqrt((positive + negative + 1) / (12 * positive * negative))
    needed = 0.5 + share * (known - 0.5)
    if now + 3 * deviation < needed:
        text = (
            f"a linear prediction from the other features has an AUC of {now:.3f}, {known:.3f} in "
            f"train; at least {needed:.3f} is needed. Do labels and rows belong together?"
        )
        yield Anomaly(split, label, "LABEL_UNRELATED", _ERROR, text)


def _label_auc(rows: pd.DataFrame, relations: Relations, label: str) -> float:
    return float(roc_auc_score(rows[label], relations.predict(rows, label)))


def nearest_drift(
    new: _Statistics,
    served: _Statistics,
    schema: schema_pb2.Schema,
) -> tuple[str, float, float] | None:
    """The drift that comes nearest to its limit, or is furthest beyond it.

    Args:
      new: Statistics of the new data.
      served: Statistics that the served model learned from.
      schema: What sets the limits.

    Returns:
      The feature, how far it has drifted, and its limit; None if the schema limits no drift.
    """
    return _nearest(tfdv.validate_statistics(new, schema, previous_statistics=served))


def _nearest(result: anomalies_pb2.Anomalies) -> tuple[str, float, float] | None:
    return max(drifts(result), key=lambda drift: drift[1] / drift[2], default=None)


def _describe_drift(result: anomalies_pb2.Anomalies) -> str:
    nearest = _nearest(result)
    if nearest is None:
        return "compared"
    feature, value, threshold = nearest
    return f"compared, nearest its limit {feature} ({value:.2g} of {threshold:g})"


def _write_anomalies(
    artifact: tfx.dsl.Artifact,
    split: str,
    result: anomalies_pb2.Anomalies,
    found: list[Anomaly],
) -> None:
    """Writes TFDV's anomalies and those found here, as ExampleValidator does."""
    for info in result.anomaly_info.values():
        info.severity = anomalies_pb2.AnomalyInfo.UNKNOWN
    for anomaly in found:
        of_data_set = anomaly.feature == DATA_SET
        info = result.dataset_anomaly_info if of_data_set else result.anomaly_info[anomaly.feature]
        info.severity = max(info.severity, anomaly.severity)
        if anomaly.type in OWN_TYPES:
            info.reason.add(
                type=anomalies_pb2.AnomalyInfo.CUSTOM_VALIDATION,
                short_description=anomaly.type,
                description=anomaly.description,
            )
    folder = os.path.join(artifact.uri, f"Split-{split}")
    tfx.dsl.io.fileio.makedirs(folder)
    with tfx.dsl.io.fileio.open(os.path.join(folder, "SchemaDiff.pb"), "wb") as file:
        file.write(result.SerializeToString())


def _describe(blocking: list[Anomaly]) -> str:
    lines = [f"{len(blocking)} blocking anomal{'y' if len(blocking) == 1 else 'ies'} in the data:"]
    lines += [f"  {anomaly}" for anomaly in blocking[:_SHOWN]]
    if len(blocking) > _SHOWN:
        lines.append(f"  and {len(blocking) - _SHOWN} more")
    return "\n".join(lines)
