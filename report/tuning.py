"""The search for settings: its trials, the best of them, and what each reached."""

from __future__ import annotations

import math
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ml.file_names import TUNING_FILE
from report.plots import BAD, FIRST, INK, MUTED, draw, finite, unzip
from report.reading import find, read_json
from report.run import Run
from report.texts import number, plain

_MOST_TRIALS = 100


def describe_tuning(run: Run) -> dict[str, Any]:
    """What the template shows of the search; the best trial is the first.

    Raises:
      Absent: If the run left none.
    """
    record = read_json(find(run, "Tuner", "report"), TUNING_FILE)
    metric, best, trials = record["metric"], record["best"], list(record["trials"])
    trials.sort(
        key=lambda trial: (
            trial["number"] != best["number"],
            -metric["direction"] * trial["value"] if trial["value"] is not None else math.inf,
            trial["number"],
        )
    )
    return {
        "metric": metric["title"],
        "best": best,
        "configured": record["configured"],
        "counts": record["counts"],
        "seconds": record["seconds"],
        "seeds": list(trials[0]["by_seed"]),
        "settings": list(record["space"]),
        "trials": [_row(trial, best["number"]) for trial in trials[:_MOST_TRIALS]],
        "more": max(0, len(trials) - _MOST_TRIALS),
        "plot": _plot(record["trials"], record["steps"], metric["title"], best["number"]),
    }


def _row(trial: dict[str, Any], best: int) -> dict[str, Any]:
    last = trial["trainings"][-1] if trial["trainings"] else {}
    return {
        "number": trial["number"],
        "best": trial["number"] == best,
        "state": trial["state"],
        "why": trial["why"],
        "settings": {
            key: number(value) if isinstance(value, float) else plain(value)
            for key, value in trial["settings"].items()
        },
        "value": trial["value"] if trial["value"] is not None else last.get("value"),
        "rows": last.get("rows"),
        "seconds": trial["seconds"],
    }


def _plot(trials: list[dict[str, Any]], steps: list[int], title: str, best: int) -> Markup:
    """What each trial reached on each number of rows, by its number."""
    points = [
        (trial["number"], training["value"], training["rows"])
        for trial in trials
        for training in trial["trainings"]
    ]
    shown = finite(*zip(*points, strict=True))

    def function(axes: Axes) -> None:
        for place, rows in enumerate(steps):
            of_step = [point for point in shown if point[2] == rows]
            colour = FIRST if place + 1 == len(steps) else MUTED
            numbers, values, _ = unzip(of_step, 3)
            axes.scatter(numbers, values, s=12 * (place + 1), color=colour, label=f"{rows:,} rows")
        for x, y, count in shown:
            if x == best and count == steps[-1]:
                axes.scatter([x], [y], s=90, facecolors="none", edgecolors=BAD, linewidths=1.5)
                axes.annotate(" best", (x, y), color=INK, fontsize=8)
        axes.set_xlabel("trial")
        axes.set_ylabel(f"{title} on eval")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend()

    return draw(f"{title} on eval of {len(trials)} trials; the best is trial {best}", function)
