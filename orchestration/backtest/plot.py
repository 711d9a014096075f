"""Draws backtests: the headline metric by month above; drift and outcomes below."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from math import nan
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from ml.metrics import Metric
from orchestration.backtest.months import Month
from orchestration.outcome import Outcome

_COLORS = ("#1f6feb", "#d9480f", "#2b8a3e", "#862e9c", "#c2255c", "#0b7285")
_BASELINE_COLOR = "#868e96"
# By field: label, line style, color if there is only one backtest, marker.
_LINES = {
    "new_score": ("new model", "-", "#1f6feb", "o"),
    "served_score": ("served model", "--", "#2b8a3e", "s"),
    "first_score": ("first model, never retrained", ":", "#d9480f", "v"),
}
_BASELINE = ("gradient boosting", "-.", _BASELINE_COLOR, "D")
_SHORT = {
    Outcome.PUSHED: "pushed",
    Outcome.NOT_BLESSED: "not\nblessed",
    Outcome.STOPPED_BY_GATE: "stopped\nby gate",
    Outcome.NOTHING_NEW: "nothing\nnew",
}


def draw(backtests: Mapping[str, Sequence[Month]], path: Path, metric: Metric) -> None:
    """Draws backtests of the same months, some maybe incomplete, into a PNG file."""
    months = sorted({row.month for rows in backtests.values() for row in rows})
    place = {month: number for number, month in enumerate(months)}
    figure = Figure(figsize=(max(8.0, 1.3 * len(months) + 1.5), 7.0), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1.2))
    _draw_scores(above, backtests, place)
    above.set_ylabel(metric.title + ("" if metric.direction == 1 else " (lower is better)"))
    _draw_drift(below, backtests, place)
    below.set_xticks(range(len(months)), [_date(m) for m in months])
    below.set_xlabel("span of the evaluation")
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150)
    path.write_bytes(content.getvalue())


def _date(span: int) -> str:
    """The number of a span as a date: 2013-08 for 201308; a count as it is."""
    digits = str(span)
    if len(digits) not in (6, 8, 10):
        return digits
    return "-".join([digits[:4], *(digits[i : i + 2] for i in range(4, len(digits), 2))])


def _draw_scores(
    axes: Axes, backtests: Mapping[str, Sequence[Month]], place: dict[int, int]
) -> None:
    several = len(backtests) > 1
    baselines: dict[int, float] = {}
    for color, rows in zip(_cycle(len(backtests)), backtests.values(), strict=True):
        for key, (_, style, own, marker) in _LINES.items():
            # A month without a value is a gap in the line.
            scores = [nan if (score := getattr(row, key)) is None else score for row in rows]
            points = list(zip((place[row.month] for row in rows), scores, strict=True))
            shown = color if several else own
            axes.plot(*_columns(points), style, color=shown, marker=marker, markersize=5)
            if key == "new_score":
                held = [p for p, r in zip(points, rows, strict=True) if r.outcome != Outcome.PUSHED]
                axes.plot(*_columns(held), "o", color="white", markeredgecolor=shown, markersize=9)
        baselines |= {r.month: r.baseline_score for r in rows if r.baseline_score is not None}
    _, style, color, marker = _BASELINE
    points = [(place[month], score) for month, score in sorted(baselines.items())]
    axes.plot(*_columns(points), style, color=color, marker=marker, markersize=4)
    axes.grid(axis="y", color="#e9ecef")
    handles = [
        axes.plot([], [], style, color="#495057" if several else own, marker=marker)[0]
        for _, style, own, marker in _LINES.values()
    ]
    handles.append(axes.plot([], [], style, color=color, marker=marker)[0])
    labels = [*(line[0] for line in _LINES.values()), _BASELINE[0]]
    if any(
        r.new_score is not None and r.outcome != Outcome.PUSHED
        for rows in backtests.values()
        for r in rows
    ):
        handles.append(
            Line2D([], [], linestyle="", marker="o", color="white", markeredgecolor="#495057")
        )
        labels.append("not pushed")
    if several:
        handles += [Line2D([], [], color=color, linewidth=6) for color in _cycle(len(backtests))]
        labels += list(backtests)
    axes.figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False)


def _draw_drift(
    axes: Axes, backtests: Mapping[str, Sequence[Month]], place: dict[int, int]
) -> None:
    several = len(backtests) > 1
    width = 0.6 / len(backtests)
    for number, (color, rows) in enumerate(
        zip(_cycle(len(backtests)), backtests.values(), strict=True)
    ):
        for row in rows:
            center = place[row.month] + width * (number - (len(backtests) - 1) / 2)
            share = row.drift[1] / row.drift[2] if row.drift else 0.0
            axes.bar(center, share, width * 0.95, color=color if several else "#adb5bd")
            text = _SHORT.get(row.outcome, row.outcome)
            if several:  # To save room, pushes have no label.
                text = "" if row.outcome == Outcome.PUSHED else text
            elif row.drift:
                text = f"{row.drift[0]}\n{text}"
            axes.annotate(
                text,
                (center, share),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontsize=8,
                rotation=90 if several else 0,
                color="#212529" if row.outcome == Outcome.PUSHED else "#c92a2a",
            )
    axes.axhline(1, color="#c92a2a", linewidth=1, linestyle="--")
    axes.set_ylabel("drift nearest its limit,\nshare of the limit")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_ylim(0, max(1.55, axes.dataLim.y1 + 0.5))


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _cycle(count: int) -> list[str]:
    return [_COLORS[number % len(_COLORS)] for number in range(count)]
