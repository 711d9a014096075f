"""Tuned gradient boosting on the raw features and all rows of a run's window, to compare with.

LightGBM is no dependency of the project: `uv pip install --target FOLDER --no-deps lightgbm`, and
put FOLDER on PYTHONPATH.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
from sklearn.metrics import roc_auc_score

from benchmarks.quality import divide, read_split
from pipeline.model import Model

SETTINGS = {
    "learning_rate": 0.02,
    "n_estimators": 400,
    "num_leaves": 63,
    "min_child_samples": 100,
    "reg_lambda": 20.0,
    "colsample_bytree": 0.4,
    "subsample": 0.6,
    "subsample_freq": 1,
    "random_state": 7,
}
_SPLITS = ("train", "eval", "test")


def has_lightgbm() -> bool:
    """Whether LightGBM is installed."""
    return bool(find_spec("lightgbm"))


def measure_lightgbm(model: Model, artifacts: Path) -> float:
    """The AUC of LightGBM on `test`.

    Args:
      model: The model, whose task is binary.
      artifacts: Folder of the artifacts of a run.
    """
    train, held_out, test = (read_split(model, artifacts, name) for name in _SPLITS)
    features, labels = divide(model.task, pd.concat([train, held_out], ignore_index=True))
    unseen, expected = divide(model.task, test)
    for name in features.select_dtypes(object):
        kind = pd.CategoricalDtype(sorted(features[name].unique()))
        # Numbered, because LightGBM keeps categories as JSON, which has no bytes.
        features[name], unseen[name] = (
            rows[name].astype(kind).cat.rename_categories(range(len(kind.categories)))
            for rows in (features, unseen)
        )
    trees = import_module("lightgbm").LGBMClassifier(**SETTINGS, verbose=-1)
    predictions = trees.fit(features, labels).predict_proba(unseen)[:, 1]
    return float(roc_auc_score(expected, predictions))
