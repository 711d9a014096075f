"""DataGate's checks of labels and example weights, by the task."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
import pandas as pd
from sklearn.linear_model import Ridge

from ml.baselines import Sample, explained_shares, targets_of
from ml.chance import auc_deviation
from ml.comparisons import ERROR, WARNING, Anomaly
from ml.relations import Encoding
from ml.scores import headline
from ml.tasks import BINARY, MULTICLASS, REGRESSION, Task
from storage.errors import DataError

# Values that a message shows.
_SHOWN = 5
# A class of fewer rows can hardly be learned, or evaluated.
_FEW_ROWS = 10
# Share of the label that a column may predict alone; and from where that is a warning.
_LEAK, _NEAR_LEAK = 0.98, 0.9
_ROWS_TO_TELL_A_LEAK = 50
_RIDGE = 1e-3
_SEED = 7
_ARRIVED = "Have the labels of these rows arrived?"


def find_label_unusable(split: str, labels: np.ndarray, task: Task) -> Iterator[Anomaly]:
    """Checks that every row has a label that the task allows, and that labels differ.

    Args:
      split: Name of the split.
      labels: Raw labels, [rows]; NaN or None where there is none.
      task: The task.
    """
    if reason := _why_unusable(labels, task):
        yield Anomaly(split, task.label, "LABEL_UNUSABLE", ERROR, reason)


def _why_unusable(labels: np.ndarray, task: Task) -> str:
    rows = len(labels)
    absent = int(pd.isna(labels).sum())
    if absent == rows:
        return f"none of {rows:,} rows has a label. {_ARRIVED}"
    if absent:
        return f"{absent:,} of {rows:,} rows have no label, or none that is finite. {_ARRIVED}"
    try:
        encoded = task.encode(labels)
    except DataError as error:
        return f"{error}. Give numbers, or set `task` to classes"
    foreign = np.isnan(encoded)
    if foreign.any():
        return _describe_foreign(labels[foreign], rows, task)
    if (encoded == encoded[0]).all():
        needed = "numbers that differ" if task.kind == REGRESSION else "at least two classes"
        return f"all of {rows:,} labels are {_text(labels[0])}; {needed} are needed. {_ARRIVED}"
    return ""


def _describe_foreign(foreign: np.ndarray, rows: int, task: Task) -> str:
    """Describes labels that are none of the classes, the most frequent first."""
    counts = pd.Series(foreign).value_counts()
    shown = [f"{_text(value)} ({count:,} rows)" for value, count in counts[:_SHOWN].items()]
    if len(counts) > _SHOWN:
        shown.append(f"and {len(counts) - _SHOWN:,} more values")
    classes = [*map(repr, task.classes[:_SHOWN])]
    if len(task.classes) > _SHOWN:
        classes.append(f"and {len(task.classes) - _SHOWN:,} more")
    return (
        f"{len(foreign):,} of {rows:,} labels are none of the classes {', '.join(classes)}: "
        f"{', '.join(shown)}. Correct the labels, or list their values in `classes`"
    )


def find_classes_to_doubt(
    split: str, labels: np.ndarray, train: np.ndarray | None, task: Task
) -> Iterator[Anomaly]:
    """Finds classes that no model can have learned, and warns of those with few rows.

    Args:
      split: Name of the split; `test` may have no class that `train` lacks.
      labels: Encoded labels, [rows]; NaN for one that is no class.
      train: The same of the split `train`; None if it is unknown.
      task: A task with classes.
    """
    if task.kind == REGRESSION:
        return
    counts = _count(labels, task)
    learned = counts if train is None else _count(train, task)
    lacking = [k for k in range(len(counts)) if counts[k] and not learned[k]]
    if lacking:
        severity = ERROR if split == "test" else WARNING
        text = (
            f"no row of train is of the {_name(lacking, counts, task)}: no model can have learned "
            "that. Learn from more data, or leave such rows and the class out"
        )
        yield Anomaly(split, task.label, "CLASS_NOT_IN_TRAIN", severity, text)
    few = [k for k in range(len(counts)) if counts[k] < _FEW_ROWS and k not in lacking]
    if few and split in ("train", "test"):
        purpose = "learn" if split == "train" else "evaluate"
        text = (
            f"of {len(labels):,} rows few are of the {_name(few, counts, task)}: fewer than "
            f"{_FEW_ROWS} are hardly enough to {purpose} a class"
        )
        yield Anomaly(split, task.label, "CLASS_RARE", WARNING, text)


def _count(labels: np.ndarray, task: Task) -> np.ndarray:
    known = labels[np.isfinite(labels)].astype(int)
    return np.bincount(known, minlength=len(task.classes))


def _name(classes: list[int], counts: np.ndarray, task: Task) -> str:
    shown = [f"{task.classes[k]!r} ({counts[k]:,} rows)" for k in classes[:_SHOWN]]
    more = f" and {len(classes) - _SHOWN:,} more" if len(classes) > _SHOWN else ""
    return f"{'class' if len(classes) == 1 else 'classes'} {', '.join(shown)}{more}"


def find_weight_unusable(split: str, weights: np.ndarray, task: Task) -> Iterator[Anomaly]:
    """Checks that every row has an example weight of 0 or more, and not all 0."""
    bad = ~(weights >= 0)
    if bad.any():
        reason = f"{bad.sum():,} of {len(weights):,} rows have no weight, or a negative one"
    elif not weights.any():
        reason = f"all of {len(weights):,} weights are 0"
    else:
        return
    text = f"{reason}; 0 or more is expected. Correct them, or leave `example_weight` empty"
    yield Anomaly(split, task.example_weight, "WEIGHT_UNUSABLE", ERROR, text)


def find_leaks(
    split: str, window: Sample, task: Task, features: Collection[str]
) -> Iterator[Anomaly]:
    """Finds features that predict the label alone almost perfectly.

    Each is fitted on one random half of the rows and measured on the other.

    Args:
      split: Name of the split.
      window: Rows of it.
      task: The task.
      features: Names of the features; the columns of a vector have an index after its name.
    """
    window = window.labelled()
    if len(window.labels) < _ROWS_TO_TELL_A_LEAK:
        return
    order = np.random.default_rng(_SEED).permutation(len(window.labels))
    halves = window.take(order[::2]), window.take(order[1::2])
    for column, share in explained_shares(task, *halves).items():
        if share > _NEAR_LEAK:
            feature = column if column in features else column.rpartition("[")[0]
            text = (
                f"{column} alone predicts {share:.1%} of the label; more than {_LEAK:.0%} blocks. "
                "Is it made from the label, or known only after it? Take it out of `features`, or "
                f'name "{feature}:LABEL_LEAK" in gate.warn_only'
            )
            severity = ERROR if share > _LEAK else WARNING
            yield Anomaly(split, feature, "LABEL_LEAK", severity, text)


def find_label_unrelated(
    split: str, rows: Sample, window: Sample, task: Task, share: float
) -> Iterator[Anomaly]:
    """Finds labels that the features no longer predict, such as shuffled ones.

    The task's headline metric of a linear prediction must keep a share of what it gains over a
    constant in the window, after three standard deviations of the gain of random labels.

    Args:
      split: Name of the split.
      rows: Its rows.
      window: Rows to fit on.
      task: The task.
      share: The share that must be kept.
    """
    rows, window = rows.labelled(), window.labelled()
    if any(len(np.unique(sample.labels)) < 2 for sample in (rows, window)):
        return  # `find_label_unusable` says so.
    encode = Encoding(window.rows)
    targets = targets_of(task, window.labels)
    model = Ridge(alpha=_RIDGE * len(targets)).fit(encode(window.rows), targets, window.weights)
    mean = np.average(targets, axis=0, weights=window.weights)

    def measured(sample: Sample) -> tuple[float, float]:
        """The metric of the prediction, and of a constant."""
        predicted = model.predict(encode(sample.rows)).reshape(len(sample.labels), -1)
        with np.errstate(all="ignore"):  # These are no probabilities.
            found = [
                headline(task, sample.labels, scores, sample.weights)
                for scores in (predicted, np.tile(mean, (len(sample.labels), 1)))
            ]
        return tuple(np.nan if value is None else value for value in found)  # type: ignore[return-value]

    metric = task.headline
    (now, constant), (known, before) = measured(rows), measured(window)
    gain, gained = -metric.loss(now, constant), -metric.loss(known, before)
    if gained <= 0 or not gain + 3 * _deviation(task, rows.labels) < share * gained:
        return
    needed = constant + metric.direction * share * gained * (constant if metric.relative else 1)
    text = (
        f"a linear prediction from the other features has an {metric.title} of {now:.3f}, "
        f"{known:.3f} in train; at {'least' if metric.direction == 1 else 'most'} {needed:.3f} is "
        "needed. Do labels and rows belong together?"
    )
    yield Anomaly(split, task.label, "LABEL_UNRELATED", ERROR, text)


def _deviation(task: Task, labels: np.ndarray) -> float:
    """A standard deviation of the gain of random labels, or more."""
    if task.kind == BINARY:
        return auc_deviation(int((labels == 1).sum()), int((labels == 0).sum()))
    # Of a share, at most 1/2 √n; of a root mean squared error, as of a correlation, 1/√n.
    return (0.5 if task.kind == MULTICLASS else 1.0) / float(np.sqrt(len(labels)))


def _text(value: object) -> str:
    return repr(value.decode("utf-8", "replace")) if isinstance(value, bytes) else f"{value}"
