"""What DataGate looks for in the rows of a new month."""

from collections.abc import Iterator

import pandas as pd
from sklearn.metrics import roc_auc_score

from components.data_gate.statistics_checks import WARN_FROM
from ml.chance import auc_deviation, is_more
from ml.comparisons import DATA_SET, ERROR, WARNING, Anomaly, improbable
from ml.relations import Relations


def find_duplicates(split: str, rows: pd.DataFrame, limit: float) -> Iterator[Anomaly]:
    """Counts rows that repeat another in every column."""
    repeated = int(rows.duplicated().sum())
    if repeated:
        text = (
            f"{repeated:,} of {len(rows):,} rows repeat another; more than {limit:.1%} block. "
            "Was a day delivered twice?"
        )
        severity = ERROR if is_more(repeated, len(rows), limit) else WARNING
        yield Anomaly(split, DATA_SET, "DUPLICATE_ROWS", severity, text)


def find_constant(split: str, rows: pd.DataFrame, before: pd.DataFrame) -> Iterator[Anomaly]:
    """Looks for features of one value that had several, too many to be chance."""
    for feature in rows:
        values = rows[feature].dropna()
        shares = before[feature].value_counts(normalize=True)
        if values.nunique() != 1 or len(shares) < 2:
            continue
        (value,) = values.unique()
        if improbable(shares.get(value, 0.0), len(values)):
            text = f"all of {len(values):,} values are {value}; in train they vary"
            yield Anomaly(split, feature, "CONSTANT", ERROR, text)


def find_changed_relations(
    split: str, rows: pd.DataFrame, relations: Relations, label: str, limit: float
) -> Iterator[Anomaly]:
    """Looks for numeric features that no longer follow from the others, as in other units."""
    growths = relations.error_growth(rows)
    for name in sorted(growths, key=lambda name: -growths[name]):
        if name != label and growths[name] > WARN_FROM * limit:
            text = (
                f"it follows from the other features with {growths[name]:.0f} times the squared "
                f"error of train; more than {limit:g} blocks. Are their units the same?"
            )
            severity = ERROR if growths[name] > limit else WARNING
            yield Anomaly(split, name, "RELATION_CHANGED", severity, text)


def find_label_unrelated(
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
    needed = 0.5 + share * (known - 0.5)
    if now + 3 * auc_deviation(positive, negative) < needed:
        text = (
            f"a linear prediction from the other features has an AUC of {now:.3f}, {known:.3f} in "
            f"train; at least {needed:.3f} is needed. Do labels and rows belong together?"
        )
        yield Anomaly(split, label, "LABEL_UNRELATED", ERROR, text)


def _label_auc(rows: pd.DataFrame, relations: Relations, label: str) -> float:
    return float(roc_auc_score(rows[label], relations.predict(rows, label)))
