"""Tuned gradient boosting on the raw features and all rows of a run's window, to compare with.

LightGBM is no dependency of the project: `uv pip install --target FOLDER --no-deps lightgbm`, and
put FOLDER on PYTHONPATH. Without it, scikit-learn's boosting is measured alone.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

from benchmarks.quality import divide, read_split
from pipeline.model import Model

_LEAVES, _RATE, _TREES, _LEAST, _L2 = 63, 0.02, 400, 100, 20.0
_FEATURES, _ROWS, _SEED = 0.4, 0.6, 7
_SCIKIT_LEARN, _LIGHTGBM = "HistGradientBoosting", "LightGBM"
_SPLITS = ("train", "eval", "test")

SETTINGS = (
    f"{_TREES} trees of {_LEAVES} leaves, learning rate {_RATE}, {_LEAST} rows a leaf, "
    f"L2 {_L2:g}, {_FEATURES:.0%} of the features; {_LIGHTGBM} with {_ROWS:.0%} of the rows"
)


def methods() -> tuple[str, ...]:
    """The names of the boostings that are installed."""
    return (_SCIKIT_LEARN, *([_LIGHTGBM] if find_spec("lightgbm") else []))


def measure_boosting(model: Model, artifacts: Path) -> dict[str, float]:
    """The AUC of each boosting on `test`, by name.

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
    fitted = {name: _make(name).fit(features, labels) for name in methods()}
    return {
        name: float(roc_auc_score(expected, one.predict_proba(unseen)[:, 1]))
        for name, one in fitted.items()
    }


def _make(name: str) -> Any:
    if name == _LIGHTGBM:
        return import_module("lightgbm").LGBMClassifier(
            learning_rate=_RATE,
            n_estimators=_TREES,
            num_leaves=_LEAVES,
            min_child_samples=_LEAST,
            reg_lambda=_L2,
            colsample_bytree=_FEATURES,
            subsample=_ROWS,
            subsample_freq=1,
            random_state=_SEED,
            verbose=-1,
        )
    return HistGradientBoostingClassifier(
        learning_rate=_RATE,
        max_iter=_TREES,
        max_leaf_nodes=_LEAVES,
        min_samples_leaf=_LEAST,
        l2_regularization=_L2,
        max_features=_FEATURES,
        categorical_features="from_dtype",
        early_stopping=False,
        random_state=_SEED,
    )
