"""Explains a model on a sample of rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from components.explainer.groups import OTHERS, Group, make_groups, merge_others
from components.explainer.importance import importance, rank_correlation
from components.explainer.masking import MaskedModel
from components.explainer.sample import Rows
from components.explainer.shapley import ShapValues, shap_values
from ml.predictors import FeaturePredictor

# Values that the model may read in all: its rows times the values of one. It bounds the time of a
# wide model, whatever the machine; 1,000 rows of 16 values with 50 background rows take a quarter.
MOST_CELLS = 200_000_000
# Of them for the choice of the groups, where there are more than can be explained one by one.
_SCREENED_CELLS = MOST_CELLS // 10
_SCREENED_ROWS = 64
_STABILITY_ROWS = 200


@dataclass(frozen=True)
class Explanation:
    """SHAP values of a sample.

    Attributes:
      model: The model with its groups and background.
      rows: The rows that are explained.
      shap: Their values; none is NaN.
      stability: Rank correlation of the importance by two seeds; None if there is none.
      left_out: Features without a value of their own, each with the reason.
      rows_left_out: Rows that are not explained, by reason.
    """

    model: MaskedModel
    rows: Rows
    shap: ShapValues
    stability: float | None
    left_out: list[dict[str, str]]
    rows_left_out: dict[str, int]

    @property
    def groups(self) -> Sequence[Group]:
        """The groups that have values."""
        return self.model.groups

    @property
    def importance(self) -> list[dict[str, Any]]:
        """See `importance.importance`."""
        return importance(self.groups, self.shap.values)

    @property
    def order(self) -> list[int]:
        """Places of the groups, the most important first."""
        return np.argsort(-self.sizes, kind="stable").tolist()

    @property
    def sizes(self) -> np.ndarray:
        """Mean absolute value of each group, float64 [groups]."""
        return np.abs(self.shap.values).sum(axis=2).sum(axis=0)


def explain(
    predictor: FeaturePredictor,
    examples: np.ndarray,
    background: np.ndarray,
    *,
    configured: Mapping[str, Sequence[str]],
    max_features: int,
    permutations: int,
    seed: int,
) -> Explanation:
    """Explains a model.

    Args:
      predictor: The model.
      examples: The rows to explain, serialized tf.Examples, bytes [rows].
      background: Background rows, twice as many as are used at a time: the second half serves the
        second seed.
      configured: Features by group.
      max_features: Groups to explain one by one; of more, those are chosen of which other values
        change predictions most, and the rest is one group.
      permutations: Random orders for each row.
      seed: Seed of the orders; the second is the next.

    Returns:
      The explanation; of no rows if the model gives a finite prediction for none, or for no
      background row.
    """
    rows, others = Rows.read(examples, predictor), Rows.read(background, predictor)
    first, second = others.take(slice(0, None, 2)), others.take(slice(1, None, 2))
    rows_left_out = {"the prediction is not finite": rows.left_out} if rows.left_out else {}
    groups, constant = make_groups(rows.columns, others.columns, configured)
    left_out = [{"feature": name, "why": "all rows have the same value"} for name in constant]
    if not len(rows) or not len(first):
        model = MaskedModel(predictor, first.columns, [])
        nothing = ShapValues(np.zeros((0, 0, 1)), np.zeros(1))
        return Explanation(model, rows.take(slice(0)), nothing, None, left_out, rows_left_out)
    if len(groups) > max_features:
        groups, dropped = _choose(predictor, rows, first, groups, max_features)
        left_out += [
            {
                "feature": name,
                "why": f"{max_features} of {max_features + len(dropped)} features are explained "
                f"one by one; this one is in {OTHERS}",
            }
            for name in dropped
        ]
    model = MaskedModel(predictor, first.columns, groups)
    a_row = permutations * (2 * len(groups) + 1) * len(first) * model.cells
    most = max(1, int(MOST_CELLS // max(a_row * 1.5, 1)))
    if len(rows) > most:
        rows_left_out["there are too many features for more rows"] = len(rows) - most
        rows = rows.take(np.linspace(0, len(rows) - 1, most).astype(int))
    shap = shap_values(model, rows.columns, permutations, seed)
    known = np.isfinite(shap.values).all(axis=(1, 2))
    if not known.all():
        rows_left_out["a masked prediction is not finite"] = int((~known).sum())
        rows = rows.take(known)
        shap = ShapValues(shap.values[known], shap.base)
    stability = None
    if len(rows) and len(second):
        part = rows.take(slice(0, _STABILITY_ROWS))
        other = MaskedModel(predictor, second.columns, groups)
        again = shap_values(other, part.columns, permutations, seed + 1).values
        both = [np.abs(v).sum(axis=2).mean(axis=0) for v in (shap.values[: len(part)], again)]
        if np.isfinite(both).all():
            stability = rank_correlation(*map(list, both))
    return Explanation(model, rows, shap, stability, left_out, rows_left_out)


def _choose(
    predictor: FeaturePredictor, rows: Rows, background: Rows, groups: list[Group], most: int
) -> tuple[list[Group], list[str]]:
    """The groups that change predictions most if they are replaced, and the names of the rest."""
    model = MaskedModel(predictor, background.columns, groups)
    count = int(_SCREENED_CELLS // (len(groups) * model.cells))
    count = max(2, min(_SCREENED_ROWS, count, len(rows)))
    kept = ~np.eye(len(groups), dtype=bool)
    changes = np.zeros(len(groups))
    for number, row in enumerate(np.linspace(0, len(rows) - 1, count).astype(int)):
        others = np.full(len(groups), number % len(background))
        found = model.mixed(rows.columns, int(row), kept, others) - rows.predictions[row]
        changes += np.nan_to_num(np.abs(found).sum(axis=1))
    order = np.argsort(-changes, kind="stable")
    dropped = [groups[place].name for place in sorted(order[most:])]
    return merge_others(groups, order[:most].tolist()), dropped
