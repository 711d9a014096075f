"""What a model has to beat: a constant, the best single column, and gradient boosting.

All of them read a table of raw features, as `ml.examples.read_rows` makes it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.tree import DecisionTreeRegressor
from threadpoolctl import threadpool_limits

from ml.tasks import MULTICLASS, REGRESSION, Task

CONSTANT, COLUMN, BOOSTING = "constant", "column", "boosting"

# Limits that keep the fits to a few seconds: rows, values of a table, and trees times columns.
_MOST_ROWS = 200_000
_MOST_VALUES = 4_000_000
_MOST_TREES_BY_COLUMNS = 100_000
_ROWS_OF_A_COLUMN = 20_000

_SEED = 7
# scikit-learn's defaults, and what wide tables have: 784 columns of ten classes were as accurate
# in 4 s as in 98 s.
_TREES, _FEWEST_TREES = 100, 10
_LEARNING_RATE, _HIGHEST_LEARNING_RATE = 0.1, 0.3
_BINS, _FEW_BINS = 255, 32
_MOST_FAST_TREES_BY_COLUMNS = 240_000
_LEAVES = 32
_ROWS_OF_A_LEAF = 5
# Rows of the prior in the mean of a category.
_PRIOR_ROWS = 5
_CONSTANT_TITLES = {REGRESSION: "the mean", MULTICLASS: "the shares of the classes"}


@dataclass(frozen=True)
class Sample:
    """Rows of a split.

    Attributes:
      rows: Features, numbers or categories (bytes or text), [rows, features].
      labels: Encoded labels, see `Task.encode`, [rows]; rows whose label is NaN are left out.
      weights: Weights of the rows, [rows].
    """

    rows: pd.DataFrame
    labels: np.ndarray
    weights: np.ndarray

    def labelled(self) -> Sample:
        """The rows that have a label, and a weight above 0."""
        kept = np.isfinite(self.labels) & (self.weights > 0)
        return self if kept.all() else self.take(np.flatnonzero(kept))

    def take(self, places: np.ndarray | slice) -> Sample:
        """Some of the rows."""
        return Sample(self.rows.iloc[places], self.labels[places], self.weights[places])

    def __add__(self, other: Sample) -> Sample:
        return Sample(
            pd.concat([self.rows, other.rows], ignore_index=True),
            np.concatenate([self.labels, other.labels]),
            np.concatenate([self.weights, other.weights]),
        )


@dataclass(frozen=True)
class Baseline:
    """A fitted baseline.

    Attributes:
      name: `CONSTANT`, `COLUMN` or `BOOSTING`.
      title: What it is called on the screen.
      predict: Function from a table of features to predictions, float64 [rows, task.outputs].
    """

    name: str
    title: str
    predict: Callable[[pd.DataFrame], np.ndarray]


def sampling_step(rows: int, columns: int) -> int:
    """Every how many rows are enough to fit the baselines in a few seconds.

    Args:
      rows: Rows of the split `train`.
      columns: Columns of the table.
    """
    return max(1, math.ceil(rows / min(_MOST_ROWS, _MOST_VALUES // max(columns, 1))))


def fit_baselines(task: Task, train: Sample, held_out: Sample) -> list[Baseline]:
    """Fits the baselines.

    The best single column is the one that explains most of the labels of `held_out` when it is
    fitted on `train`. Each baseline is then fitted on both.

    Example:
      >>> rows = pd.DataFrame({"x": [0.0, 1.0] * 50, "y": [1.0, 2.0, 3.0, 4.0] * 25})
      >>> sample = Sample(rows, rows["x"].to_numpy(), np.ones(100))
      >>> [each.title for each in fit_baselines(Task("binary", "tip"), sample, sample)]
      ['a constant', 'x alone', 'gradient boosting']

    Args:
      task: The task.
      train: Rows to fit on.
      held_out: Rows of the split `eval`.

    Returns:
      Constant, column and gradient boosting; only the first if no column varies, or no row has a
      label.
    """
    train, held_out = train.labelled(), held_out.labelled()
    both = train + held_out
    targets = targets_of(task, both.labels)
    mean = np.zeros(task.outputs)
    if len(targets):
        mean = np.average(targets, axis=0, weights=both.weights)
    title = _CONSTANT_TITLES.get(task.kind, "a constant")
    found = [Baseline(CONSTANT, title, lambda rows: np.tile(mean, (len(rows), 1)))]
    encoder = _Encoder(both.rows)
    if not encoder.columns or not len(train.labels) or (targets == targets[0]).all():
        return found
    column = _best_column(task, encoder, train, held_out)
    model = _fit_column(encoder, column, both, targets)
    found.append(Baseline(COLUMN, f"{column} alone", model))
    found.append(Baseline(BOOSTING, "gradient boosting", _fit_boosting(task, encoder, both)))
    return found


def explained_shares(task: Task, train: Sample, held_out: Sample) -> dict[str, float]:
    """How much of the label each column predicts alone.

    A number is predicted from by a regression tree of at most 32 leaves, a category by the mean of
    its rows; a missing value is a value. Of classes, the shares are predicted, so that the measure
    is a Brier skill score (Brier, 1950).

    Args:
      task: The task.
      train: Rows to fit on.
      held_out: Rows to measure on, others than those.

    Returns:
      By column, the share of the variance that is explained, 1 at most; columns that do not vary
      are left out.
    """
    train, held_out = train.labelled(), held_out.labelled()
    encoder = _Encoder(train.rows)
    targets, truth = targets_of(task, train.labels), targets_of(task, held_out.labels)
    if not len(targets) or not len(truth):
        return {}
    errors = (truth - np.average(targets, axis=0, weights=train.weights)) ** 2
    total = float(held_out.weights @ errors.sum(axis=1))
    if not total:
        return {}
    shares = {}
    for name in encoder.columns:
        predicted = _fit_column(encoder, name, train, targets)(held_out.rows)
        missed = ((truth - predicted) ** 2).sum(axis=1)
        shares[name] = 1 - float(held_out.weights @ missed) / total
    return shares


def _best_column(task: Task, encoder: _Encoder, train: Sample, held_out: Sample) -> str:
    rows = max(1000, min(_ROWS_OF_A_COLUMN, _MOST_VALUES // task.outputs))
    train, held_out = (
        sample.take(slice(None, None, max(1, math.ceil(len(sample.labels) / rows))))
        for sample in (train, held_out)
    )
    shares = explained_shares(task, train, held_out)
    return max(shares, key=lambda name: shares[name], default=encoder.columns[0])


def targets_of(task: Task, labels: np.ndarray) -> np.ndarray:
    """What is predicted of each label, float64 [rows, task.outputs]."""
    if task.kind == MULTICLASS:
        return np.eye(task.outputs)[labels.astype(int)]
    return labels[:, None].astype(float)


class _Encoder:
    """Turns columns to numbers: the codes of a category, by frequency, and NaN for a rare one.

    Attributes:
      columns: The columns that vary.
    """

    def __init__(self, rows: pd.DataFrame):
        self.columns = [name for name in rows if rows[name].nunique(dropna=False) > 1]
        self.categories = {
            name: rows[name].value_counts().index[: _BINS - 1]
            for name in self.columns
            if rows[name].dtype == object
        }

    def encode(self, rows: pd.DataFrame, name: str) -> np.ndarray:
        """One column, float64 [rows]."""
        if name not in self.categories:
            return rows[name].to_numpy(float)
        codes = self.categories[name].get_indexer(rows[name]).astype(float)
        codes[codes < 0] = np.nan
        return codes

    def table(self, rows: pd.DataFrame) -> np.ndarray:
        """All columns, float64 [rows, columns]."""
        return np.column_stack([self.encode(rows, name) for name in self.columns])

    @property
    def is_category(self) -> np.ndarray:
        """Whether a column is a category, bool [columns]."""
        return np.array([name in self.categories for name in self.columns])


def _fit_column(
    encoder: _Encoder, name: str, sample: Sample, targets: np.ndarray
) -> Callable[[pd.DataFrame], np.ndarray]:
    values = encoder.encode(sample.rows, name)
    if name in encoder.categories:
        means = _means(values, targets, sample.weights, len(encoder.categories[name]))
        return lambda rows: means[_bins(encoder.encode(rows, name), len(means))]
    tree = DecisionTreeRegressor(
        max_leaf_nodes=_LEAVES, min_samples_leaf=_ROWS_OF_A_LEAF, random_state=_SEED
    ).fit(_with_absence(values), targets, sample.weights)
    return lambda rows: tree.predict(_with_absence(encoder.encode(rows, name))).reshape(
        len(rows), targets.shape[1]
    )


def _with_absence(values: np.ndarray) -> np.ndarray:
    """Values, and whether they are missing, by which a tree may not split otherwise."""
    return np.column_stack([values, np.isnan(values)])


def _bins(codes: np.ndarray, bins: int) -> np.ndarray:
    """The code of each row, and the last bin where there is none."""
    return np.where(np.isnan(codes), bins - 1, codes).astype(int)


def _means(
    codes: np.ndarray, targets: np.ndarray, weights: np.ndarray, categories: int
) -> np.ndarray:
    """The mean target of each category, and of the rows without one, float64 [bins, outputs]."""
    bins = _bins(codes, categories + 1)
    counts = np.bincount(bins, weights, categories + 1)[:, None]
    sums = np.column_stack([np.bincount(bins, weights * t, categories + 1) for t in targets.T])
    prior = _PRIOR_ROWS * float(np.mean(weights))
    mean = np.average(targets, axis=0, weights=weights)
    return np.asarray((sums + prior * mean) / (counts + prior))


def _fit_boosting(
    task: Task, encoder: _Encoder, sample: Sample
) -> Callable[[pd.DataFrame], np.ndarray]:
    """scikit-learn's HistGradientBoosting with its defaults, categories as such.

    With many columns and classes there are fewer trees, which learn more each, and fewer bins.
    """
    columns = len(encoder.columns) * task.outputs
    bins, trees = _BINS, _TREES
    if trees * columns > _MOST_TREES_BY_COLUMNS:
        bins = _FEW_BINS
        trees = int(np.clip(_MOST_FAST_TREES_BY_COLUMNS // columns, _FEWEST_TREES, _TREES))
    kind = (
        HistGradientBoostingRegressor if task.kind == REGRESSION else HistGradientBoostingClassifier
    )
    _, counts = np.unique(sample.labels, return_counts=True)
    model = kind(
        categorical_features=encoder.is_category,
        max_bins=bins,
        max_iter=trees,
        learning_rate=min(_LEARNING_RATE * _TREES / trees, _HIGHEST_LEARNING_RATE),
        # It holds out rows of each class where it stops early.
        early_stopping="auto" if task.kind == REGRESSION or counts.min() > 1 else False,
        random_state=_SEED,
    )

    def table_of(rows: pd.DataFrame) -> np.ndarray:
        table = encoder.table(rows)
        rare = encoder.is_category & (table >= bins - 1)
        return np.where(rare, np.nan, table)

    # One thread: while other nodes run, waiting threads cost three times what they save.
    with threadpool_limits(1, "openmp"):
        model.fit(table_of(sample.rows), sample.labels, sample.weights)

    def predict(rows: pd.DataFrame) -> np.ndarray:
        table = table_of(rows)
        with threadpool_limits(1, "openmp"):
            if task.kind == REGRESSION:
                return np.asarray(model.predict(table))[:, None]
            found = np.zeros((len(rows), len(task.classes)))
            found[:, model.classes_.astype(int)] = model.predict_proba(table)
        return found if task.kind == MULTICLASS else found[:, 1:]

    return predict
