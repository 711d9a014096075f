"""ServingMonitor: are requests and predictions still like the training data?"""

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
    """Compares a period of requests with the training data, the period before, and labels.

    A check alarms when its value is beyond its limit. The schema sets the limits of a feature:
    `skew_comparator` against the training data (`drift_comparator` if it is absent),
    `drift_comparator` against the period before. Limits allow for chance (see `ml.chance`). A
    period of fewer rows than `min_rows` is reported, and raises no alarm.

    Example:
      monitor = ServingMonitor(
          examples=example_gen.outputs["examples"],
          statistics=statistics_gen.outputs["statistics"],
          schema=schema_gen.outputs["schema"],
          served_statistics=served_model.outputs["statistics"],
          model_name="my_model",
          since=1380585600,
          until=1383264000,
          features='["distance", "temp"]',
          output="probability",
          label="tip",
          slices="[]",
          min_rows=1000,
          max_missing_change=0.35,
          max_unseen=0.01,
          max_error_growth=4.0,
          max_prediction_drift=0.05,
          max_mean_ratio=2.0,
          min_auc=0.6,
          min_slice_auc=0.5,
          min_slice_rows=1000,
          max_calibration=1.5,
      )

    Args:
      examples: Output of RequestExampleGen: `current` and perhaps `previous`.
      statistics: Statistics of these splits.
      schema: The schema of the features.
      served_statistics: Training statistics of the version.
      report: Component `outputs` contains: `report.json` and `report.html`.
      model_name: Name of the model.
      since: When the period begins, seconds since the Unix epoch.
      until: When it ends.
      features: JSON list of the features that a request has.
      output: Name of the model's output: the probability of the label 1.
      label: The feature that the model predicts, 0 or 1.
      slices: JSON list of the features to slice the AUC by.
      min_rows: Smallest number of rows that is evaluated.
      max_missing_change: Largest difference of the share of rows without a value from that of the
        training data, and of the previous period.
      max_unseen: Largest share of rows with a category that the training data does not have.
      max_error_growth: Largest growth since the previous period, as a factor, of the squared error
        of a numeric feature predicted from the other features.
      max_prediction_drift: Largest Jensen-Shannon divergence of the predictions from those of the
        previous period, in ten bins of equal width.
      max_mean_ratio: Largest ratio, either way, of the mean prediction and the label rate of the
        training data.
      min_auc: Lowest live AUC, less three standard deviations.
      min_slice_auc: The same for each slice.
      min_slice_rows: Slices with fewer labelled rows are left out, and so is the whole.
      max_calibration: Largest ratio, either way, of the mean prediction and the rate of the labels
        that have arrived.

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
    evaluated = len(current) >= min_rows
    period = Period(since, until)
    content = {
        "model": model_name,
        "version": requests.version,
        "since": show_time(since),
        "until": show_time(until),
        "previous": str(period.previous),
        "evaluated": evaluated,
        "alarms": [check.text for check in checks if check.alarms and evaluated],
        "notes": _notes(requests, period, evaluated, compared, min_rows, live),
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
    evaluated: bool,
    compared: bool,
    min_rows: int,
    live: list[Live],
) -> list[str]:
    """Notes on the data of the report."""
    rows, notes = requests.rows[CURRENT], []
    if not evaluated:
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
            f"{labelled:,} of {rows:,} requests ({labelled / rows:.1%}) have a label in the "
            f"spans {months}{few}."
        )
    for version, count in sorted(requests.other_versions.items()):
        notes.append(f"{count:,} more requests of the period went to version {version}.")
    if requests.without_prediction:
        notes.append(f"{requests.without_prediction:,} more rows lack the prediction.")
    return notes
