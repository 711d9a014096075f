"""Finds what ruins models: columns that give the label away, copies, repeated rows, rare labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.model_selection import cross_val_predict
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from ml.scores import measure
from ml.tasks import BINARY, MULTICLASS, REGRESSION, Task
from orchestration.new_model.columns import Column, Kind, Role
from orchestration.new_model.reading import SPAN, Look

_ROWS = 10_000
_SEED = 7
_FOLDS = 3
# The share of what can be known of the label that one column may tell.
_GIVES_AWAY = 0.98
_COPY = 0.9995  # Correlation.
_RARE = 0.01
_REPEATED = 0.01
_MOST_COMPARED = 200
_MOST_SPANS = 2  # Values for each span that a column which tells the span may have.
_OF_SPAN = 0.95
_NEARLY_ALL = 0.9
_MONTHS = "jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec"
# Texts that are dates or numbers, and how these are read.
_WRITTEN = (
    (r"\d{1,4}[/.]\d{1,2}[/.]\d{2,4}\b.*", "date", "2013-01-31"),
    (rf"(?i)\d{{1,2}}[ -]({_MONTHS})[a-z]*[ -]\d{{2,4}}\b.*", "date", "2013-01-31"),
    (r"(?=.*[., '%$€£]) *[$€£]? ?[+-]?\d[\d., ']*( ?[%$€£])?", "number", "1234.5"),
)


@dataclass(frozen=True)
class Danger:
    """Something that ruins models.

    Attributes:
      column: The column; "" for the rows.
      text: What was found, and what it may mean.
      leave_out: Whether the column should not be a feature.
    """

    column: str
    text: str
    leave_out: bool = False


def find_dangers(
    look: Look, columns: Sequence[Column], task: Task, time_column: str
) -> list[Danger]:
    """Looks for them in the sample.

    Args:
      look: The data.
      columns: All columns with their roles.
      task: The task.
      time_column: Time of a row; "" for none.
    """
    features = [column for column in columns if column.is_feature]
    sample = look.sample.iloc[:: max(1, len(look.sample) // _ROWS)]
    labels = task.encode(sample[task.label].to_numpy())
    return [
        *_leaks(sample, features, labels, task),
        *_calendar(look.sample, features),
        *_copies(sample, features),
        *_misread(sample, columns),
        *_repeated(look),
        *_rare(look, task),
        *_unsorted(look.sample, time_column),
    ]


def _leaks(
    sample: pd.DataFrame, features: Sequence[Column], labels: np.ndarray, task: Task
) -> Iterator[Danger]:
    """Columns that alone predict the label nearly perfectly, by their values or their absence."""
    for column in features:
        if column.name not in sample:
            continue
        values = sample[column.name]
        absent = values.isna().to_numpy()
        if 0 < absent.mean() < 1 and _known(absent[:, None].astype(float), labels, task) > (
            _GIVES_AWAY
        ):
            yield Danger(
                column.name,
                "it is absent exactly when the label is one thing: is it filled in afterwards?",
                leave_out=True,
            )
            continue
        told = _known(_encode(values, column), labels, task)
        if told > _GIVES_AWAY:
            yield Danger(
                column.name,
                f"alone it predicts the label nearly perfectly ({_score_name(task)} {told:.3f}): "
                "is it known when a prediction is asked for?",
                leave_out=True,
            )


def _known(inputs: np.ndarray, labels: np.ndarray, task: Task) -> float:
    """How well a tree predicts the label from one column, by cross-validation.

    Returns:
      The AUC or the R²; of several classes the share of the errors of the most frequent class that
      it avoids.
    """
    if task.kind == REGRESSION:
        tree = DecisionTreeRegressor(max_leaf_nodes=100, min_samples_leaf=5, random_state=_SEED)
        predictions = cross_val_predict(tree, inputs, labels, cv=_FOLDS)
        return measure(task, labels, predictions)["r2"] or 0.0
    tree = DecisionTreeClassifier(max_leaf_nodes=100, min_samples_leaf=5, random_state=_SEED)
    ids = labels.astype(int)
    probabilities = cross_val_predict(tree, inputs, ids, cv=_FOLDS, method="predict_proba")
    if task.kind == BINARY:
        return measure(task, ids, probabilities[:, 1])["auc"] or 0.0
    right = float((probabilities.argmax(axis=1) == ids).mean())
    frequent = np.bincount(ids).max() / len(ids)
    return (right - frequent) / (1 - frequent)


def _score_name(task: Task) -> str:
    return {BINARY: "AUC", REGRESSION: "R²", MULTICLASS: "share of errors avoided"}[task.kind]


def _encode(values: pd.Series, column: Column) -> np.ndarray:
    """A column as numbers for a tree, [rows, 1]; absent values are below all others."""
    if column.facts.kind is Kind.TEXT:
        return pd.factorize(values, sort=True)[0].astype(float)[:, None]
    numbers = values.astype("int64") if column.facts.kind is Kind.TIME else values
    return pd.to_numeric(numbers).astype(float).fillna(-1e30).to_numpy()[:, None]


def _calendar(sample: pd.DataFrame, features: Sequence[Column]) -> Iterator[Danger]:
    """Columns that say which span a row is of, such as the month."""
    spans = sample.groupby(SPAN)
    if len(spans) < 2:
        return
    for column in features:
        if column.name in sample and column.role is not Role.TIME:
            values = sample[column.name]
            if not _MOST_SPANS * len(spans) >= values.nunique() >= len(spans):
                continue
            # Another time zone moves some rows into the next month.
            usual = spans[column.name].agg(lambda found: next(iter(found.mode()), None))
            told = (values.to_numpy() == usual.loc[sample[SPAN]].to_numpy()).mean()
            if usual.nunique() == len(spans) and told > _OF_SPAN:
                yield Danger(
                    column.name,
                    "it says which span a row is of: a new span has a value that no model has seen",
                    leave_out=True,
                )


def _copies(sample: pd.DataFrame, features: Sequence[Column]) -> Iterator[Danger]:
    """Columns that say the same as another."""
    numeric = [c.name for c in features if c.role in (Role.NUMBER, Role.LOGARITHM, Role.SKEWED)][
        :_MOST_COMPARED
    ]
    if len(numeric) > 1:
        correlations = sample[numeric].corr(method="spearman").abs().to_numpy()
        for right in range(1, len(numeric)):
            left = int(np.nanargmax(np.append(correlations[right, :right], 0)))
            if left < right and correlations[right, left] > _COPY:
                yield Danger(numeric[right], f"it says the same as {numeric[left]!r}: keep one")
    texts = [c.name for c in features if c.role is Role.CATEGORY][:_MOST_COMPARED]
    for number, right_name in enumerate(texts):
        for left_name in texts[:number]:
            counts = (
                sample[left_name].nunique(),
                sample[right_name].nunique(),
                len(sample[[left_name, right_name]].drop_duplicates()),
            )
            if len(set(counts)) == 1:
                yield Danger(right_name, f"it says the same as {left_name!r}: keep one")
                break


def _misread(sample: pd.DataFrame, columns: Sequence[Column]) -> Iterator[Danger]:
    """Text that is numbers or dates, written in another way than those that are read."""
    for column in columns:
        if column.facts.kind is not Kind.TEXT or column.role is Role.LABEL:
            continue
        texts = sample[column.name].dropna().astype(str)
        for pattern, kind, example in _WRITTEN:
            if len(texts) and texts.str.fullmatch(pattern).mean() > _NEARLY_ALL:
                yield Danger(
                    column.name,
                    f"{texts.iloc[0]!r} looks like a {kind}, but is text as it is written: write "
                    f"{example}",
                )
                break


def _repeated(look: Look) -> Iterator[Danger]:
    if any(facts.kind is Kind.VECTOR for facts in look.facts.values()):
        return  # The sample has no vectors, in which rows may differ.
    share = float(look.sample.drop(columns=SPAN).duplicated().mean())
    if share > _REPEATED:
        yield Danger("", f"{share:.1%} of the rows repeat another in every column")


def _rare(look: Look, task: Task) -> Iterator[Danger]:
    if task.kind == REGRESSION:
        return
    facts = look.facts[task.label]
    value, count = facts.values[-1]
    share = count / max(1, facts.sampled)
    if share < _RARE:
        yield Danger(
            task.label,
            f"{value!r} is rare ({share:.2%} of the rows): look at AUC-PR and calibration, "
            "and consider training.class_weights",
        )


def _unsorted(sample: pd.DataFrame, time_column: str) -> Iterator[Danger]:
    if time_column and not sample[time_column].is_monotonic_increasing:
        yield Danger(time_column, "rows are not sorted by this time: is it the right column?")
