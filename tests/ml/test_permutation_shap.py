"""SHAP values by the permutation explainer: what they sum to, and what they cost."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml.permutation_shap import Arrays, PermutationShap, check_groups

CHANCE = np.random.default_rng(3)
BACKGROUND = {
    "a": CHANCE.normal(size=5).astype(np.float32),
    "b": CHANCE.normal(size=(5, 2)).astype(np.float32),
    "c": np.array([b"x", b"", b"yy", b"x", b""], object),
}
ROWS = {
    "a": np.array([1.0, np.nan, -2.0], np.float32),
    "b": np.array([[0.0, 1.0], [2.0, 0.5], [1.0, 1.0]], np.float32),
    "c": np.array([b"x", b"zzz", b""], object),
}


def predict(rows: Arrays) -> np.ndarray:
    """Two outputs that depend on features together."""
    lengths = np.array([len(text) for text in rows["c"]])
    first = np.nan_to_num(rows["a"]) * rows["b"][:, 0] + lengths
    return np.stack([first, lengths * rows["b"][:, 1]], axis=1).astype(float)


def test_permutation_shap_of_many_rows_is_that_of_each() -> None:
    shap = PermutationShap(BACKGROUND, {})
    assert shap.names == ["a", "b[0]", "b[1]", "c"]
    found = shap.explain(predict, ROWS)
    for row in range(3):
        one = shap.explain(predict, {name: array[row : row + 1] for name, array in ROWS.items()})
        np.testing.assert_allclose(found.values[row], one.values[0], atol=1e-12)
    np.testing.assert_allclose(found.values.sum(axis=1) + found.base, predict(ROWS), atol=1e-12)
    assert shap.explain(predict, {n: a[:0] for n, a in ROWS.items()}).values.shape == (0, 4, 2)


def test_permutation_shap_is_near_the_mean_over_all_orders() -> None:
    shap = PermutationShap(BACKGROUND, {"b": ["b"]})
    names = ["b", "a", "c"]
    assert shap.names == names
    exact = np.zeros((3, 2))
    row = {name: array[:1] for name, array in ROWS.items()}
    orders = list(permutations(range(3)))
    for order in orders:
        mixed, before = dict(BACKGROUND), predict(BACKGROUND).mean(axis=0)
        for place in order:
            name = names[place]
            mixed[name] = np.repeat(row[name], 5, axis=0)
            after = predict(mixed).mean(axis=0)
            exact[place] += (after - before) / len(orders)
            before = after
    found = shap.explain(predict, row).values[0]
    np.testing.assert_allclose(found, exact, atol=0.15)


def test_permutation_shap_of_one_group_is_the_whole_difference() -> None:
    shap = PermutationShap(BACKGROUND, {"all": ["a", "b", "c"]})
    found = shap.explain(predict, ROWS)
    np.testing.assert_allclose(found.values[:, 0], predict(ROWS) - found.base)
    assert shap.evaluations == 1


@given(st.integers(1, 2000), st.integers(1, 300))
def test_permutation_shap_takes_bounded_predictions(features: int, rows: int) -> None:
    background = {f"f{n}": np.zeros(rows, np.float32) for n in range(features)}
    shap = PermutationShap(background, {})
    assert shap.evaluations <= max(12_000, 2 * features)


def test_permutation_shap_counts_the_predictions_of_a_row() -> None:
    counted = [0]

    def count(rows: Arrays) -> np.ndarray:
        counted[0] += len(rows["a"])
        return predict(rows)

    shap = PermutationShap(BACKGROUND, {})
    shap.explain(count, ROWS)
    assert counted[0] == 5 + 3 * shap.evaluations


@pytest.mark.parametrize(
    "groups",
    [
        [],
        {"g": ["a"], "h": ["a"]},
        {"g": ["a", "a"]},
        {"g": []},
        {"g": [["a"]]},
        {"g": ["d"]},
        {"a": ["c"]},
        {"g": "a"},
    ],
)
def test_check_groups_refuses_what_is_no_division_of_inputs(groups: Any) -> None:
    with pytest.raises(ValueError, match="group"):
        check_groups(groups, BACKGROUND)
