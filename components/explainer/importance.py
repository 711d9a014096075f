"""Summaries of SHAP and LIME values: importance, agreement, and moves against another model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from components.explainer.groups import Group

_NORMAL = 1.96  # Quantile of the normal distribution for 95%.
_TOP = 5


def importance(groups: Sequence[Group], values: np.ndarray) -> list[dict[str, Any]]:
    """The mean absolute SHAP value of each group, over rows, in sum over outputs.

    Args:
      groups: The groups.
      values: SHAP values, float64 [rows, groups, outputs], all of them finite.

    Returns:
      For each group `feature`, `columns`, `mean_abs`, and the 95% interval of the mean, `low` and
      `high` (normal; None for a single row), the most important group first.
    """
    if not len(values):
        return []
    sizes = np.abs(values).sum(axis=2)
    means = sizes.mean(axis=0)
    margins = np.full(len(groups), np.nan)
    if len(sizes) > 1:
        margins = _NORMAL * sizes.std(axis=0, ddof=1) / np.sqrt(len(sizes))
    return [
        {
            "feature": groups[place].name,
            "columns": groups[place].columns,
            "mean_abs": float(means[place]),
            "low": number(max(means[place] - margins[place], 0.0)),
            "high": number(means[place] + margins[place]),
        }
        for place in np.argsort(-means, kind="stable")
    ]


def by_slice(
    groups: Sequence[Group], values: np.ndarray, columns: Mapping[str, np.ndarray], least: int
) -> list[dict[str, Any]]:
    """The importance of groups in each slice of enough rows.

    Args:
      groups: The groups.
      values: SHAP values, float64 [rows, groups, outputs].
      columns: Columns to slice by: the value of each row, NaN or None where it is absent.
      least: Rows that a slice needs.

    Returns:
      For each slice its `slice`, `rows` and `importance`.
    """
    found = []
    for name, column in columns.items():
        rows_of: dict[Any, list[int]] = {}
        for row, value in enumerate(column.tolist()):
            if value is not None and value == value:
                rows_of.setdefault(value, []).append(row)
        for value in sorted(rows_of, key=lambda value: -len(rows_of[value])):
            rows = rows_of[value]
            if len(rows) >= least:
                shown = value.decode(errors="replace") if isinstance(value, bytes) else value
                part = importance(groups, values[rows])
                found.append({"slice": {name: shown}, "rows": len(rows), "importance": part})
    return found


def rank_correlation(
    first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray
) -> float | None:
    """Spearman's rank correlation; None if one of them does not vary."""
    one, other = np.asarray(first, float), np.asarray(second, float)
    if len(one) < 2 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    return number(spearmanr(one, other)[0])


def agreement(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, float | None]:
    """How far SHAP and LIME agree.

    Args:
      pairs: For each row the values of both, float64 [groups].

    Returns:
      The means over rows: `rank_correlation` of the values, and `top5_shared`, the share of the
      five largest values of SHAP that are among those of LIME.
    """
    known = [pair for pair in pairs if np.isfinite(pair).all()]
    correlations = [c for pair in known if (c := rank_correlation(*pair)) is not None]
    shared = [len(_top(one) & _top(other)) / len(_top(one)) for one, other in known if len(one)]
    return {
        "rank_correlation": float(np.mean(correlations)) if correlations else None,
        "top5_shared": float(np.mean(shared)) if shared else None,
    }


def _top(values: np.ndarray) -> set[int]:
    return set(np.argsort(-np.abs(values), kind="stable")[:_TOP].tolist())


def shares(found: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The share of each group in the sum of all importance; 0 if there is none."""
    total = sum(one["mean_abs"] for one in found)
    return {one["feature"]: one["mean_abs"] / total if total else 0.0 for one in found}


def move(
    found: Sequence[Mapping[str, Any]], before: Sequence[Mapping[str, Any]]
) -> dict[str, Any] | None:
    """How far importance moved from that of another model.

    Returns:
      `distance`, the total variation distance of the shares (0 to 1), and the `feature` whose
      share changed most, with its `share` and what it was `before`; None without groups.
    """
    now, then = shares(found), shares(before)
    names = list(dict.fromkeys([*now, *then]))
    if not names:
        return None
    changes = {name: now.get(name, 0.0) - then.get(name, 0.0) for name in names}
    most = max(names, key=lambda name: abs(changes[name]))
    return {
        "distance": sum(map(abs, changes.values())) / 2,
        "feature": most,
        "share": now.get(most, 0.0),
        "before": then.get(most, 0.0),
    }


def number(value: float) -> float | None:
    """A number as JSON has it: None for one that is not finite."""
    return float(value) if np.isfinite(value) else None
