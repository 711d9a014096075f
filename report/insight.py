"""Fairness and explanations of a run, where it has them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ml.file_names import EXPLANATIONS_FILE, FAIRNESS_FILE
from report.reading import Absent, find, read_json, read_picture
from report.run import Run
from report.texts import plain

_MOST_FEATURES, _MOST_ROWS, _MOST_CONTRIBUTIONS = 25, 8, 6
_MOST_SLICES = 60
_PICTURES = {
    "beeswarm.svg": "SHAP values of the rows, by feature",
    **{f"dependence-{n}.svg": f"Dependence on the feature of rank {n}" for n in range(1, 4)},
}


def describe_fairness(run: Run) -> dict[str, Any]:
    """What the template shows of fairness.

    Raises:
      Absent: If it was not measured.
    """
    try:
        found = read_json(find(run, "Evaluator", "evaluation"), FAIRNESS_FILE)
    except Absent as absent:
        text = str(absent)
        if text.startswith("Not made: there is no"):
            text = "Not made: the model's configuration names no columns for it."
        raise Absent(text) from absent
    rows = found.get("metrics") or []
    names = [n for n, v in (rows[0] if rows else {}).items() if isinstance(v, Mapping)]
    return {
        "columns": found.get("columns") or [],
        "names": [name for name in names if name != "slice"],
        "by_threshold": any("threshold" in row for row in rows),
        "metrics": [{**row, "name": _name(row)} for row in rows[:_MOST_SLICES]],
        "comparisons": [
            {
                **each,
                "metric": _metric(each),
                "between": [_name_of(s) for s in each.get("slices") or ()],
            }
            for each in (found.get("comparisons") or [])[:_MOST_SLICES]
        ],
        "worst": [
            {**each, "name": _name(each), "metric": _metric(each)}
            for each in (found.get("worst_slices") or [])[:_MOST_ROWS]
        ],
    }


def _name(row: Mapping[str, Any]) -> str:
    name = _name_of(row.get("slice"))
    return f"{name}, {row['class']}" if "class" in row else name


def _metric(row: Mapping[str, Any]) -> str:
    """Name of a metric, with the threshold that it is of."""
    name = str(row.get("metric", "")).replace("_", " ")
    return f"{name} at {plain(row['threshold'])}" if "threshold" in row else name


def _name_of(pairs: Any) -> str:
    if not isinstance(pairs, Mapping):
        return str(pairs)
    return ", ".join(f"{column}: {value}" for column, value in pairs.items()) or "Overall"


def describe_explanations(run: Run) -> dict[str, Any]:
    """What the template shows of the explanations.

    Raises:
      Absent: If there are none.
    """
    node = run.node("Explainer")
    if node is None or not node.outputs:
        raise Absent("Not made: the run has no Explainer, or did not reach it.")
    keys = [key for key in node.outputs if "bless" not in key]
    artifact = find(run, "Explainer", keys[0])
    found = read_json(artifact, EXPLANATIONS_FILE)
    importance = found.get("importance") or []
    most = max((abs(each.get("mean_abs") or 0.0) for each in importance), default=0.0)
    pictures = []
    for name, text in _PICTURES.items():
        try:
            pictures.append((text, read_picture(artifact, name)))
        except Absent:
            continue
    return {
        **{key: found.get(key) for key in ("method", "rows", "background_rows", "units")},
        "importance": [
            {**each, "share": (each.get("mean_abs") or 0.0) / most if most else 0.0}
            for each in importance[:_MOST_FEATURES]
        ],
        "more": max(len(importance) - _MOST_FEATURES, 0),
        "agreement": found.get("agreement") or {},
        "stability": found.get("stability") or {},
        "interactions": [
            {"features": " and ".join(map(str, each["features"])), "strength": each["strength"]}
            for each in (found.get("interactions") or [])[:_MOST_ROWS]
        ],
        "examples": [
            {**row, "contributions": _largest((row.get("shap") or {}).items())}
            for row in (found.get("rows_explained") or [])[:_MOST_ROWS]
        ],
        "left_out": found.get("left_out") or [],
        "pictures": pictures,
    }


def _largest(contributions: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
    known = [(n, v) for n, v in contributions if isinstance(v, int | float)]
    return sorted(known, key=lambda pair: -abs(pair[1]))[:_MOST_CONTRIBUTIONS]
