"""ServingMonitor: are requests and predictions still like the training data?"""

import json
from collections.abc import Sequence
from dataclasses import asdict

import pandas as pd
from tfx import v1 as tfx

from components.serving_monitor.checks import (
    BEFORE,
    TRAINING,
    check_drift,
    check_missing,
    check_relations,
    check_schema,
    check_skew,
    check_unseen,
)
from components.serving_monitor.live import Live, measure_live
from components.serving_monitor.page import render
from components.serving_monitor.prediction_checks import (
    check_live,
    check_means,
    check_prediction_drift,
)
from components.serving_monitor.predictions import Bins, describe
from components.serving_monitor.traffic import compare_traffic, encode_labels, row_weights
from components.serving_monitor.training_labels import TrainingLabels, read_training_labels
from ml.artifacts import MonitoringReport, load_schema, load_statistics
from ml.comparisons import only
from ml.examples import read_rows, read_vectors
from ml.request_log import Period, show_time
from ml.requests import CURRENT, PREVIOUS, Requests
from ml.statistics import restrict
from ml.tasks import Task
from ml.vectors import widths_of
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
    features: tfx.dsl.components.Parameter[str],
    output: tfx.dsl.components.Parameter[str],
    task: tfx.dsl.components.Parameter[str],
    slices: tfx.dsl.components.Parameter[str],
    min_rows: tfx.dsl.components.Parameter[int],
    max_missing_change: tfx.dsl.components.Parameter[float],
    max_unseen: tfx.dsl.components.Parameter[float],
    max_error_growth: tfx.dsl.components.Parameter[float],
    max_prediction_drift: tfx.dsl.components.Parameter[float],
    max_mean_ratio: tfx.dsl.components.Parameter[float],
    max_mean_shift: tfx.dsl.components.Parameter[float],
    thresholds: tfx.dsl.components.Parameter[str],
    slice_thresholds: tfx.dsl.components.Parameter[str],
    min_slice_rows: tfx.dsl.components.Parameter[int],
    challenger: tfx.dsl.components.Parameter[str],
    traffic: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Examples] = None,
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
          features='["distance", "temp"]',
          output="probability",
          task='{"kind": "binary", "label": "tip"}',
          slices="[]",
          min_rows=1000,
          max_missing_change=0.35,
          max_unseen=0.01,
          max_error_growth=4.0,
          max_prediction_drift=0.05,
          max_mean_ratio=2.0,
          max_mean_shift=0.5,
          thresholds='{"auc": 0.6, "calibration": [0.7, 1.5]}',
          slice_thresholds='{"auc": 0.5}',
          min_slice_rows=1000,
          challenger='{}',
      )

    Args:
      examples: Output of RequestExampleGen: `current` and perhaps `previous`.
      statistics: Statistics of these splits.
      schema: The schema of the features.
      served_statistics: Training statistics of the version.
      report: Component `outputs` contains: `report.json` and `report.html`.
      model_name: Name of the model.
      features: JSON list of the features that a request has.
      output: Name of the model's output.
      task: JSON of what the model predicts; see `Task.to_json`.
      slices: JSON list of the features to slice the live metrics by; those that no request has are
        left out.
      min_rows: Smallest number of rows that is evaluated.
      max_missing_change: Largest difference of the share of rows without a value from that of the
        training data, and of the previous period.
      max_unseen: Largest share of rows with a category that the training data does not have.
      max_error_growth: Largest growth since the previous period, as a factor, of the squared error
        of a numeric feature predicted from the other features.
      max_prediction_drift: Largest Jensen-Shannon divergence of the predictions from those of the
        previous period: of a probability in ten bins of equal width, of several classes by the
        predicted class, of a number in the tenths of the training labels.
      max_mean_ratio: Largest ratio, either way, of the mean probability of a class and its share of
        the training labels.
      max_mean_shift: Largest difference of the mean prediction of a regression from the mean
        training label, in standard deviations of the label.
      thresholds: JSON of the thresholds of live metrics, see `Task.thresholds`; three standard
        deviations allow for chance.
      slice_thresholds: The same for each slice.
      min_slice_rows: Slices with fewer labelled rows are left out, and so is the whole.
      challenger: JSON of the settings of `compare_traffic`.
      traffic: Output of TrafficExampleGen; None to compare no challenger.

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
    names, learned = json.loads(features), Task.from_json(task)
    expected = load_schema(schema)
    statistics_by_split = {
        split: restrict(load_statistics(statistics, split), names)
        for split in json.loads(examples.split_names)
    }
    vectors = widths_of(expected)
    single = [name for name in names if name not in vectors]
    columns = only([*single, learned.label, learned.example_weight], expected)
    rows = {split: read_rows(examples, split, columns) for split in statistics_by_split}
    predicted = {
        split: read_vectors(examples, split, PREDICTION_PREFIX + output, learned.outputs)
        for split in rows
    }
    current, before = rows[CURRENT], rows.get(PREVIOUS, pd.DataFrame())
    compared = len(before) >= min_rows
    schema_of_features = only(names, expected)
    now = statistics_by_split[CURRENT]
    bins = Bins.choose(learned, served, predicted[PREVIOUS if compared else CURRENT])
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
        if single:
            checks += check_relations(current[single], before[single], max_error_growth)
        checks += check_prediction_drift(
            bins, predicted[CURRENT], predicted[PREVIOUS], max_prediction_drift
        )
    training = read_training_labels(learned, served)
    checks += check_means(learned, predicted[CURRENT], training, max_mean_ratio, max_mean_shift)
    sliced = [name for name in json.loads(slices) if name in single]
    live = measure_live(
        learned,
        current,
        encode_labels(learned, current[learned.label]),
        predicted[CURRENT],
        row_weights(learned, current),
        sliced,
        min_slice_rows,
    )
    comparison = None
    if traffic:
        comparison = compare_traffic(
            learned,
            traffic,
            expected,
            output,
            sliced,
            min_slice_rows,
            json.loads(challenger),
        )
    limits = {
        key: json.loads(text) for key, text in (("all", thresholds), ("slice", slice_thresholds))
    }
    checks += check_live(learned, live, limits["all"], limits["slice"])
    checks.sort(key=lambda check: (not check.alarms, -check.closeness))
    evaluated = len(current) >= min_rows
    period = Period(requests.since, requests.until)
    content = {
        "model": model_name,
        "version": requests.version,
        "since": show_time(period.since),
        "until": show_time(period.until),
        "previous": str(period.previous),
        "evaluated": evaluated,
        "alarms": [check.text for check in checks if check.alarms and evaluated],
        "notes": _notes(learned, requests, period, evaluated, compared, min_rows, live),
        "requests": asdict(requests),
        "headline": {"name": learned.headline.name, "title": learned.headline.title},
        "titles": {metric.name: metric.title for metric in learned.metrics},
        "predictions": {
            "bins": bins.names,
            "training": _training_means(learned, output, training),
            **{
                split: describe(learned, output, matrix, bins)
                for split, matrix in predicted.items()
            },
        },
        "live": [asdict(measured) for measured in live],
        "comparison": comparison,
        "checks": [
            {**asdict(check), "alarms": check.alarms, "closeness": check.closeness}
            for check in checks
        ],
    }
    report.write(content)
    with tfx.dsl.io.fileio.open(report.page, "w") as file:
        file.write(render(content))


def _training_means(
    task: Task, output: str, training: Sequence[TrainingLabels]
) -> dict[str, float]:
    """Mean training label by output, of those that the statistics tell apart."""
    names = task.class_names if task.outputs > 1 else (output,)
    return {names[of.outputs[0]]: of.mean for of in training if len(of.outputs) == 1}


def _notes(
    task: Task,
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
        notes.append(
            f"No labels of the period have arrived: there is no live {task.headline.title}."
        )
    else:
        labelled = requests.labelled[CURRENT]
        few = "" if live else f": too few for a live {task.headline.title}"
        notes.append(
            f"{labelled:,} of {rows:,} requests ({labelled / rows:.1%}) have a label in the "
            f"spans {months}{few}."
        )
    for version, count in sorted(requests.other_versions.items()):
        notes.append(f"{count:,} more requests of the period went to version {version}.")
    if requests.without_prediction:
        notes.append(f"{requests.without_prediction:,} more rows lack the prediction.")
    return notes
