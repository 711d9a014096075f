"""The evaluation of a run: metrics with intervals, slices by harm, curves."""

from __future__ import annotations

from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from ml.file_names import COMPARISON_FILE, CURVES_FILE, SUMMARY_FILE
from ml.metrics import Metric
from ml.tasks import BINARY, MULTICLASS, Task
from report.plots import FIRST, MUTED, SECOND, SERIES, draw, finite, label, unzip
from report.reading import Absent, find, read_json
from report.run import Run
from report.texts import number, plain

_OVERALL = "Overall"
_MOST_SLICES = 60
_MODEL, _SERVED = "model", "served"


def describe_evaluation(run: Run) -> dict[str, Any]:
    """What the template shows of the evaluation.

    Raises:
      Absent: If there is none.
    """
    evaluation = find(run, "Evaluator", "evaluation")
    summary = read_json(evaluation, SUMMARY_FILE)
    task = Task.from_config(summary["task"])
    metric = task.headline
    slices = [each for each in summary["slices"] if each["name"] != _OVERALL]
    overall: dict[str, Any] = next(
        (e for e in summary["slices"] if e["name"] == _OVERALL), {"metrics": {}}
    )
    bounds = {
        where: {t["metric"]: t for t in summary["thresholds"] if t["overall"] == where}
        for where in (True, False)
    }
    ranked = _by_harm(slices, overall["metrics"].get(metric.name, {}).get("value"), metric)
    return {
        "task": task,
        "headline": metric,
        "rows": overall.get("rows"),
        "baseline": summary["baseline"],
        "metrics": [
            _metric_row(m, overall["metrics"][m.name], summary["thresholds"])
            for m in task.metrics
            if m.name in overall["metrics"]
        ],
        "rivals": _rivals(run),
        "slices": _with_scale(ranked[:_MOST_SLICES], overall["metrics"].get(metric.name, {})),
        "slice_bound": bounds[False].get(metric.name, {}),
        "more_slices": max(len(ranked) - _MOST_SLICES, 0),
        **_curves(run),
    }


def headline(run: Run) -> dict[str, Any] | None:
    """The headline metric of a run, overall, for the index; None if it was not evaluated."""
    try:
        summary = read_json(find(run, "Evaluator", "evaluation"), SUMMARY_FILE)
        metric = Task.from_config(summary["task"]).headline
        overall = next(e for e in summary["slices"] if e["name"] == _OVERALL)
        found = dict(overall["metrics"][metric.name])
    except (Absent, KeyError, TypeError, ValueError, StopIteration):
        return None
    return {
        "name": metric.name,
        "title": metric.title,
        "direction": metric.direction,
        "rows": overall["rows"],
        **found,
    }


def _metric_row(
    metric: Metric, found: dict[str, Any], thresholds: list[dict[str, Any]]
) -> dict[str, Any]:
    limits, met = [], True
    for each in thresholds:
        if each["metric"] != metric.name or not each["overall"]:
            continue
        low, high = each.get("lowest"), each.get("highest")
        limits += [f"at least {plain(low)}"] if low is not None else []
        limits += [f"at most {plain(high)}"] if high is not None else []
        value = found.get("value")
        if value is not None:
            met &= (low is None or value >= low) and (high is None or value <= high)
        if change := each.get("change", each.get("relative_change")):
            unit = "" if "change" in each else " of it"
            limits.append(f"at most {plain(abs(change))}{unit} worse than served")
    return {"title": metric.title, "limits": " and ".join(limits), "met": met, **found}


def _rivals(run: Run) -> list[dict[str, Any]]:
    try:
        found = read_json(find(run, "Evaluator", "evaluation"), COMPARISON_FILE)
    except Absent:
        return []
    return list(reversed(found.get("rivals") or []))


def _by_harm(
    slices: list[dict[str, Any]], overall: float | None, metric: Metric
) -> list[dict[str, Any]]:
    """Slices with the headline metric, those first in which the model is worst against overall."""
    ranked = []
    for each in slices:
        found = each["metrics"].get(metric.name, {})
        value = found.get("value")
        known = value is not None and overall is not None
        harm = metric.loss(value, overall) if known else None  # type: ignore[arg-type]
        ranked.append({"name": each["name"], "rows": each["rows"], "harm": harm, **found})
    return sorted(ranked, key=lambda s: (s["harm"] is None, -(s["harm"] or 0.0), s["name"]))


def _with_scale(slices: list[dict[str, Any]], overall: dict[str, Any]) -> list[dict[str, Any]]:
    """Slices with places on a common scale: of value, interval and the value overall."""
    ends = [row.get(key) for row in [*slices, overall] for key in ("low", "value", "high")]
    known = [end for (end,) in finite(ends)]
    if not known:
        return slices
    low, high = min(known), max(known)
    margin = (high - low) * 0.04 or 1.0
    low, high = low - margin, high + margin

    def place(value: float | None) -> float | None:
        return None if value is None else (value - low) / (high - low)

    return [
        {
            **row,
            "at": place(row.get("value")),
            "from": place(row.get("low")),
            "to": place(row.get("high")),
            "overall": place(overall.get("value")),
        }
        for row in slices
    ]


def _curves(run: Run) -> dict[str, Any]:
    try:
        content = read_json(find(run, "Evaluator", "evaluation"), CURVES_FILE)
    except Absent as absent:
        return {"plots": [], "confusion": None, "at_thresholds": [], "curves_note": str(absent)}
    curves, kind = content["curves"], content["kind"]
    own, served = curves[_MODEL], curves.get(_SERVED)
    if kind == BINARY:
        plots = _plot_binary(own, served)
    elif kind == MULTICLASS:
        plots = _plot_multiclass(own)
    else:
        plots = _plot_regression(own)
    return {
        "plots": plots,
        "confusion": _shares_of_rows(own.get("confusion")),
        "at_thresholds": own.get("thresholds") or [],
        "curves_note": f"Curves are of {content['rows']:,} rows.",
    }


_Plots = list[tuple[str, Markup]]


def _plot_binary(own: dict[str, Any], served: dict[str, Any] | None) -> _Plots:
    plots: _Plots = []
    if own["roc"]:
        plots.append(("ROC curve", _plot_roc([("model", own["roc"], FIRST)], served)))
    if own["precision_recall"]:
        plots.append(("Precision and recall", _plot_precision(own, served)))
    plots.append(("Calibration", _plot_calibration(own["calibration"], "share of positives")))
    plots.append(("Scores by label", _plot_scores(own["scores"])))
    return plots


def _plot_roc(
    curves: list[tuple[str, dict[str, Any], str]], served: dict[str, Any] | None = None
) -> Markup:
    if served and served.get("roc"):
        curves = [("served model", served["roc"], MUTED), *curves]

    def function(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=":")
        for name, curve, colour in curves:
            points = finite(curve["false_positive_rate"], curve["true_positive_rate"])
            axes.plot(*unzip(points, 2), color=colour, label=label(name))
        axes.set_xlabel("false positive rate")
        axes.set_ylabel("true positive rate")
        if len(curves) > 1:
            axes.legend(loc="lower right")

    halves = [
        f"{name} {number(float(np.interp(0.1, c['false_positive_rate'], c['true_positive_rate'])))}"
        for name, c, _ in curves
    ]
    about = f"ROC curve; true positive rate where the false one is 0.1: {', '.join(halves)}"
    return draw(about, function)


def _plot_precision(own: dict[str, Any], served: dict[str, Any] | None) -> Markup:
    base = own["precision_recall"]["share_positive"]

    def function(axes: Axes) -> None:
        axes.axhline(base, color=MUTED, linewidth=0.8, linestyle=":")
        if served and served.get("precision_recall"):
            other = served["precision_recall"]
            points = finite(other["recall"], other["precision"])
            axes.plot(*unzip(points, 2), color=MUTED, label="served model")
        curve = own["precision_recall"]
        points = finite(curve["recall"], curve["precision"])
        axes.plot(*unzip(points, 2), color=FIRST, label="model")
        axes.set_xlabel("recall")
        axes.set_ylabel("precision")
        axes.set_ylim(0, 1.02)
        if len(axes.lines) > 2:
            axes.legend()

    return draw(f"Precision by recall; {number(base)} of the rows are positive", function)


def _plot_calibration(groups: list[dict[str, Any]], what: str) -> Markup:
    keys = ("mean_prediction", "share", "low", "high")
    points = finite(*([group[key] for group in groups] for key in keys))

    def function(axes: Axes) -> None:
        axes.axline((0, 0), slope=1, color=MUTED, linewidth=0.8, linestyle=":")
        across, up, low, high = unzip(points, 4)
        below = [max(y - end, 0.0) for y, end in zip(up, low, strict=True)]
        above = [max(end - y, 0.0) for y, end in zip(up, high, strict=True)]
        axes.errorbar(
            across, up, yerr=[below, above], color=FIRST, ecolor=FIRST, marker="o", markersize=4,
            elinewidth=1.0, linewidth=1.2,
        )  # fmt: skip
        top = max([*across, *high, 0.1])
        axes.set_xlim(0, min(top * 1.05, 1.02))
        axes.set_ylim(0, min(top * 1.05, 1.02))
        axes.set_xlabel("mean prediction")
        axes.set_ylabel(what)

    shown = "; ".join(f"predicted {number(p[0], 2)}, found {number(p[1], 2)}" for p in points)
    return draw(f"Calibration by groups of rows: {shown}"[:300], function)


def _plot_scores(scores: dict[str, Any]) -> Markup:
    edges = scores["edges"]

    def function(axes: Axes) -> None:
        for name, colour in (("negative", MUTED), ("positive", SECOND)):
            axes.stairs(scores[name], edges, color=colour, fill=True, alpha=0.45, label=name)
        axes.set_xlabel("prediction")
        axes.set_ylabel("share of the rows")
        axes.legend()

    return draw("Distribution of predictions, of negative and of positive rows", function)


def _plot_multiclass(own: dict[str, Any]) -> _Plots:
    curves = [
        (str(curve["class"]), curve, colour)
        for curve, colour in zip(own["roc"], SERIES, strict=False)
        if curve.get("false_positive_rate")
    ]
    plots: _Plots = []
    if curves:
        title = "ROC curves, one class against the rest"
        if len(own["roc"]) < len(own["confusion"]["classes"]):
            title += ", of the largest classes"
        plots.append((title, _plot_roc(curves)))
    calibration = _plot_calibration(own["calibration"], "share of right predictions")
    return [*plots, ("Calibration of the predicted class", calibration)]


def _shares_of_rows(confusion: dict[str, Any] | None) -> dict[str, Any] | None:
    """A confusion matrix with each cell's share of its row."""
    if not confusion:
        return None
    rows = []
    for name, counts in zip(confusion["classes"], confusion["counts"], strict=True):
        total = sum(counts)
        cells = [{"count": c, "share": c / total if total else 0.0} for c in counts]
        rows.append({"name": name, "cells": cells})
    return {"classes": confusion["classes"], "rows": rows}


def _plot_regression(own: dict[str, Any]) -> _Plots:
    if not own["residuals"]:
        return []
    return [
        ("Residuals", _plot_residuals(own["residuals"])),
        ("Residuals by prediction", _plot_spread(own["groups"])),
        ("Mean label by prediction", _plot_means(own["groups"])),
    ]


def _plot_residuals(residuals: dict[str, Any]) -> Markup:
    def function(axes: Axes) -> None:
        axes.stairs(residuals["shares"], residuals["edges"], color=FIRST, fill=True, alpha=0.5)
        axes.axvline(0, color=MUTED, linewidth=0.8, linestyle=":")
        axes.set_xlabel("prediction less label")
        axes.set_ylabel("share of the rows")

    beside = f"{number(residuals['below'])} below and {number(residuals['above'])} above"
    return draw(f"Distribution of residuals; shares of rows beside it: {beside}", function)


def _plot_spread(groups: list[dict[str, Any]]) -> Markup:
    points = finite(
        [group["mean_prediction"] for group in groups],
        *([group["residuals"][quantile] for group in groups] for quantile in range(5)),
    )

    def function(axes: Axes) -> None:
        across, lowest, low, middle, high, highest = unzip(points, 6)
        axes.fill_between(across, lowest, highest, color=FIRST, alpha=0.15, linewidth=0)
        axes.fill_between(across, low, high, color=FIRST, alpha=0.3, linewidth=0)
        axes.plot(across, middle, color=FIRST, marker="o", markersize=3)
        axes.axhline(0, color=MUTED, linewidth=0.8, linestyle=":")
        axes.set_xlabel("mean prediction")
        axes.set_ylabel("prediction less label")

    about = "Median residual by prediction, with the middle 50% and 90% of the rows"
    return draw(about, function)


def _plot_means(groups: list[dict[str, Any]]) -> Markup:
    points = finite(
        [group["mean_prediction"] for group in groups], [group["mean_label"] for group in groups]
    )

    def function(axes: Axes) -> None:
        across, up = unzip(points, 2)
        if points:
            axes.axline((across[0], across[0]), slope=1, color=MUTED, linewidth=0.8, linestyle=":")
        axes.plot(across, up, color=FIRST, marker="o", markersize=4)
        axes.set_xlabel("mean prediction")
        axes.set_ylabel("mean label")

    return draw("Mean label by mean prediction, in groups of rows", function)
