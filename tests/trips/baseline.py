"""What another kind of model reaches: gradient boosting on numeric features of the same window."""

from __future__ import annotations

import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits

from storage import spans
from storage.parquet import open_file

from .features import SCHEDULE, WEATHER

_SEED = 7


def baseline_auc(source: spans.DataSource, as_of: int, window: int, label: str) -> float:
    """AUC of scikit-learn's HistGradientBoosting with its defaults.

    Args:
      source: The data.
      as_of: Month to evaluate on, YYYYMM.
      window: Months before `as_of` to train on.
      label: Column of the label.

    Returns:
      The AUC on the month `as_of`.
    """
    months = spans.resolve_window(source, as_of, window)
    files, _ = spans.filesystem(source.uri)

    def read(paths: list[str]) -> pd.DataFrame:
        columns = [*SCHEDULE, *WEATHER, label]
        return pd.concat([open_file(path, files).read(columns).to_pandas() for path in paths])

    training = read([path for span in months.train for path in span.files])
    test = read(list(months.test.files))
    model = HistGradientBoostingClassifier(random_state=_SEED)
    with threadpool_limits(1, "openmp"):
        model.fit(training.drop(columns=label), training[label])
        predictions = model.predict_proba(test.drop(columns=label))[:, 1]
    return float(roc_auc_score(test[label], predictions))
