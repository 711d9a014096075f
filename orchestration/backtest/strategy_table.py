"""Shows what each strategy of serving would have served, as a table and a CSV file."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ml.influence import testable
from ml.metrics import Metric
from ml.tasks import Task
from orchestration.backtest.months import Served
from orchestration.backtest.strategy_names import CHALLENGE, REPLACE
from orchestration.local.output_directory import write_whole
from terminal.tables import print_table

_COLUMNS = ("month", "newest", "champion", "challenger", "verdict", "blocks", "difference")


def show_strategies(
    played: Mapping[str, Sequence[Served]],
    metrics: Sequence[Metric],
    path: Path,
    console: Console,
) -> None:
    """Prints a table of both strategies, and writes it.

    Args:
      played: What was served, by the name of the backtest.
      metrics: See `metrics_of`.
      path: The CSV file to write.
      console: Where to print.
    """
    console.print()
    print_table(make_strategy_table(played, metrics), console)
    for name, months in played.items():
        for line in conclude(months, metrics):
            prefix = f"{name}: " if len(played) > 1 else ""
            console.print(Text(prefix + line), soft_wrap=True)
    write_whole(path, "".join(_csv_lines(played, metrics)))
    console.print(Text(f"Written to {path}"), soft_wrap=True)


def metrics_of(task: Task, metric: str) -> tuple[Metric, ...]:
    """The metric that the test is on ("" for the task's default), and the headline."""
    tested = task.metric(metric or testable(task)[0])
    return tuple(dict.fromkeys((tested, task.headline)))


def make_strategy_table(played: Mapping[str, Sequence[Served]], metrics: Sequence[Metric]) -> Table:
    """A row for each month, and the means over the months in which something was served.

    Args:
      played: What was served, by the name of the backtest.
      metrics: The metric that the test is on, then others.
    """
    table = Table(
        title="What was served: champion-challenger (c-c), retrain-and-replace (r-r)",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    several = len(played) > 1
    for name in (*(["settings"] if several else []), "month", "champion", "challenger"):
        table.add_column(name, no_wrap=True)
    table.add_column("verdict", overflow="fold")
    table.add_column(f"difference in {metrics[0].title}", overflow="fold")
    for metric in metrics:
        table.add_column(f"{metric.title} c-c", justify="right")
        table.add_column(f"{metric.title} r-r", justify="right")
    for name, months in played.items():
        first = [name] if several else []
        for row in months:
            table.add_row(
                *first,
                *(str(row.month), str(row.champion or "-"), str(row.challenger or "-")),
                *(_verdict(row), _difference(row)),
                *(
                    metric.show(_score(row, s, metric)) if row.scores else "-"
                    for metric, s in _pairs(metrics)
                ),
            )
        if means := _means(months, metrics):
            shown = (metric.show(means[metric.name, s]) for metric, s in _pairs(metrics))
            table.add_row(*first, "mean", "", "", "", "", *shown, style="bold", end_section=True)
    return table


def conclude(months: Sequence[Served], metrics: Sequence[Metric]) -> Iterator[str]:
    """A line for each metric: which strategy served better, in the mean of the months."""
    means = _means(months, metrics)
    for metric in metrics if means else ():
        ours, theirs = means[metric.name, CHALLENGE], means[metric.name, REPLACE]
        loss = metric.loss(ours, theirs)
        word = "better" if loss < 0 else "worse"
        told = f"{metric.format_loss(abs(loss))} {word} than" if loss else "the same as"
        yield f"mean {metric.title} of {CHALLENGE} {metric.show(ours)}: {told} {REPLACE}."


def _pairs(metrics: Sequence[Metric]) -> Iterator[tuple[Metric, str]]:
    for metric in metrics:
        yield from ((metric, strategy) for strategy in (CHALLENGE, REPLACE))


def _score(row: Served, strategy: str, metric: Metric) -> float | None:
    return row.scores.get(strategy, {}).get(metric.name)


def _show(row: Served, strategy: str, metric: Metric) -> str:
    return metric.show(_score(row, strategy, metric)) if row.scores else "-"


def _means(months: Sequence[Served], metrics: Sequence[Metric]) -> dict[tuple[str, str], float]:
    """By metric and strategy, over the months that have all; empty if none has."""
    rows = [[_score(row, s, metric) for metric, s in _pairs(metrics)] for row in months]
    whole = [[v for v in row if v is not None] for row in rows if None not in row]
    keys = [(metric.name, s) for metric, s in _pairs(metrics)]
    return {key: sum(row[i] for row in whole) / len(whole) for i, key in enumerate(keys) if whole}


def _verdict(row: Served) -> str:
    if row.challenger is None:
        return "-"
    until = "promoted" if row.promoted else ""
    blocks = f"{row.blocks} block" + ("s" if row.blocks != 1 else "")
    return ", ".join(filter(None, (row.verdict, f"after {blocks}", until)))


def _difference(row: Served) -> str:
    if row.difference is None:
        return "-"
    ends = f" ({row.interval[0]:+.4f} to {row.interval[1]:+.4f})" if row.interval else ""
    return f"{row.difference:+.4f}{ends}"


def _csv_lines(played: Mapping[str, Sequence[Served]], metrics: Sequence[Metric]) -> Iterator[str]:
    scores = [f"{metric.name} {strategy}" for metric, strategy in _pairs(metrics)]
    yield _line(["settings", *_COLUMNS, "low", "high", "promoted", *scores])
    for name, months in played.items():
        for row in months:
            ends = row.interval or ("", "")
            values = [_score(row, s, metric) for metric, s in _pairs(metrics)]
            yield _line([name, *(getattr(row, c) for c in _COLUMNS), *ends, row.promoted, *values])


def _line(values: Sequence[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue()
