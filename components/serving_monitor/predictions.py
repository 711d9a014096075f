"""How predictions are distributed."""

from typing import Any

import numpy as np
import pandas as pd

_BINS = 10
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def shares_by_bin(predictions: pd.Series) -> np.ndarray:
    """The share of predictions in each of ten bins from 0 to 1; what is outside is at its end."""
    counts, _ = np.histogram(np.clip(predictions, 0, 1), bins=_BINS, range=(0, 1))
    return counts / len(predictions)


def describe(predictions: pd.Series) -> dict[str, Any]:
    """Number, mean, quantiles and histogram of predictions."""
    quantiles = predictions.quantile(list(_QUANTILES))
    return {
        "rows": len(predictions),
        "mean": float(predictions.mean()),
        "quantiles": {str(share): float(value) for share, value in quantiles.items()},
        "histogram": shares_by_bin(predictions).tolist(),
    }
