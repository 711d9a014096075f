"""Compares predictions with limits: those of the training labels, the period before, and labels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from components.serving_monitor.checks import BEFORE, LABELS, TRAINING, Check
from components.serving_monitor.deviations import ratio_deviation
from components.serving_monitor.live import OVERALL, Live
from components.serving_monitor.predictions import Bins
from components.serving_monitor.training_labels import TrainingLabels
from ml.chance import divergence_by_chance, effective_rows, jensen_shannon
from ml.metrics import CALIBRATION, Bound, Metric
from ml.tasks import MULTICLASS, REGRESSION, Task

# So many standard deviations are granted to chance.
_GRANTED = 3
_MOST_NAMES = 3


def check_prediction_drift(
    bins: Bins, now: np.ndarray, past: np.ndarray, limit: float
) -> Iterator[Check]:
    """The divergence of the predictions [rows, outputs] from those of the previous period."""
    # Those that are no number have a bin of their own: SciPy makes the sum of the others 1.
    current, shares = bins.shares(now), bins.shares(past)
    value = float(jensen_shannon(current, shares))
    if value > limit:
        limit += divergence_by_chance(shares, effective_rows(len(now), len(past)))
    text = (
        f"predictions: divergence {value:.3f} from those of the previous period; {limit:.3g} is "
        "allowed"
    )
    yield Check("prediction drift", "", BEFORE, value, limit, text)


def check_means(
    task: Task,
    predictions: np.ndarray,
    training: Sequence[TrainingLabels],
    max_ratio: float,
    max_shift: float,
) -> Iterator[Check]:
    """Mean predictions of a period, compared with the training labels.

    Args:
      task: The task.
      predictions: [rows, outputs].
      training: The training labels.
      max_ratio: Largest ratio, either way, of the mean probability and the share of a class.
      max_shift: Largest difference of the mean prediction of a regression and the mean label, in
        standard deviations of the label.
    """
    finite = predictions[np.isfinite(predictions).all(axis=1)]
    if not len(finite):
        return
    for labels in training:
        sums = finite[:, list(labels.outputs)].sum(axis=1)
        mean, error = float(sums.mean()), float(sums.std() / math.sqrt(len(sums)))
        if task.kind == REGRESSION:
            if labels.deviation > 0:
                yield _shift(mean, error, labels, max_shift)
            continue
        subject = _class_names(task, labels.outputs) if task.kind == MULTICLASS else ""
        text = (
            f"{subject + ': ' if subject else ''}mean prediction {mean:.3f}, the share of the "
            f"training labels is {labels.mean:.3f}; {max_ratio:g} times higher or lower is allowed"
        )
        ratio = _ratio_either_way(mean, labels.mean)
        count = round(labels.mean * labels.rows)
        chance = math.hypot(error / mean if mean else 0, ratio_deviation(1, count, labels.rows))
        limit = max_ratio * (1 + _GRANTED * chance)
        yield Check("mean prediction", subject, TRAINING, ratio, limit, text)


def _shift(mean: float, error: float, labels: TrainingLabels, limit: float) -> Check:
    value = abs(mean - labels.mean) / labels.deviation
    limit += _GRANTED * error / labels.deviation
    text = (
        f"mean prediction {mean:.4g}, the mean of the training labels is {labels.mean:.4g}: "
        f"{value:.2f} standard deviations of the label; {limit:.3g} are allowed"
    )
    return Check("mean prediction", "", TRAINING, value, limit, text)


def check_live(
    task: Task,
    live: Sequence[Live],
    thresholds: Mapping[str, Bound],
    slice_thresholds: Mapping[str, Bound],
) -> Iterator[Check]:
    """The metrics of the task on the labels that have arrived.

    A metric that the rows do not define, as an AUC of one class, is not checked.
    """
    for measured in live:
        overall = measured.name == OVERALL
        for name, threshold in (thresholds if overall else slice_thresholds).items():
            metric = task.metric(name)
            if metric is CALIBRATION and task.kind == MULTICLASS:
                yield from _check_calibration(task, measured, threshold)
                continue
            value, deviation = measured.metrics[name], measured.deviations[name]
            if value is not None:
                subject = "" if overall else measured.name
                yield _check_metric(metric, measured, subject, value, deviation or 0.0, threshold)


def _check_calibration(task: Task, measured: Live, threshold: Bound) -> Iterator[Check]:
    """The calibration of the class that is nearest to its limits, with its own share of chance."""
    checks = []
    for class_id, (mean, share) in enumerate(
        zip(measured.mean_predictions, measured.mean_labels, strict=True)
    ):
        if share > 0:
            place = "" if measured.name == OVERALL else f"{measured.name}, "
            subject = f"{place}{_class_names(task, (class_id,))}"
            deviation = ratio_deviation(mean / share, round(share * measured.rows), measured.rows)
            checks.append(
                _check_metric(CALIBRATION, measured, subject, mean / share, deviation, threshold)
            )
    yield from sorted(checks, key=lambda check: check.closeness)[-1:]


def _check_metric(
    metric: Metric,
    measured: Live,
    subject: str,
    value: float,
    deviation: float,
    threshold: Bound,
) -> Check:
    """One check of a metric; with two limits that of the nearer one."""
    low, high = _limits(metric, threshold)
    granted = _GRANTED * deviation
    checks = []
    for limit, at_least in ((low, True), (high, False)):
        if limit is None:
            continue
        word, sign = ("at least", "less") if at_least else ("at most", "plus")
        text = (
            f"{subject or measured.name}: live {metric.title} {value:.4g} of {measured.rows:,} "
            f"rows; {word} {limit:g} is required, {sign} {granted:.3g} for chance"
        )
        reached = limit - granted if at_least else limit + granted
        kind = f"live {metric.title}"
        checks.append(Check(kind, subject, LABELS, value, reached, text, at_least))
    return max(checks, key=lambda check: (check.alarms, check.closeness))


def _limits(metric: Metric, bound: Bound) -> tuple[float | None, float | None]:
    """The lowest and the highest value that is allowed; None for no such limit."""
    if isinstance(bound, tuple | list):  # JSON has no tuples.
        low, high = bound
        return low, high
    return (bound, None) if metric.direction == 1 else (None, bound)


def _ratio_either_way(mean: float, share: float) -> float:
    return max(mean / share, share / mean) if share > 0 and mean > 0 else math.inf


def _class_names(task: Task, class_ids: Sequence[int]) -> str:
    shown = ", ".join(task.class_names[class_id] for class_id in class_ids[:_MOST_NAMES])
    return f"class {shown}" + (", ..." if len(class_ids) > _MOST_NAMES else "")
