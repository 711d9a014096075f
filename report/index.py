"""Makes the index: a page over models, months, runs and versions, with trends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from markupsafe import Markup
from matplotlib.axes import Axes

from report.page import PLAIN, TONES, render
from report.plots import BAD, FIRST, MUTED, SECOND, draw, finite, label, unzip
from report.texts import number

# Runs in a trend, and in the table of a model.
_MOST_POINTS, _MOST_RUNS, _MOST_VERSIONS = 48, 200, 50


@dataclass(frozen=True)
class IndexedRun:
    """A run in the index.

    Attributes:
      run_id: Its id.
      outcome: How it ended.
      started: When it began, ISO 8601.
      seconds: How long it took; None if unknown.
      version: The version that it pushed, or None.
      reasons: Why it ended as it did.
      months: Numbers of spans, by split.
      page: Relative path of its page; "" if it has none.
      facts: What `report.page.Page.facts` holds; empty if unknown.
    """

    run_id: str
    outcome: str
    started: str = ""
    seconds: float | None = None
    version: int | None = None
    reasons: tuple[str, ...] = ()
    months: Mapping[str, Sequence[int]] = field(default_factory=dict)
    page: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tone(self) -> str:
        """How its outcome looks."""
        return TONES.get(self.outcome, PLAIN)

    @property
    def address(self) -> str:
        """Relative address of its page."""
        return quote(self.page)

    @property
    def headline(self) -> Mapping[str, Any]:
        """Its headline metric; empty if it was not evaluated."""
        found = self.facts.get("headline")
        return found if isinstance(found, Mapping) else {}


@dataclass(frozen=True)
class Version:
    """A version in the Serving directory.

    Attributes:
      name: Name of the model for servers.
      version: Its number.
      state: "live", "older" or "rolled back".
      provenance: Its provenance record; empty if it has none.
    """

    name: str
    version: int
    state: str
    provenance: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Model:
    """A model with its runs, newest first, and its versions."""

    name: str
    runs: tuple[IndexedRun, ...] = ()
    versions: tuple[Version, ...] = ()


def make_index(models: Sequence[Model]) -> str:
    """Makes the index.

    Args:
      models: The models.

    Returns:
      An HTML document that refers to nothing but the pages of runs.
    """
    shown = [
        {
            "name": model.name,
            "runs": model.runs[:_MOST_RUNS],
            "more_runs": max(len(model.runs) - _MOST_RUNS, 0),
            "versions": model.versions[:_MOST_VERSIONS],
            "live": next((v for v in model.versions if v.state == "live"), None),
            "title": _title(model.runs),
            "trends": _trends(model.runs),
        }
        for model in models
    ]
    return render("index.html.j2", models=shown)


def _title(runs: Sequence[IndexedRun]) -> str:
    """Name of the headline metric of the newest run that has one."""
    titles = (str(run.headline.get("title", "")) for run in runs)
    return next(filter(None, titles), "headline metric")


def _trends(runs: Sequence[IndexedRun]) -> list[tuple[str, Markup]]:
    """Plots over the runs that were evaluated, oldest first; none of fewer than two."""
    known = [run for run in runs if run.headline.get("value") is not None][:_MOST_POINTS][::-1]
    if len(known) < 2:
        return []
    title = _title(known[::-1])
    known = [run for run in known if run.headline.get("title") == title]
    trends = [(f"{title} by run", _plot_headline(known, title))]
    sizes = [_thousandth(run.facts.get("bytes")) for run in known]
    if len(finite(sizes)) > 1:
        about = "Size of model.tflite in kB by run"
        trends.append(("Size of model.tflite", _plot_line(known, sizes, "kB", about)))
    ratios = [(run.facts.get("drift") or {}).get("ratio") for run in known]
    if len(finite(ratios)) > 1:
        about = "Drift nearest its limit, as a share of the limit, by run"
        trends.append(
            ("Drift nearest its limit", _plot_line(known, ratios, "share of the limit", about, 1.0))
        )
    return trends


def _thousandth(value: Any) -> float | None:
    return value / 1000 if isinstance(value, int | float) else None


def _plot_headline(runs: Sequence[IndexedRun], title: str) -> Markup:
    def function(axes: Axes) -> None:
        boosting = [(run.facts.get("baselines") or {}).get("boosting") for run in runs]
        served = [run.headline.get("baseline") for run in runs]
        for values, colour, style, name in (
            (boosting, MUTED, ":", "gradient boosting"),
            (served, SECOND, "--", "served model"),
        ):
            points = finite(range(len(runs)), values)
            if points:
                axes.plot(*unzip(points, 2), color=colour, linestyle=style, label=name)
        values = [run.headline.get("value") for run in runs]
        axes.plot(*unzip(finite(range(len(runs)), values), 2), color=FIRST, label="new model")
        ends = [[run.headline.get(end) for run in runs] for end in ("low", "high")]
        for at, low, high in finite(range(len(runs)), *ends):
            axes.plot([at, at], [low, high], color=FIRST, linewidth=1.0, alpha=0.6)
        for at, run in enumerate(runs):
            for _, value in finite([at], [values[at]]):
                colour, marker = (FIRST, "o") if run.outcome == "pushed" else (BAD, "X")
                axes.scatter(at, value, s=26, zorder=3, color=colour, marker=marker)
        _label_runs(axes, runs)
        axes.set_ylabel(title)
        axes.legend(loc="best", fontsize=8)

    last = number(runs[-1].headline.get("value"))
    about = f"{title} of {len(runs)} runs, at last {last}; crosses were not pushed"
    return draw(about, function)


def _plot_line(
    runs: Sequence[IndexedRun],
    values: Sequence[Any],
    unit: str,
    about: str,
    limit: float | None = None,
) -> Markup:
    def function(axes: Axes) -> None:
        points = finite(range(len(runs)), values)
        axes.plot(*unzip(points, 2), color=FIRST, marker="o", markersize=4)
        if limit is not None:
            axes.axhline(limit, color=BAD, linewidth=1.0, linestyle="--")
        axes.set_ylim(0, max([limit or 0.0, *(value for _, value in points)]) * 1.12 or 1.0)
        axes.set_ylabel(unit)
        _label_runs(axes, runs)

    return draw(about, function)


def _label_runs(axes: Axes, runs: Sequence[IndexedRun]) -> None:
    """Names the runs by the span that they were evaluated on, as many as there is room for."""
    step = -(-len(runs) // 6)
    names = [label("".join(map(str, run.months.get("test", ())[:1])) or "?", 10) for run in runs]
    axes.set_xticks(range(0, len(runs), step), names[::step])
    axes.set_xlabel("span of the evaluation")
