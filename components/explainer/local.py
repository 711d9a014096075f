"""LIME: a linear model of a prediction near one row (Ribeiro, Singh and Guestrin, 2016)."""

from __future__ import annotations

import numpy as np
from lime.lime_tabular import LimeTabularExplainer

from components.explainer.groups import Columns
from components.explainer.masking import MaskedModel

_SAMPLES = 1000


def lime_values(model: MaskedModel, rows: Columns, row: int, output: int, seed: int) -> np.ndarray:
    """Explains one output of one row.

    The interpretable representation of a row is, as of a text, which groups of features it has: one
    that it lacks has the values of a random background row. So a weight is the effect of the row's
    own values, as a SHAP value is.

    Args:
      model: The model.
      rows: Rows by feature, each [rows, ...].
      row: Number of the row.
      output: Number of the output.
      seed: Seed of the samples.

    Returns:
      The weight of each group, float64 [groups]; NaN if a prediction is not finite.
    """
    groups = len(model.groups)
    size = len(next(iter(model.background.values())))
    chance = np.random.default_rng(seed)

    def predict(samples: np.ndarray) -> np.ndarray:
        others = chance.integers(0, size, len(samples))
        found: np.ndarray = model.mixed(rows, row, samples > 0.5, others)[:, output]
        if not np.isfinite(found).all():
            raise FloatingPointError
        return found

    explainer = LimeTabularExplainer(
        np.array([[0.0] * groups, [1.0] * groups]),  # Each group is there in half of the samples.
        mode="regression",
        categorical_features=list(range(groups)),
        random_state=seed,
    )
    try:
        found = explainer.explain_instance(
            np.ones(groups), predict, num_features=groups, num_samples=_SAMPLES
        )
    except FloatingPointError:
        return np.full(groups, np.nan)
    weights = np.zeros(groups)
    for place, weight in found.local_exp[1]:
        weights[place] = weight
    return weights
