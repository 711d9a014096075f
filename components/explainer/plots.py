"""Plots of SHAP values, as SVG. What is in the data is text there, never markup or formula."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import LinearSegmentedColormap, to_rgba
from matplotlib.figure import Figure

from components.explainer.groups import Columns, Group

_LOW, _HIGH, _PLAIN = "#2b6cb0", "#c53030", "#718096"
_COLOURS = LinearSegmentedColormap.from_list("value", [_LOW, _HIGH])
_MOST_FEATURES, _MOST_CATEGORIES = 12, 12
_LONGEST = 40


def beeswarm(
    groups: Sequence[Group], order: Sequence[int], values: np.ndarray, rows: Columns, units: str
) -> bytes:
    """Draws the SHAP value of each row, a line of points for each group.

    Args:
      groups: The groups.
      order: Places of the groups, the most important first.
      values: SHAP values of one output, float64 [rows, groups].
      rows: The rows by feature, each [rows, ...]; a point has the colour of its value.
      units: Units of the values.

    Returns:
      The SVG.
    """
    shown = list(order[:_MOST_FEATURES])
    figure = Figure(figsize=(8, 1.2 + 0.42 * len(shown)), layout="constrained")
    axis = figure.add_subplot()
    for height, place in enumerate(reversed(shown)):
        found = values[:, place]
        colours = _value_colours(groups[place], rows)
        # As an image: 12,000 points would be megabytes of SVG.
        axis.scatter(
            *(found, height + _spread(found)), s=9, c=colours, linewidths=0, rasterized=True
        )
    names = [shorten(groups[place].name) for place in reversed(shown)]
    axis.set_yticks(range(len(shown)), names, parse_math=False)
    axis.axvline(0, color="#a0aec0", linewidth=1, zorder=0)
    label = f"SHAP value, {shorten(units)} (blue: low value, red: high, grey: no order)"
    axis.set_xlabel(label, parse_math=False)
    axis.spines[["top", "right", "left"]].set_visible(False)
    return _svg(figure, f"SHAP values of {len(values):,} rows by feature")


def dependence(name: str, column: np.ndarray, values: np.ndarray, units: str) -> bytes:
    """Draws SHAP values by the values of a feature: numbers, or its most frequent categories.

    Args:
      name: The feature.
      column: Its values, [rows]: numbers, NaN where absent, or bytes, b"" where absent.
      values: SHAP values of one output, float64 [rows].
      units: Units of the values.

    Returns:
      The SVG.
    """
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axis = figure.add_subplot()
    if column.dtype.kind in "fiub":
        numbers = column.astype(float)
        present = np.isfinite(numbers)
        axis.scatter(
            *(numbers[present], values[present]), s=9, c=_LOW, linewidths=0, rasterized=True
        )
        if not present.all():
            mean = values[~present].mean()
            axis.axhline(mean, color=_PLAIN, linestyle="--", linewidth=1)
            axis.annotate(
                f"absent ({(~present).sum():,} rows)",
                (0.01, mean),
                color=_PLAIN,
                va="bottom",
                xycoords=("axes fraction", "data"),
            )
    else:
        _draw_categories(axis, column, values)
    axis.axhline(0, color="#a0aec0", linewidth=1, zorder=0)
    axis.set_xlabel(shorten(name), parse_math=False)
    axis.set_ylabel(f"SHAP value, {shorten(units)}", parse_math=False)
    axis.spines[["top", "right"]].set_visible(False)
    return _svg(figure, f"SHAP values by {shorten(name)}")


def shorten(text: str) -> str:
    """A text of the data as a label: on one line and not too long."""
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _draw_categories(axis: Axes, column: np.ndarray, values: np.ndarray) -> None:
    texts = np.array([str(shorten(v.decode(errors="replace")) or "(absent)") for v in column])
    names, counts = np.unique(texts, return_counts=True)
    names = names[np.argsort(-counts, kind="stable")][:_MOST_CATEGORIES]
    names = sorted(names, key=lambda name: -values[texts == name].mean())
    for place, name in enumerate(names):
        found = values[texts == name]
        axis.scatter(place + _spread(found), found, s=9, c=_LOW, linewidths=0, rasterized=True)
    axis.set_xticks(range(len(names)), names, rotation=45, ha="right", parse_math=False)


def _value_colours(group: Group, rows: Columns) -> np.ndarray:
    """The colour of each row's value by its rank; grey if it has none, or several values."""
    plain = np.array(to_rgba(_PLAIN))
    count = len(next(iter(rows.values())))
    colours = np.tile(plain, (count, 1))
    columns = [rows[name][:, cells] for name, cells in group.cells.items()]
    if len(columns) > 1 or columns[0].shape[1] > 1 or columns[0].dtype.kind not in "fiub":
        return colours
    numbers = columns[0][:, 0].astype(float)
    present = np.isfinite(numbers)
    known, ranks = np.unique(numbers[present], return_inverse=True)
    colours[present] = _COLOURS(ranks / max(len(known) - 1, 1))
    return colours


def _spread(values: np.ndarray) -> np.ndarray:
    """Moves points of about the same value aside, up to 0.4, so that all can be seen."""
    aside = np.zeros(len(values))
    width = np.ptp(values) if len(values) else 0.0
    bins = np.round(values / width * 100).astype(int) if width else np.zeros(len(values), int)
    order = np.argsort(bins, kind="stable")
    _, counts = np.unique(bins[order], return_counts=True)
    within = np.concatenate([np.arange(count) for count in counts] or [np.empty(0)])
    most = max(counts, default=1)
    steps = np.ceil(within / 2) * np.where(within % 2, 1, -1)
    aside[order] = 0.8 * steps / max(most, 2)
    return aside


def _svg(figure: Figure, title: str) -> bytes:
    FigureCanvasSVG(figure)
    content = io.BytesIO()
    # Neither dates nor random ids: the same values give the same file.
    with rc_context({"svg.hashsalt": "explanations", "svg.fonttype": "none"}):
        figure.savefig(content, format="svg", dpi=110, metadata={"Date": None, "Title": title})
    return content.getvalue()
