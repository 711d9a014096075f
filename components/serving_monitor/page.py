"""The page that shows what ServingMonitor measured: one HTML file with its plots inside."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

import jinja2
import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_BLUE, _GREY, _RED = "#2f6db5", "#9aa3ad", "#c0392b"
_MOST_BARS = 24
_FURTHEST = 2.0

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ model }} {{ version }}, {{ since }} to {{ until }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2733; max-width: 62rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.verdict { padding: .6rem 1rem; border-left: .4rem solid #2e8b57; background: #eef7f1; }
.verdict.alarm { border-color: #c0392b; background: #fbeeec; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; padding: .25rem .6rem; border-bottom: 1px solid #dde3ea;
  vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
tr.alarm td { background: #fbeeec; }
svg { max-width: 100%; height: auto; }
</style>
</head>
<body>
<h1>{{ model }}, version {{ version }}</h1>
<p>Requests of {{ since }} to {{ until }} (UTC): {{ "{:,}".format(requests.rows.current) }} rows</p>
{% if alarms %}
<div class="verdict alarm"><strong>{{ alarms | length }} alarm{{ "s" if alarms[1:] }}</strong>
<ul>{% for text in alarms %}<li>{{ text }}</li>{% endfor %}</ul></div>
{% else %}
<div class="verdict"><strong>{{ "No alarm" if judged else "Too few rows to judge" }}</strong></div>
{% endif %}
<ul>{% for note in notes %}<li>{{ note }}</li>{% endfor %}</ul>

<h2>How near to its limit</h2>
{{ closeness_plot }}

<h2>Predictions</h2>
{{ prediction_plot }}
<table>
<tr><th></th><th class="number">rows</th><th class="number">mean</th>
{% for share in predictions.current.quantiles %}
<th class="number">{{ "{:.0%}".format(share | float) }}</th>
{% endfor %}</tr>
{% for split in ("current", "previous") if split in predictions %}
<tr><td>{{ split }} period</td><td class="number">{{ "{:,}".format(predictions[split].rows) }}</td>
<td class="number">{{ "%.3f" | format(predictions[split].mean) }}</td>
{% for value in predictions[split].quantiles.values() %}
<td class="number">{{ "%.3f" | format(value) }}</td>
{% endfor %}</tr>
{% endfor %}
</table>

{% if live %}
<h2>By the labels that have arrived</h2>
{{ live_plot }}
<table>
<tr><th>slice</th><th class="number">rows</th><th class="number">AUC</th>
<th class="number">mean prediction</th><th class="number">label rate</th></tr>
{% for row in live %}
<tr><td>{{ row.name }}</td><td class="number">{{ "{:,}".format(row.rows) }}</td>
<td class="number">{{ "%.3f" | format(row.auc) }}</td>
<td class="number">{{ "%.3f" | format(row.mean_prediction) }}</td>
<td class="number">{{ "%.3f" | format(row.label_rate) }}</td></tr>
{% endfor %}
</table>
{% endif %}

<h2>All checks</h2>
<table>
<tr><th>check</th><th>of</th><th>against</th>
<th class="number">value</th><th class="number">limit</th></tr>
{% for check in checks %}
<tr{% if check.alarms %} class="alarm"{% endif %} title="{{ check.text }}"><td>{{ check.kind }}</td>
<td>{{ check.subject }}</td><td>{{ check.against }}</td>
{% if check.limit %}
<td class="number">{{ "%.3f" | format(check.value) }}</td>
<td class="number">{{ "≥ " if check.at_least }}{{ "%.3f" | format(check.limit) }}</td>
{% else %}<td></td><td></td>{% endif %}</tr>
{% endfor %}
</table>
</body>
</html>
"""


def render(report: Mapping[str, Any]) -> str:
    """Renders a report of ServingMonitor.

    Args:
      report: What its `report.json` holds.

    Returns:
      An HTML document that refers to nothing outside.
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    plots = {
        "closeness_plot": _plot(report, _plot_closeness, _height(len(_distances(report)))),
        "prediction_plot": _plot(report, _plot_predictions, 3.0),
        "live_plot": _plot(report, _plot_live, _height(len(report["live"]))),
    }
    # The plots are markup; whatever else comes from the log is escaped.
    safe = {name: jinja2.utils.markupsafe.Markup(plot) for name, plot in plots.items()}
    return environment.from_string(_PAGE).render(**report, **safe)


def _height(bars: int) -> float:
    """Inches for a plot of so many horizontal bars."""
    return 1.0 + 0.24 * max(bars, 1)


def _plot(report: Mapping[str, Any], draw: Callable[[Axes, Any], None], height: float) -> str:
    figure = Figure(figsize=(9, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    draw(axes, report)
    picture = io.StringIO()
    # So that one report is one page, not a new one each time.
    with matplotlib.rc_context({"svg.hashsalt": "report"}):
        figure.savefig(picture, format="svg", metadata={"Date": None})
    markup = picture.getvalue()
    return markup[markup.index("<svg") :]


def _distances(report: Mapping[str, Any]) -> list[tuple[str, float, bool]]:
    """Name, value in units of the limit and whether it alarms, of the checks that are the nearest.

    A check of the schema is right or wrong, and near nothing.
    """
    found = []
    for check in report["checks"]:
        value, limit = check["value"], check["limit"]
        if limit <= 0 or (check["at_least"] and value <= 0):
            continue
        closeness = limit / value if check["at_least"] else value / limit
        subject = f" of {check['subject']}" if check["subject"] else ""
        found.append((f"{check['kind']}{subject}, {check['against']}", closeness, check["alarms"]))
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
    for split, color, offset in (("previous", _GREY, -0.2), ("current", _BLUE, 0.2)):
        if split in predictions:
            shares = predictions[split]["histogram"]
            places = [(i + 0.5 + offset) / len(shares) for i in range(len(shares))]
            axes.bar(places, shares, width=0.4 / len(shares), color=color, label=f"{split} period")
            axes.axvline(predictions[split]["mean"], color=color, linewidth=1, linestyle="--")
    rate = predictions["training_label_rate"]
    if rate is not None:
        axes.axvline(rate, color="black", linewidth=1, linestyle=":", label="training label rate")
    axes.set_xlabel("prediction; dashed: its mean")
    axes.set_ylabel("share of the rows")
    axes.legend(frameon=False)


def _plot_live(axes: Axes, report: Mapping[str, Any]) -> None:
    rows = report["live"][::-1]
    places = range(len(rows))
    axes.errorbar(
        [row["auc"] for row in rows],
        places,
        xerr=[3 * row["deviation"] for row in rows],
        fmt="o",
        color=_BLUE,
        ecolor=_GREY,
    )
    axes.set_yticks(places, [row["name"] for row in rows])
    axes.axvline(0.5, color=_RED, linewidth=1, linestyle="--")
    axes.set_xlabel("live AUC, with three standard deviations")
    axes.margins(y=0.05)
