"""Compares strategies of serving with serving the newest model, on the rows of finished runs.

No pipeline runs: models, examples and statistics are those of the runs, and what has to be trained
is trained by the model's own `run_fn` on their transformed examples.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

import click
import numpy as np
import pandas as pd

from benchmarks.common import report
from benchmarks.evaluated_run import EvaluatedRun, Gain, find_runs, two_sided
from ml.statistics import Statistics, categories, find_feature

ENSEMBLE, SEGMENTS, FALLBACK = STRATEGIES = ("ensemble", "segments", "fallback")
SIZES = (2, 3)
# The columns whose values get models of their own, where they are not all slices of the model.
_COLUMNS = {"flights": ("origin",), "diamonds": ("cut",)}
_LEAST_SHARE = 0.1  # Of the rows of `train`, for a model of its own.
# By how many runs the newest version is older than the one that was evaluated on the month: none,
# as the Evaluator sees it, or one, as it is served in the month after.
_LAGS = {"when pushed": 0, "when served": 1}

# Predicts the rows of a run (second) by the model of a run (first).
_Predict = Callable[[int, int], np.ndarray]
# Name of the lag, number of versions, run.
_Key = tuple[str, int, int]


@click.command()
@click.option(
    "--backtest",
    type=click.Path(exists=True, path_type=Path),
    help="Output directory of a backtest, with a run of each month.",
)
@click.option(
    "--run",
    "single",
    type=click.Path(exists=True, path_type=Path),
    multiple=True,
    help="Output directory of one run of a model without months; may be repeated.",
)
@click.option(
    "--strategy",
    "strategies",
    type=click.Choice(STRATEGIES),
    multiple=True,
    default=STRATEGIES,
    show_default=True,
)
@click.option("--seed", "seeds", type=int, multiple=True, default=(7, 8, 9), show_default=True)
@click.option(
    "--month",
    "months",
    multiple=True,
    help="A month of the backtest to train models of segments for; all if none is given.",
)
def main(
    backtest: Path | None,
    single: tuple[Path, ...],
    strategies: tuple[str, ...],
    seeds: tuple[int, ...],
    months: tuple[str, ...],
) -> None:
    """Prints what each strategy gains in the headline metric, with 95% intervals.

    The interval of a month comes from a paired bootstrap of its rows, as the Evaluator's does; that
    of a mean is Student's, of what months and seeds differ by. Only the second says whether the
    strategy would gain in other months.
    """
    runs = find_runs(backtest) if backtest else []
    alone = [run for output in single for run in find_runs(output)[-1:]]
    if not runs and not alone:
        raise click.UsageError("--backtest, --run or both are needed")
    if unknown := sorted(set(months) - {run.title for run in runs}):
        raise click.UsageError(f"--month {unknown[0]}: the backtest has no run of it")
    if ENSEMBLE in strategies:
        if runs:
            report_versions(runs)
            report_networks(runs, seeds)
        if alone:
            report_seeds(alone, seeds)
    if SEGMENTS in strategies:
        chosen = [run for run in runs if not months or run.title in months]
        for group in filter(None, [chosen, *([run] for run in alone)]):
            report_segments(group, seeds)
    if FALLBACK in strategies and runs:
        report_fallback(runs)


def summarize(gains: Sequence[Gain]) -> str:
    """The mean of gains, its interval, and the verdict.

    Example:
      >>> summarize([Gain(value, np.zeros(2)) for value in (0.004, 0.005, 0.006)])
      '+0.0050 ±0.0025: better'
    """
    mean = float(np.mean([gain.value for gain in gains]))
    if len(gains) < 2:
        return f"{mean:+.4f}"
    error = float(np.std([gain.value for gain in gains], ddof=1)) / len(gains) ** 0.5
    margin = error * two_sided(len(gains) - 1)
    verdict = "better" if mean > margin else "worse" if -mean > margin else "not significant"
    return f"{mean:+.4f} ±{margin:.4f}: {verdict}"


def find_members(pushed: Sequence[bool], at: int, lag: int, size: int) -> list[int]:
    """The runs whose versions are an ensemble, the newest first.

    Args:
      pushed: Whether each run pushed its version.
      at: The run on whose rows of `test` the ensemble is evaluated.
      lag: 0 for the version of that run itself, whether pushed or not, and those before; 1 for
        those before alone, all made without these rows.
      size: Number of versions.

    Returns:
      `size` indices; none if there are fewer.

    Example:
      >>> find_members([True, True, False, True], 3, 1, 2)
      [1, 0]
    """
    before = [run for run in range(at) if pushed[run]]
    found = ([at] if lag == 0 else []) + before[::-1]
    return found[:size] if len(found) >= size else []


def compare_versions(
    runs: Sequence[EvaluatedRun], pushed: Sequence[bool], predict: _Predict, metric: str = ""
) -> dict[_Key, Gain]:
    """The gain of the mean answer of the last versions over the newest.

    Args:
      runs: One of each month.
      pushed: Whether each run pushed its version.
      predict: See `_Predict`.
      metric: Name of a metric of the task; "" for its headline.

    Returns:
      By the name of the lag, the number of versions, and the run whose rows are predicted.
    """
    found = {}
    for when, lag in _LAGS.items():
        for size in SIZES:
            for at, run in enumerate(runs):
                if members := find_members(pushed, at, lag, size):
                    together = np.mean([predict(made, at) for made in members], axis=0)
                    newest = predict(members[0], at)
                    found[when, size, at] = run.gain(together, newest, metric=metric)
    return found


def report_versions(runs: Sequence[EvaluatedRun]) -> None:
    """The ensemble of the versions themselves."""

    @cache
    def predict(made: int, at: int) -> np.ndarray:
        return runs[made].predict(runs[at].records)

    pushed = [run.pushed for run in runs]
    task = runs[0].model.task
    by_metric = {
        metric.title: compare_versions(runs, pushed, predict, metric.name)
        for metric in task.metrics
        if metric is task.headline or metric.name == "log_loss"
    }
    _report_versions(
        "ensemble of versions",
        runs,
        by_metric,
        "Gain of the mean answer of the last pushed versions (`model.tflite`) over the newest. "
        "When pushed, the newest is the one that the Evaluator sees in that month; when served, "
        "the last that was pushed before the month began.",
    )


def report_networks(runs: Sequence[EvaluatedRun], seeds: Sequence[int]) -> None:
    """The ensembles of float networks: of several months, and of several seeds of one."""
    networks: dict[int, dict[tuple[int, int], np.ndarray]] = {seed: {} for seed in seeds}
    for seed, predictions in networks.items():
        for made, run in enumerate(runs):
            later = {str(at): runs[at].records for at in range(made, len(runs))}
            for at, predicted in run.train(seed, later).items():
                predictions[made, int(at)] = predicted
    by_seed = [
        compare_versions(runs, [True] * len(runs), lambda *key, own=own: own[key])
        for own in networks.values()
    ]
    gains = {key: Gain.mean([found[key] for found in by_seed]) for key in by_seed[0]}
    _report_versions(
        "ensemble of networks",
        runs,
        {runs[0].model.task.headline.title: gains},
        f"As above with the float networks of all months, pushed or not; each gain is the mean of "
        f"{len(seeds)} seeds, so that chance in training counts less.",
    )
    _report_seeds(
        runs, [[own[at, at] for own in networks.values()] for at in range(len(runs))], seeds
    )


def report_seeds(runs: Sequence[EvaluatedRun], seeds: Sequence[int]) -> None:
    """The ensemble of float networks of several seeds, of models without months."""
    predictions = [[run.train(seed, {"": run.records})[""] for seed in seeds] for run in runs]
    _report_seeds(runs, predictions, seeds)


def report_segments(runs: Sequence[EvaluatedRun], seeds: Sequence[int]) -> None:
    """A model of its own for each large value of a column; all other rows get the one model.

    The table is written after each seed, because one takes long.
    """
    gains: dict[tuple[str, str], list[Gain]] = defaultdict(list)
    columns = _COLUMNS.get(runs[0].name, runs[0].model.slices)
    headline = runs[0].model.task.headline
    months = f" and {', '.join(run.title for run in runs)}" if len(runs) > 1 else ""
    for count, seed in enumerate(seeds if columns else (), 1):
        for run in runs:
            one = run.train(seed, {"": run.records})[""]
            for column in columns:
                routed = one.copy()
                for value in large_values(run.statistics, column):
                    rows = (run.features[column] == value).to_numpy()
                    routed[rows] = run.train(seed, {"": run.records[rows]}, (column, value))[""]
                    gains[column, value].append(run.gain(routed, one, rows))
                gains[column, "all rows"].append(run.gain(routed, one))
        report(
            f"segments of {runs[0].name}",
            ["model of its own for", f"gain in {headline.title}"],
            [[" ".join(key), summarize(found)] for key, found in gains.items()],
            {" ".join(key): [gain.value for gain in found] for key, found in gains.items()},
            "Float networks trained on the rows of one value alone, for each value that "
            f"{_LEAST_SHARE:.0%} of the training rows have, against one network for all: on the "
            "rows of the value, and on all rows with each predicted by its own. Mean and interval "
            f"over {count} {'seed' if count == 1 else 'seeds'}{months}."
            + (" A gain is a share." if headline.relative else ""),
        )


def report_fallback(runs: Sequence[EvaluatedRun]) -> None:
    """The previous version for rows that are outside the domain of the newest."""
    rows, data = [], {}
    pushed = [run.pushed for run in runs]
    task = runs[0].model.task
    for when, lag in _LAGS.items():
        gains = []
        for at, run in enumerate(runs):
            if not (members := find_members(pushed, at, lag, 2)):
                continue
            newest, previous = (runs[made].predict(run.records) for made in members)
            outside = out_of_domain(run.features, runs[members[0]].statistics)
            routed = np.where(outside[:, None], previous, newest)
            scores = [run.score(answer, outside)[0] for answer in (newest, previous)]
            gains.append(run.gain(routed, newest))
            shown = [task.headline.show(None if np.isnan(s) else s) for s in scores]
            share = f"{outside.sum():,} ({outside.mean():.2%})"
            own = run.gain(previous, newest, outside)
            on_these = str(own) if np.isfinite(own.value) else "undefined"
            rows.append([f"{run.title} {when}", share, *shown, on_these, str(gains[-1])])
            data[f"{run.title} {when}"] = {"rows": int(outside.sum()), "gain": gains[-1].value}
        if gains:
            rows.append([f"mean {when}", "", "", "", "", summarize(gains)])
    report(
        "fallback",
        [
            "month",
            "rows out of domain",
            f"{task.headline.title} of the newest on them",
            "of the previous",
            "gain on them",
            "gain on all rows",
        ],
        rows,
        data,
        "A row is out of domain if it has a category that `train` of the newest version lacks, or "
        "a number outside its range; the version before answers it.",
    )


def large_values(statistics: Statistics, column: str) -> list[str]:
    """The values of a column of texts that enough rows have for a model of their own."""
    (data,) = statistics.datasets
    least = _LEAST_SHARE * data.num_examples
    return [value for value, rows in categories(statistics, column).items() if rows >= least]


def out_of_domain(features: pd.DataFrame, statistics: Statistics) -> np.ndarray:
    """Which rows have a value that the training data lack.

    Args:
      features: Raw features; texts are `str`.
      statistics: Statistics of the training data.

    Returns:
      bool [rows]: whether a row has an unseen category, or a number outside the range. An absent
      value is inside.
    """
    outside = np.zeros(len(features), bool)
    for name, column in features.items():
        known = find_feature(statistics, str(name))
        if known is None:
            unseen = pd.Series(True, column.index)
        elif known.WhichOneof("stats") == "string_stats":
            unseen = ~column.isin(list(categories(statistics, str(name))))
        else:
            unseen = (column < known.num_stats.min) | (column > known.num_stats.max)
        outside |= (unseen & column.notna()).to_numpy()
    return outside


def _report_versions(
    name: str,
    runs: Sequence[EvaluatedRun],
    by_metric: Mapping[str, Mapping[_Key, Gain]],
    notes: str,
) -> None:
    rows, data = [], {}
    for title, found in by_metric.items():
        for when in _LAGS:
            for at, run in enumerate(runs):
                cells = [found.get((when, size, at)) for size in SIZES]
                if any(cells):
                    shown = [str(cell) if cell else "" for cell in cells]
                    rows.append([f"{title} {run.title} {when}", *shown])
            by_size = [[g for key, g in found.items() if key[:2] == (when, size)] for size in SIZES]
            rows.append([f"{title} mean {when}", *map(summarize, by_size)])
        data[title] = {
            f"{runs[at].title} {when}, {size} versions": gain.value
            for (when, size, at), gain in found.items()
        }
    report(name, ["gain in", *(f"{size} versions" for size in SIZES)], rows, data, notes)


def _report_seeds(
    runs: Sequence[EvaluatedRun],
    predictions: Sequence[Sequence[np.ndarray]],
    seeds: Sequence[int],
) -> None:
    """The gain of the mean of a run's predictions over each of them."""
    rows, gains = [], []
    for run, own in zip(runs, predictions, strict=True):
        together = np.mean(own, axis=0)
        gains.append(Gain.mean([run.gain(together, one) for one in own]))
        scores = [run.score(one)[0] for one in (together, *own)]
        show = run.model.task.headline.show
        metric = f"{run.model.task.headline.title} {run.title}"
        rows.append([metric, show(float(np.mean(scores[1:]))), show(scores[0]), str(gains[-1])])
    name = "ensemble of seeds"
    if len(runs) > 1 and len({run.name for run in runs}) == 1:
        name += f" of {runs[0].name}"
        rows.append(["mean", "", "", summarize(gains)])
    report(
        name,
        ["metric", "one network, mean", f"mean of {len(seeds)}", "gain"],
        rows,
        {run.title: gain.value for run, gain in zip(runs, gains, strict=True)},
        f"Float networks of the same rows and {len(seeds)} seeds. Such an ensemble is not one of "
        "versions: all members know the same data, and only chance in training is averaged.",
    )


if __name__ == "__main__":
    main()
