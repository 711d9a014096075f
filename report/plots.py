"""Draws plots as SVG that is part of a page: its colours are the page's, also in the dark."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from xml.etree import ElementTree

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from report.texts import clip

# Colours that are drawn with, and the page's colours that take their places.
INK, MUTED, GRID = "#010101", "#020202", "#030303"
FIRST, SECOND, THIRD, GOOD, BAD = "#040404", "#050505", "#060606", "#070707", "#080808"
SERIES = (FIRST, SECOND, THIRD, GOOD, BAD, MUTED)
_VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--line)",
    FIRST: "var(--first)",
    SECOND: "var(--second)",
    THIRD: "var(--third)",
    GOOD: "var(--good)",
    BAD: "var(--bad)",
}
_SVG, _LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # Texts stay texts.
    "text.parse_math": False,
    "font.family": ["sans-serif"],
    "font.size": 9.0,
    "axes.titlesize": 9.0,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.linewidth": 0.8,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "figure.facecolor": "none",
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
}
# Inches at 72 points: so wide that a text is readable where a page is 400 pixels wide.
WIDTH, HEIGHT = 4.1, 2.9


def draw(
    description: str,
    function: Callable[[Axes], None],
    *,
    height: float = HEIGHT,
    width: float = WIDTH,
) -> Markup:
    """Draws a plot.

    Args:
      description: What it shows, for those who do not see it.
      function: Draws on the axes; texts from data go through `label`.
      height: In inches.
      width: In inches.

    Returns:
      An `<svg>` element. It holds no text from data as markup: matplotlib escapes texts, and what
      it wrote is parsed and written again.
    """
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": "report"}):
        figure = Figure(figsize=(width, height), layout="constrained")
        function(figure.add_subplot())
        picture = io.BytesIO()
        figure.savefig(picture, format="svg", metadata={"Date": None, "Creator": None})
    return Markup(_as_part_of_page(picture.getvalue(), str(description)))


def label(text: object, length: int = 24) -> str:
    """A text from data for a plot: without unseen characters, and not too long."""
    return clip(text, length)


def finite(*columns: Iterable[Any]) -> list[tuple[float, ...]]:
    """The rows of columns in which every value is a finite number.

    Example:
      >>> finite([1, 2, None], [3.0, float("nan"), 4])
      [(1.0, 3.0)]
    """
    return [
        tuple(float(value) for value in row)
        for row in zip(*columns, strict=False)
        if all(isinstance(value, int | float) and math.isfinite(value) for value in row)
    ]


def unzip(rows: Sequence[tuple[float, ...]], columns: int) -> list[list[float]]:
    """The columns of rows; as many, if there are no rows."""
    return [[row[number] for row in rows] for number in range(columns)]


def _as_part_of_page(svg: bytes, description: str) -> str:
    """The SVG with ids of its own, the page's colours, and a description."""
    ElementTree.register_namespace("", "http://www.w3.org/2000/svg")
    root = ElementTree.fromstring(svg)
    # Several plots of a page have no id in common, and equal runs have equal pages.
    prefix = f"p{hashlib.sha256(svg).hexdigest()[:8]}-"
    for parent in (root, *root.findall(f"{_SVG}defs")):
        # The style would hold for the whole page, which has the same in its own.
        for child in [*parent.findall(f"{_SVG}metadata"), *parent.findall(f"{_SVG}style")]:
            parent.remove(child)
    for element in root.iter():
        for name, value in list(element.attrib.items()):
            if name == "id":
                element.set(name, prefix + value)
            elif name == _LINK:
                del element.attrib[name]
                element.set("href", value.replace("#", f"#{prefix}", 1))
            elif name in ("style", "clip-path"):
                value = value.replace("url(#", f"url(#{prefix}")
                for colour, variable in _VARIABLES.items():
                    value = value.replace(colour, variable)
                element.set(name, value)
    drawing = ElementTree.tostring(root, encoding="unicode").partition(">")[2]
    box = root.get("viewBox", "")
    width = float(box.split()[2]) if box else 100.0
    # The text of an attribute: escaped as all others are.
    opening = Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="{}" role="img" aria-label="{}" '
        'style="max-width: {:.0f}px">'
    ).format(box, clip(description, 300), width * 1.5)
    return str(opening) + drawing
