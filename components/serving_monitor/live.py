"""Measures what a model was worth, by the labels that have arrived."""

from dataclasses import dataclass

import pandas as pd
from sklearn.metrics import roc_auc_score

from ml.chance import auc_deviation

OVERALL = "Overall"


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


def measure_live(
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
    auc = float(roc_auc_score(labels, predictions))
    deviation = auc_deviation(positive, negative)
    return Live(name, rows, auc, deviation, float(predictions.mean()), positive / rows)
