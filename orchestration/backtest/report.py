"""Reports backtests as a table, a conclusion and a CSV file."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from ml.metrics import Metric
from orchestration.backtest.months import SCORES, Month, mean_scores
from orchestration.local.output_directory import write_whole
from orchestration.outcome import Outcome


def make_table(backtests: Mapping[str, Sequence[Month]], metric: Metric) -> Table:
    """A row for each month of each backtest, and the means over months that have all scores.

    Args:
      backtests: The months by name of the backtest.
      metric: The metric of the scores.
    """
    better = "" if metric.direction == 1 else " (lower is better)"
    table = Table(
        title=f"{metric.title} on each span{better}",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    several = len(backtests) > 1
    if several:
        table.add_column("settings", no_wrap=True)
    table.add_column("month", no_wrap=True)
    for label in SCORES.values():
        table.add_column(label, justify="right")
    table.add_column("drift nearest its limit", overflow="fold")
    table.add_column("decision", overflow="fold")
    for name, months in backtests.items():
        first = [name] if several else []
        for row in months:
            values = (_show(metric, getattr(row, key)) for key in SCORES)
            style = "" if row.outcome == Outcome.PUSHED else "yellow"
            texts = (_show_drift(row.drift), Text(row.decision, style))
            table.add_row(*first, str(row.month), *values, *texts)
        means = mean_scores(months)
        if means:
            values = (metric.show(means[key]) for key in SCORES)
            table.add_row(*first, "mean", *values, style="bold", end_section=True)
    return table


def conclusion(backtests: Mapping[str, Sequence[Month]], metric: Metric) -> list[str]:
    """A line on the gain by retraining, for each backtest that served more than one version."""
    lines = []
    for name, months in backtests.items():
        means = mean_scores(months)
        if means and len({m.served_version for m in months} - {None}) > 1:
            gain = metric.loss(means["first_score"], means["served_score"])
            shown = f"{gain:+.1%}" if metric.relative else f"{gain:+.4f}"
            prefix = f"{name}: " if len(backtests) > 1 else ""
            served, first = (metric.show(means[key]) for key in ("served_score", "first_score"))
            lines.append(
                f"{prefix}mean {metric.title} with monthly retraining {served}, without {first}: "
                f"retraining gained {shown}."
            )
    return lines


def write_csv(backtests: Mapping[str, Sequence[Month]], path: Path) -> None:
    """Writes a line for each month of each backtest."""
    text = io.StringIO()
    names = [f.name for f in dataclasses.fields(Month) if f.name not in ("reasons", "drift")]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["settings", *names, "drift_feature", "drift", "drift_limit", "reasons"])
    for name, months in backtests.items():
        for row in months:
            values = [getattr(row, key) for key in names]
            drift = row.drift or ("", "", "")
            writer.writerow([name, *values, *drift, "; ".join(row.reasons)])
    write_whole(path, text.getvalue())


def _show(metric: Metric, score: float | None) -> str:
    return "-" if score is None else metric.show(score)


def _show_drift(drift: tuple[str, float, float] | None) -> str:
    return "-" if drift is None else f"{drift[0]} {drift[1]:.2g} of {drift[2]:g}"
