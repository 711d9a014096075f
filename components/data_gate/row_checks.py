"""DataGate's checks of the rows of a new month."""

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd

from components.data_gate.statistics_checks import WARN_FROM
from ml.chance import is_more
from ml.comparisons import DATA_SET, ERROR, WARNING, Anomaly, improbable
from ml.relations import Relations


def find_duplicates(
    split: str, rows: np.ndarray, window: np.ndarray, limit: float
) -> Iterator[Anomaly]:
    """Finds rows that repeat another row in every column, more often than those of the window.

    Args:
      split: Name of the split.
      rows: A hash of each row; see `components.data_gate.reading.hash_rows`.
      window: The same of rows of the window; as many of them as there are `rows` say how often rows
        repeat by nature.
      limit: Largest share of repeated rows above that.
    """
    repeated = _count_repeated(rows)
    if not repeated:
        return
    places = np.linspace(0, len(window) - 1, min(len(rows), len(window))).astype(int)
    natural = _count_repeated(window[places]) / max(len(places), 1)
    deviation = math.sqrt(natural * (1 - natural) / max(len(places), 1))
    allowed = min(1.0, limit + natural + deviation)
    text = (
        f"{repeated:,} of {len(rows):,} rows repeat another, {natural:.1%} of as many rows of "
        f"train; more than {limit:.1%} above that block. Was a file delivered twice?"
    )
    severity = ERROR if is_more(repeated, len(rows), allowed) else WARNING
    yield Anomaly(split, DATA_SET, "DUPLICATE_ROWS", severity, text)


def _count_repeated(hashes: np.ndarray) -> int:
    return len(hashes) - len(np.unique(hashes))


def find_constant(split: str, rows: pd.DataFrame, before: pd.DataFrame) -> Iterator[Anomaly]:
    """Finds features that now have one value, more often than chance explains."""
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
    """Finds numeric features whose relation to the others changed, as after a change of units."""
    growths = relations.error_growth(rows)
    for name in sorted(growths, key=lambda name: -growths[name]):
        if name != label and growths[name] > WARN_FROM * limit:
            text = (
                f"predicted from the other features, its squared error is {growths[name]:.0f} "
                f"times that of train; more than {limit:g} blocks. Are the units the same?"
            )
            severity = ERROR if growths[name] > limit else WARNING
            yield Anomaly(split, name, "RELATION_CHANGED", severity, text)
