"""The external baseline: gradient boosting on the same window, month and features."""

from __future__ import annotations

import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import OrdinalEncoder
from threadpoolctl import threadpool_limits

from storage import spans
from storage.parquet import open_file

from .features import SCHEDULE, VOCABULARIES, WEATHER

_SEED = 7
_FEATURES = (*VOCABULARIES, *SCHEDULE, *WEATHER)


def baseline_auc(source: spans.DataSource, as_of: int, window: int, label: str) -> float:
    """AUC of scikit-learn's HistGradientBoosting with its defaults and categorical features.

    It trains on the whole window; the pipeline's model holds out the last days for early stopping.

    Args:
      source: The data.
      as_of: Month to evaluate on, YYYYMM.
      window: Months before `as_of` to train on.
      label: Column of the label.

    Returns:
      The AUC on the month `as_of`.

    Raises:
      DataError: If a month of the window is missing.
    """
    months = spans.resolve_window(source, as_of, window)
    files, _ = spans.filesystem(source.uri)

    def read(paths: list[str]) -> pd.DataFrame:
        columns = [*_FEATURES, label]
        tables = [open_file(path, files).read(columns) for path in paths]
        return pd.concat([table.to_pandas() for table in tables])

    training = read([path for span in months.train for path in span.files])
    test = read(list(months.test.files))
    categories = list(VOCABULARIES)
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    training[categories] = encoder.fit_transform(training[categories])
    test[categories] = encoder.transform(test[categories])
    model = HistGradientBoostingClassifier(categorical_features=categories, random_state=_SEED)
    features = list(_FEATURES)
    # One thread: while other nodes run, waiting threads cost three times what they save.
    with threadpool_limits(1, "openmp"):
        model.fit(training[features], training[label])
        predictions = model.predict_proba(test[features])[:, 1]
    return float(roc_auc_score(test[label], predictions))
