"""SHAP values of groups of features, by the permutation explainer of `shap`.

Shapley values: Lundberg and Lee, A Unified Approach to Interpreting Model Predictions, 2017. The
permutation explainer adds the groups of a row in a random order and takes them away in the same
order, so that the values and the base value sum to the prediction.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from components.explainer.groups import Columns
from components.explainer.masking import MaskedModel


@dataclass(frozen=True)
class ShapValues:
    """SHAP values of rows.

    Attributes:
      values: float64 [rows, groups, outputs], in units of the output; NaN for a row of which a
        masked prediction is not finite.
      base: Mean prediction of the background, float64 [outputs].
    """

    values: np.ndarray
    base: np.ndarray


def shap_values(model: MaskedModel, rows: Columns, permutations: int, seed: int) -> ShapValues:
    """Computes SHAP values.

    A row takes `2 * groups + 1` predictions of each background row, for each permutation.

    Args:
      model: The model.
      rows: Rows by feature, each [rows, ...].
      permutations: Random orders for each row.
      seed: Seed of the orders.

    Returns:
      The values.
    """
    shap = _import_shap()
    count, groups = len(next(iter(rows.values()))), len(model.groups)
    base = model.predict(model.background).mean(axis=0)
    if not groups:
        return ShapValues(np.zeros((count, 0, len(base))), base)

    def predict(masked: np.ndarray) -> np.ndarray:
        found = model.values(rows, int(masked[0, 0]), masked[:, 1:] > 0)
        # A number that is not finite would make a warning of each sum.
        return found if np.isfinite(found).all() else np.full_like(found, np.nan)

    evaluations = 2 * groups + 1
    settings = {"main_effects": False, "error_bounds": False, "outputs": None, "silent": True}
    state = np.random.get_state()  # It draws from the generator of all.
    try:
        explainer = shap.explainers.Permutation(predict, _Masks(), seed=seed)
        # Called with all rows, shap 0.49 evaluates main effects too, which nobody asked for.
        found = [
            explainer.explain_row(
                np.full(groups, float(row)),
                max_evals=permutations * evaluations,
                batch_size=evaluations,
                **settings,
            )["values"]
            for row in range(count)
        ]
    finally:
        np.random.set_state(state)
    return ShapValues(np.asarray(found, float).reshape(count, groups, -1), base)


class _Masks:
    """Hands the masks of `shap` on: `MaskedModel` makes and averages the rows at once.

    `shap` passes a row as its number, once for each group.
    """

    immutable_outputs = True

    def __call__(self, mask: np.ndarray, row: np.ndarray) -> np.ndarray:
        return np.concatenate([row[:1], mask])[None]


def _import_shap() -> Any:
    """Imports `shap` without the compiler of its loops.

    That takes 9 seconds, and here the loops are over masks alone.
    """
    import numba

    config: Any = numba.config
    before = config.DISABLE_JIT
    config.DISABLE_JIT = True
    try:
        import shap
    finally:
        config.DISABLE_JIT = before
    return shap


def interactions(
    model: MaskedModel, rows: Columns, most: int, groups: list[int]
) -> list[tuple[tuple[int, int], float]]:
    """How much the effect of a group depends on another.

    The discrete second derivative of the prediction by both (Grabisch and Roubens, An axiomatic
    approach to the concept of interaction, 1999), at two coalitions: with all other groups left
    out, and with all of them kept.

    Args:
      model: The model.
      rows: Rows by feature, each [rows, ...].
      most: Rows to take at most.
      groups: Places of the groups, of which all pairs are taken.

    Returns:
      Pairs of groups, and the mean of its absolute value over rows, coalitions and outputs; the
      strongest first.
    """
    count = min(most, len(next(iter(rows.values()))))
    pairs = list(combinations(groups, 2))
    if not pairs or not count:
        return []
    masks = np.zeros((len(pairs), 2, 4, len(model.groups)), bool)
    masks[:, 1] = True
    for number, pair in enumerate(pairs):
        for corner, kept in enumerate([(False, False), (True, False), (False, True), (True, True)]):
            masks[number, :, corner, list(pair)] = np.array(kept)[:, None]
    strengths = []
    for row in range(count):
        found = model.values(rows, row, masks.reshape(-1, len(model.groups)))
        none, first, second, both = np.moveaxis(found.reshape(len(pairs), 2, 4, -1), 2, 0)
        strengths.append(np.abs(both - first - second + none).mean(axis=(1, 2)))
    finite = np.isfinite(strengths)
    sums = np.where(finite, strengths, 0.0).sum(axis=0)
    means = np.where(finite.any(axis=0), sums / np.maximum(finite.sum(axis=0), 1), np.nan)
    return sorted(zip(pairs, means.tolist(), strict=True), key=lambda pair: -np.nan_to_num(pair[1]))
