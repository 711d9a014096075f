"""ServingMonitor: is what a model is asked, and what it answers, still what it learned from?"""

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import tensorflow_data_validation as tfdv
from sklearn.metrics import roc_auc_score
from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2, statistics_pb2
from tfx import v1 as tfx

from components.request_example_gen import CURRENT, PREVIOUS, Requests
from components.serving_monitor.page import render
from ml.artifacts import MonitoringReport, load_schema, load_statistics
from ml.chance import (
    divergence_by_chance,
    drift_by_chance,
    effective_rows,
    is_more,
    jensen_shannon,
    share_by_chance,
)
from ml.comparisons import categories, drifts, missing_rates, only, read_anomalies
from ml.relations import Relations, read_rows
from ml.request_log import Period, show_time
from storage.errors import UserError
from storage.names import PREDICTION_PREFIX

# What a check compares with.
SCHEMA = "schema"
TRAINING = "training"
BEFORE = "previous period"
LABELS = "labels"

_ENVIRONMENT = "SERVING"
_BINS = 10
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
# TFDV counts so many categories of a feature; where there are more, an unknown one may be known.
_COUNTED_CATEGORIES = 1000

_Statistics: TypeAlias = statistics_pb2.DatasetFeatureStatisticsList


@tfx.dsl.components.component
def ServingMonitor(
    examples: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Examples],
    statistics: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.ExampleStatistics],
    schema: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Schema],
    served_statistics: tfx.dsl.components.InputArtifact[
        tfx.types.standard_artifacts.ExampleStatistics
    ],
    report: tfx.dsl.components.OutputArtifact[MonitoringReport],
    model_name: tfx.dsl.components.Parameter[str],
    since: tfx.dsl.components.Parameter[int],
    until: tfx.dsl.components.Parameter[int],
    features: tfx.dsl.components.Parameter[str],
    output: tfx.dsl.components.Parameter[str],
    label: tfx.dsl.components.Parameter[str],
    slices: tfx.dsl.components.Parameter[str],
    min_rows: tfx.dsl.components.Parameter[int],
    max_missing_change: tfx.dsl.components.Parameter[float],
    max_unseen: tfx.dsl.components.Parameter[float],
    max_error_growth: tfx.dsl.components.Parameter[float],
    max_prediction_drift: tfx.dsl.components.Parameter[float],
    max_mean_ratio: tfx.dsl.components.Parameter[float],
    min_auc: tfx.dsl.components.Parameter[float],
    min_slice_auc: tfx.dsl.components.Parameter[float],
    min_slice_rows: tfx.dsl.components.Parameter[int],
    max_calibration: tfx.dsl.components.Parameter[float],
) -> None:
    """Compares a period of requests with the training data, with the period before and with labels.

    A check alarms when its value is beyond its limit. How far a feature may be from the training
    data is said by the schema: by its `skew_comparator`, or where it has none by its
    `drift_comparator`; how far from the period before, by the latter. What chance alone explains in
    so few rows is added to a limit (see `ml.chance`). A period of fewer rows than
    `min_rows` is reported, and raises no alarm.

    Args:
      examples: What RequestExampleGen made: `current` and perhaps `previous`.
      statistics: Statistics of these splits.
      schema: What the features should be.
      served_statistics: Statistics of the split `train` that the version learned from.
      report: Component `outputs` contains: `report.json` and `report.html`.
      model_name: Name of the model.
      since: When the period begins, seconds since the Unix epoch.
      until: When it ends.
      features: JSON list of the features that a request has.
      output: The model's output that is looked at: the probability of the label 1.
      label: The feature that the model predicts, 0 or 1.
      slices: JSON list of the features by whose values the AUC is measured too.
      min_rows: Fewest rows that are judged.
      max_missing_change: How far the share of rows without a value may be from the training data's,
        and from the previous period's.
      max_unseen: Share of rows that may have a category that the training data does not have.
      max_error_growth: How many times worse (in squared error) a number may follow from the other
        features than it did in the previous period.
      max_prediction_drift: Jensen-Shannon divergence that the predictions may have from those of
        the previous period, in ten bins of equal width.
      max_mean_ratio: How many times higher or lower the mean prediction may be than the label rate
        of the training data.
      min_auc: Lowest live AUC. Three standard deviations are granted.
      min_slice_auc: The same for each slice.
      min_slice_rows: Slices with fewer labelled rows are left out, and so is the whole.
      max_calibration: How many times higher or lower the mean prediction may be than the label rate
        of the labels that have arrived.

    Raises:
      UserError: If the version has no training statistics.
    """
    requests = Requests.from_examples(examples)
    served = load_statistics(served_statistics, "train")
    if served is None:
        raise UserError(
            f"version {requests.version} of {model_name} has no training statistics in the Serving "
            "directory to compare with"
        )
    names = json.loads(features)
    prediction = PREDICTION_PREFIX + output
    expected = load_schema(schema)
    statistics_by_split = {
        split: _restrict(load_statistics(statistics, split), names)
        for split in json.loads(examples.split_names)
    }
    columns = only([*names, label], expected)
    columns.feature.add(name=prediction, type=schema_pb2.FLOAT)
    rows = {split: read_rows(examples, split, columns) for split in statistics_by_split}
    current, before = rows[CURRENT], rows.get(PREVIOUS, pd.DataFrame())
    compared = len(before) >= min_rows
    schema_of_features = only(names, expected)
    now = statistics_by_split[CURRENT]
    checks = [
        *_check_schema(now, schema_of_features),
        *_check_skew(now, _restrict(served, names), schema_of_features),
        *_check_missing(now, served, names, TRAINING, max_missing_change),
        *_check_unseen(now, served, names, max_unseen),
    ]
    if compared:
        past = statistics_by_split[PREVIOUS]
        checks += _check_drift(now, past, schema_of_features)
        checks += _check_missing(now, past, names, BEFORE, max_missing_change)
        checks += _check_relations(current[names], before[names], max_error_growth)
        checks += _check_prediction_drift(
            current[prediction], before[prediction], max_prediction_drift
        )
    rate = _label_rate(served, label)
    checks += _check_ratio(
        "mean prediction", float(current[prediction].mean()), rate, TRAINING, max_mean_ratio
    )
    live = _measure_live(current, prediction, label, json.loads(slices), min_slice_rows)
    checks += _check_live(live, min_auc, min_slice_auc, max_calibration)
    checks.sort(key=lambda check: (not check.alarms, -check.closeness))
    judged = len(current) >= min_rows
    period = Period(since, until)
    content = {
        "model": model_name,
        "version": requests.version,
        "since": show_time(since),
        "until": show_time(until),
        "previous": str(period.previous),
        "judged": judged,
        "alarms": [check.text for check in checks if check.alarms and judged],
        "notes": _notes(requests, period, judged, compared, min_rows, live),
        "requests": asdict(requests),
        "predictions": {
            "training_label_rate": rate,
            **{split: _describe(frame[prediction]) for split, frame in rows.items()},
        },
        "live": [asdict(measured) for measured in live],
        "checks": [{**asdict(check), "alarms": check.alarms} for check in checks],
    }
    report.write(content)
    with tfx.dsl.io.fileio.open(report.page, "w") as file:
        file.write(render(content))


@dataclass(frozen=True)
class Check:
    """One value that was compared with its limit.

    Attributes:
      kind: What was measured.
      subject: Of which feature or slice; "" of all.
      against: What it was compared with.
      value: What came out.
      limit: What is allowed.
      at_least: Whether the limit is the least that is allowed, not the most.
      text: A sentence.
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
        """Whether the value is beyond the limit; one that is no number is."""
        inside = self.value >= self.limit if self.at_least else self.value <= self.limit
        return not inside

    @property
    def closeness(self) -> float:
        """The value in units of its limit, from 1 on beyond it."""
        if self.at_least:
            return self.limit / self.value if self.value > 0 else math.inf
        return self.value / self.limit if self.limit > 0 else math.inf


@dataclass(frozen=True)
class Live:
    """What a model was worth, by the labels that have arrived.

    Attributes:
      name: "Overall", or `<feature>:<value>`.
      rows: Rows with a label.
      auc: Their AUC.
      deviation: The standard deviation that the AUC of so many rows has where it is 0.5.
      mean_prediction: Mean of what was predicted.
      label_rate: Mean of the labels.
    """

    name: str
    rows: int
    auc: float
    deviation: float
    mean_prediction: float
    label_rate: float


OVERALL = "Overall"


def _restrict(statistics: _Statistics, names: list[str]) -> _Statistics:
    """The statistics of some features alone."""
    kept = _Statistics()
    kept.CopyFrom(statistics)
    (data,) = kept.datasets
    features = [feature for feature in data.features if feature.path.step[0] in names]
    del data.features[:]
    data.features.extend(features)
    return kept


def _check_schema(now: _Statistics, schema: schema_pb2.Schema) -> Iterator[Check]:
    """Types, presence, ranges and domains; each anomaly of TFDV's is beyond any limit."""
    plain = schema_pb2.Schema()
    plain.CopyFrom(schema)
    for feature in plain.feature:
        feature.ClearField("drift_comparator")
        feature.ClearField("skew_comparator")
    found = tfdv.validate_statistics(now, plain, environment=_ENVIRONMENT)
    for anomaly in read_anomalies(CURRENT, found, schema):
        serious = anomaly.severity == anomalies_pb2.AnomalyInfo.ERROR
        text = f"{anomaly.feature}: {anomaly.type}: {anomaly.description}"
        yield Check(anomaly.type, anomaly.feature, SCHEMA, float(serious), 0.0, text)


def _check_skew(
    now: _Statistics, served: _Statistics, schema: schema_pb2.Schema
) -> Iterator[Check]:
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


def _check_drift(now: _Statistics, past: _Statistics, schema: schema_pb2.Schema) -> Iterator[Check]:
    of_drift = schema_pb2.Schema()
    of_drift.CopyFrom(schema)
    for feature in of_drift.feature:
        feature.ClearField("skew_comparator")
    found = tfdv.validate_statistics(
        now, of_drift, environment=_ENVIRONMENT, previous_statistics=past
    )
    for name, value, limit in _granted(drifts(found), now, past, of_drift):
        text = f"{name}: drift {value:.3f} against the previous period; {limit:.3g} is allowed"
        yield Check("drift", name, BEFORE, value, limit, text)


def _granted(
    measured: Iterable[tuple[str, float, float]],
    now: _Statistics,
    past: _Statistics,
    schema: schema_pb2.Schema,
) -> Iterator[tuple[str, float, float]]:
    """Drifts with their limits, which are higher by what chance explains."""
    features = {feature.name: feature for feature in schema.feature}
    for name, value, limit in measured:
        chance = drift_by_chance(features[name], value, now, past) if value > limit else 0.0
        yield name, value, limit + chance


def _check_missing(
    now: _Statistics, past: _Statistics, names: list[str], against: str, limit: float
) -> Iterator[Check]:
    rates, rates_before = missing_rates(now), missing_rates(past)
    rows = effective_rows(now.datasets[0].num_examples, past.datasets[0].num_examples)
    for name in names:
        # What no row has, TFDV has no statistics of.
        rate, before = rates.get(name, 1.0), rates_before.get(name, 1.0)
        text = (
            f"{name}: {rate:.1%} of the rows have no value, {before:.1%} in the {_named(against)}; "
            f"a change by {limit:.0%} is allowed"
        )
        change = abs(rate - before)
        granted = limit + share_by_chance(rows) if change > limit else limit
        yield Check("missing", name, against, change, granted, text)


def _check_unseen(
    now: _Statistics, served: _Statistics, names: list[str], limit: float
) -> Iterator[Check]:
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


def _check_relations(now: pd.DataFrame, past: pd.DataFrame, limit: float) -> Iterator[Check]:
    for name, growth in Relations(past).error_growth(now).items():
        text = (
            f"{name}: it follows from the other features with {growth:.1f} times the squared error "
            f"of the previous period; {limit:g} times is allowed. Are their units the same?"
        )
        yield Check("relation", name, BEFORE, growth, limit, text)


def _check_prediction_drift(now: pd.Series, past: pd.Series, limit: float) -> Iterator[Check]:
    shares = _shares(past)
    value = float(jensen_shannon(_shares(now), shares))
    if value > limit:
        limit += divergence_by_chance(shares, effective_rows(len(now), len(past)))
    text = (
        f"predictions: divergence {value:.3f} from those of the previous period; {limit:.3g} is "
        "allowed"
    )
    yield Check("prediction drift", "", BEFORE, value, limit, text)


def _check_ratio(
    kind: str, mean: float, rate: float | None, against: str, limit: float
) -> Iterator[Check]:
    """Compares a mean prediction with a label rate, whichever is the higher."""
    if rate is None:
        return
    ratio = max(mean / rate, rate / mean) if rate > 0 and mean > 0 else math.inf
    text = (
        f"{kind}: {mean:.3f}, the label rate of the {_named(against)} is {rate:.3f}; {limit:g} "
        "times higher or lower is allowed"
    )
    yield Check(kind, "", against, ratio, limit, text)


def _check_live(
    live: list[Live], min_auc: float, min_slice_auc: float, max_calibration: float
) -> Iterator[Check]:
    for measured in live:
        limit = min_auc if measured.name == OVERALL else min_slice_auc
        text = (
            f"{measured.name}: live AUC {measured.auc:.3f} of {measured.rows:,} rows; at least "
            f"{limit:g} is required, less {3 * measured.deviation:.3f} for chance"
        )
        granted = limit - 3 * measured.deviation
        subject = "" if measured.name == OVERALL else measured.name
        yield Check("live AUC", subject, LABELS, measured.auc, granted, text, at_least=True)
        if measured.name == OVERALL:
            yield from _check_ratio(
                "calibration",
                measured.mean_prediction,
                measured.label_rate,
                LABELS,
                max_calibration,
            )


def _named(against: str) -> str:
    return {TRAINING: "training data", LABELS: "labels that have arrived"}.get(against, against)


def _measure_live(
    rows: pd.DataFrame, prediction: str, label: str, slices: list[str], min_rows: int
) -> list[Live]:
    """AUC overall, then by slice, the largest first; nothing where no label has arrived."""
    known = rows.dropna(subset=[label])
    parts = [(OVERALL, known)]
    for column in slices:
        for value, part in known.groupby(column):
            shown = value.decode(errors="replace") if isinstance(value, bytes) else value
            parts.append((f"{column}:{shown}", part))
    parts.sort(key=lambda part: -len(part[1]))
    return [
        measured
        for name, part in parts
        if len(part) >= min_rows and (measured := _measure(name, part[label], part[prediction]))
    ]


def _measure(name: str, labels: pd.Series, predictions: pd.Series) -> Live | None:
    positive, rows = int((labels == 1).sum()), len(labels)
    negative = rows - positive
    if not positive or not negative:
        return None
    # Of the AUC of labels that follow from nothing (Mann and Whitney, 1947).
    deviation = math.sqrt((rows + 1) / (12 * positive * negative))
    auc = float(roc_auc_score(labels, predictions))
    return Live(name, rows, auc, deviation, float(predictions.mean()), positive / rows)


def _shares(predictions: pd.Series) -> np.ndarray:
    """The share of predictions in each of ten bins from 0 to 1; what is outside is at its end."""
    counts, _ = np.histogram(np.clip(predictions, 0, 1), bins=_BINS, range=(0, 1))
    return counts / len(predictions)


def _describe(predictions: pd.Series) -> dict[str, Any]:
    quantiles = predictions.quantile(list(_QUANTILES))
    return {
        "rows": len(predictions),
        "mean": float(predictions.mean()),
        "quantiles": {str(share): float(value) for share, value in quantiles.items()},
        "histogram": _shares(predictions).tolist(),
    }


def _label_rate(served: _Statistics, label: str) -> float | None:
    """The mean of the label in the training data."""
    (data,) = served.datasets
    means = [f.num_stats.mean for f in data.features if f.path.step[0] == label]
    return float(means[0]) if means else None


def _notes(
    requests: Requests,
    period: Period,
    judged: bool,
    compared: bool,
    min_rows: int,
    live: list[Live],
) -> list[str]:
    """What a reader has to know of what the report is made of."""
    rows, notes = requests.rows[CURRENT], []
    if not judged:
        notes.append(f"{rows:,} rows are too few to judge by: {min_rows:,} are needed.")
    if not compared:
        had = requests.rows.get(PREVIOUS, 0)
        notes.append(
            f"The previous period ({period.previous}) has {had:,} rows of this version, fewer than "
            f"{min_rows:,}: nothing is compared with it."
        )
    months = ", ".join(map(str, requests.label_months.get(CURRENT, [])))
    if not months:
        notes.append("No labels of the period have arrived: there is no live AUC.")
    else:
        labelled = requests.labelled[CURRENT]
        few = "" if live else ": too few for a live AUC"
        notes.append(
            f"{labelled:,} of {rows:,} requests ({labelled / rows:.1%}) found their label in the "
            f"spans {months}{few}."
        )
    for version, count in sorted(requests.other_versions.items()):
        notes.append(f"{count:,} more rows of the period were answered by version {version}.")
    if requests.without_prediction:
        notes.append(f"{requests.without_prediction:,} more rows have no such prediction.")
    return notes
