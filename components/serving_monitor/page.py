"""Renders the monitoring report: one HTML file with its plots inside."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_BLUE, _GREY, _RED = "#2f6db5", "#9aa3ad", "#c0392b"
_MOST_BARS = 24
_FURTHEST = 2.0
_TEMPLATE = "page.html.j2"


def render(report: Mapping[str, Any]) -> str:
    """Renders a report of ServingMonitor.

    Args:
      report: Content of its `report.json`.

    Returns:
      An HTML document that refers to nothing outside.
    """
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        keep_trailing_newline=True,
    )
    plots = {
        "closeness_plot": _plot(report, _plot_closeness, _height(len(_distances(report)))),
        "prediction_plot": _plot(report, _plot_predictions, 3.0),
        "live_plot": _plot(report, _plot_live, _height(len(report["live"]))),
    }
    # The plots are markup; text from the log is escaped.
    safe = {name: jinja2.utils.markupsafe.Markup(plot) for name, plot in plots.items()}
    return environment.get_template(_TEMPLATE).render(**report, **safe)


def _height(bars: int) -> float:
    """Height in inches of a plot of so many horizontal bars."""
    return 1.0 + 0.24 * max(bars, 1)


def _plot(report: Mapping[str, Any], draw: Callable[[Axes, Any], None], height: float) -> str:
    figure = Figure(figsize=(9, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    draw(axes, report)
    picture = io.StringIO()
    # Equal reports make equal pages.
    with matplotlib.rc_context({"svg.hashsalt": "report"}):
        figure.savefig(picture, format="svg", metadata={"Date": None})
    markup = picture.getvalue()
    return markup[markup.index("<svg") :]


def _distances(report: Mapping[str, Any]) -> list[tuple[str, float, bool]]:
    """The checks nearest to their limits: name, value relative to the limit, and whether it alarms.

    Checks of the schema have no distance and are left out.
    """
    found = []
    for check in report["checks"]:
        if check["limit"]:
            subject = f" of {check['subject']}" if check["subject"] else ""
            name = f"{check['kind']}{subject}, {check['against']}"
            found.append((name, check["closeness"], check["alarms"]))
    return sorted(found, key=lambda distance: -distance[1])[:_MOST_BARS]


def _plot_closeness(axes: Axes, report: Mapping[str, Any]) -> None:
    bars = _distances(report)[::-1]
    axes.barh(
        [name for name, _, _ in bars],
        [min(value, _FURTHEST) for _, value, _ in bars],
        color=[_RED if alarms else _BLUE for _, _, alarms in bars],
    )
    axes.axvline(1, color=_RED, linewidth=1, linestyle="--")
    axes.set_xlim(0, _FURTHEST)
    axes.set_xlabel(f"value / limit; what is above {_FURTHEST:g} is cut")
    axes.margins(y=0.01)


def _plot_predictions(axes: Axes, report: Mapping[str, Any]) -> None:
    predictions = report["predictions"]
    names = [*predictions["bins"], "not finite"]
    for split, color, offset in (("previous", _GREY, -0.2), ("current", _BLUE, 0.2)):
        if split in predictions:
            places = [place + offset for place in range(len(names))]
            shares = predictions[split]["histogram"]
            axes.bar(places, shares, width=0.4, color=color, label=f"{split} period")
    step = max(1, len(names) // _MOST_BARS)
    axes.set_xticks(range(0, len(names), step), names[::step], rotation=30, ha="right")
    axes.set_xlabel("prediction")
    axes.set_ylabel("share of the rows")
    axes.legend(frameon=False)


def _plot_live(axes: Axes, report: Mapping[str, Any]) -> None:
    headline = report["headline"]
    name = headline["name"]
    rows = [row for row in report["live"] if row["metrics"][name] is not None][::-1]
    places = range(len(rows))
    axes.errorbar(
        [row["metrics"][name] for row in rows],
        places,
        xerr=[3 * row["deviations"][name] for row in rows],
        fmt="o",
        color=_BLUE,
        ecolor=_GREY,
    )
    axes.set_yticks(places, [row["name"] for row in rows])
    axes.set_xlabel(f"live {headline['title']}, with three standard deviations")
    axes.margins(y=0.05)
