"""ServingMonitor: are requests and predictions still like what the model learned from?"""

import json
from dataclasses import asdict

import pandas as pd
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx import v1 as tfx

from components.serving_monitor.checks import (
    BEFORE,
    TRAINING,
    check_drift,
    check_live,
    check_missing,
    check_prediction_drift,
    check_ratio,
    check_relations,
    check_schema,
    check_skew,
    check_unseen,
)
from components.serving_monitor.live import Live, measure_live
from components.serving_monitor.page import render
from components.serving_monitor.predictions import describe
from ml.artifacts import MonitoringReport, load_schema, load_statistics
from ml.comparisons import only
from ml.examples import read_rows
from ml.request_log import Period, show_time
from ml.requests import CURRENT, PREVIOUS, Requests
from ml.statistics import Statistics, find_feature, restrict
from storage.errors import UserError
from storage.names import PREDICTION_PREFIX


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
      min_rows: Fewest rows that are evaluated.
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
        split: restrict(load_statistics(statistics, split), names)
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
        *check_schema(now, schema_of_features),
        *check_skew(now, restrict(served, names), schema_of_features),
        *check_missing(now, served, names, TRAINING, max_missing_change),
        *check_unseen(now, served, names, max_unseen),
    ]
    if compared:
        past = statistics_by_split[PREVIOUS]
        checks += check_drift(now, past, schema_of_features)
        checks += check_missing(now, past, names, BEFORE, max_missing_change)
        checks += check_relations(current[names], before[names], max_error_growth)
        checks += check_prediction_drift(
            current[prediction], before[prediction], max_prediction_drift
        )
    rate = _label_rate(served, label)
    checks += check_ratio(
        "mean prediction", float(current[prediction].mean()), rate, TRAINING, max_mean_ratio
    )
    live = measure_live(current, prediction, label, json.loads(slices), min_slice_rows)
    checks += check_live(live, min_auc, min_slice_auc, max_calibration)
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
            **{split: describe(frame[prediction]) for split, frame in rows.items()},
        },
        "live": [asdict(measured) for measured in live],
        "checks": [{**asdict(check), "alarms": check.alarms} for check in checks],
    }
    report.write(content)
    with tfx.dsl.io.fileio.open(report.page, "w") as file:
        file.write(render(content))


def _label_rate(served: Statistics, label: str) -> float | None:
    """The mean of the label in the training data."""
    feature = find_feature(served, label)
    return float(feature.num_stats.mean) if feature else None


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
        notes.append(f"{rows:,} rows are too few to evaluate: {min_rows:,} are needed.")
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
