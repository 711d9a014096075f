"""Measures how steady the flights' model is: over seeds, over months, beside tuned boosting.

Everything is measured on months that no model has seen. Each month's data nodes ran once, in a
backtest; Trainer, Pruner and Quantizer run again with each seed. `benchmarks.boosting` says how to
get LightGBM.

    python local_runner.py backtest --from 201306 --to 201312 --output FOLDER
    python -m benchmarks.steady --runs FOLDER --month 201312 --month 201306:3
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import tensorflow as tf

from benchmarks.boosting import SETTINGS, has_lightgbm, measure_lightgbm
from benchmarks.common import RESULTS, report
from benchmarks.compression import SHIPPED, compress, loss_on_eval
from benchmarks.finished_run import FinishedRun
from components.evaluator.results import OVERALL, read_baseline_metrics, read_metrics
from ml.artifacts import split_files
from orchestration.local.origin import entry_points, settings_of
from orchestration.local.situation import code_version_of
from pipeline.model import Model
from storage.atomic_write import write_whole
from storage.tfrecords import read_records

_MODEL, _SLICE, _FLOAT = "model=flights", "carrier", "auc"
_NETWORKS = {_FLOAT: "float", SHIPPED: "compressed"}
_PROMISE = ("loss_on_eval", "loss")
# The targets.
_STEADY_MONTH, _GOAL_MONTHS = 201312, (201308, 201311, 201312)
_LARGEST_DEVIATION, _LEAST_MEAN = 0.001, 0.701
_LARGEST_LOSS, _LARGEST_SLICE_LOSS = 0.002, 0.008


@dataclass(frozen=True)
class Month:
    """What was measured on a month.

    Attributes:
      seeds: What `compress` found, of each seed.
      lightgbm: The AUC of LightGBM; NaN if it is not installed.
    """

    seeds: list[dict[str, Any]]
    lightgbm: float


@click.command()
@click.option(
    "--runs",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Output directory of runs as of each month, such as a backtest's; nothing is written.",
)
@click.option(
    "--seeds",
    default=5,
    show_default=True,
    type=click.IntRange(0),
    help="Trainings of a month. With 0, only what the runs promised and kept is shown.",
)
@click.option(
    "--month",
    "months",
    multiple=True,
    metavar="YYYYMM[:SEEDS]",
    help="A month to train as of, and with how many seeds; may be repeated. Default: all runs.",
)
@click.option("--set", "settings", multiple=True, help="KEY=VALUE of the configuration.")
def main(runs: Path, seeds: int, months: tuple[str, ...], settings: tuple[str, ...]) -> None:
    """Prints mean, standard deviation and worst AUC and losses over the seeds, by month.

    A second table has the targets, a third what `eval` promised of each compression, and what
    `test` showed. What was measured is kept below output/benchmarks/steady; with the same code,
    settings and runs an interrupted measurement goes on from there.
    """
    found = find_runs(runs, [_MODEL, *settings])
    if not found:
        raise click.ClickException(f"{runs} has no run that trained a model")
    planned = plan(months, seeds, list(found))
    measured = {month: _measure(month, found[month], count) for month, count in planned.items()}
    if measured:
        report_seeds(measured)
    promises = {
        month: [read_promise(run), *(measured[month].seeds if month in measured else [])]
        for month, run in found.items()
    }
    _report_promises(promises, next(iter(found.values())).parameters("Quantizer")["max_loss"])


def plan(months: Sequence[str], seeds: int, known: Sequence[int]) -> dict[int, int]:
    """The number of seeds of each month.

    Example:
      >>> plan(["201312", "201306:3"], 5, [201306, 201312])
      {201312: 5, 201306: 3}

    Args:
      months: Months, some with a number of seeds; none for all.
      seeds: Number of seeds of the others.
      known: The months that there are.

    Raises:
      click.BadParameter: If there is no such month, or a number is not one.
    """
    planned = {}
    for text in months or map(str, known):
        month, colon, count = text.partition(":")
        if month not in map(str, known):
            raise click.BadParameter(f"{month} is none of {', '.join(map(str, known))}")
        if colon and not count.isdecimal():
            raise click.BadParameter(f"{text}: the number of seeds is to be 0 or more")
        planned[int(month)] = int(count or seeds)
    return {month: count for month, count in planned.items() if count}


def _measure(month: int, run: FinishedRun, seeds: int) -> Month:
    read_rows = cache(partial(run.test_rows, _SLICE))

    def boost() -> float:
        return measure_lightgbm(Model.load(run.config), run.folder)

    def compress_with(seed: int) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            return compress(run, Path(folder), seed, read_rows())

    lightgbm = float("nan")
    if has_lightgbm():
        lightgbm = once("benchmarks.boosting", run, f"{month}-lightgbm", boost)
    done = [
        once("benchmarks.compression", run, f"{month}-{seed}", partial(compress_with, seed))
        for seed in range(1, seeds + 1)
    ]
    return Month(done, lightgbm)


def once(code: str, run: FinishedRun, name: str, measure: Callable[[], Any]) -> Any:
    """Measures, unless the same code and settings have measured the same run before.

    Args:
      code: Import path of the code that measures, besides that of the pipeline.
      run: The run.
      name: Name of the measurement.
      measure: Measures; its figures are kept as JSON.
    """
    names = [*entry_points(run.config), code]
    key = code_version_of(run.config).run_key(names, settings_of(run.config), run.folder.name)
    path = RESULTS / "steady" / f"{name}-{key}.json"
    if not path.exists():
        figures = measure()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(str(path), json.dumps(figures, indent=2).encode())
    figures = json.loads(path.read_bytes())
    print(name, figures, flush=True)
    return figures


def report_seeds(measured: Mapping[int, Month]) -> None:
    """Reports AUC and losses over the seeds, and which targets are reached."""
    rows = [_row(str(month), [one]) for month, one in measured.items()]
    if goal := _goal(measured):
        rows.append(_row(f"mean of {', '.join(map(str, _GOAL_MONTHS))}", goal))
    if len(measured) > max(1, len(goal)):
        rows.append(_row(f"mean of {len(measured)}", list(measured.values())))
    columns = ["AUC on", "seeds", *(f"{name}: mean, std, worst" for name in _NETWORKS.values())]
    columns += ["loss: mean, worst", f"worst {_SLICE}", "LightGBM"]
    notes = (
        "The flights; no network has seen the month. Losses are of AUC, of `model.tflite` against "
        f"the same seed's float network; of a {_SLICE}: of the one of at least "
        "`evaluation.min_slice_examples` rows that loses most in any seed. A mean of months is "
        "that of each seed, for the seeds that all of them have. "
        f"LightGBM: {', '.join(f'{name} {value}' for name, value in SETTINGS.items())}."
    )
    report("steady", columns, rows, {m: asdict(one) for m, one in measured.items()}, notes)
    _report_targets(measured)


def _row(title: str, months: Sequence[Month]) -> list[str]:
    every = [one for month in months for one in month.seeds]
    losses = [one["loss"] for one in every]
    return [
        title,
        str(min(len(month.seeds) for month in months)),
        *(_describe(_by_seed(months, name)) for name in _NETWORKS),
        f"{np.mean(losses):.4f}, {max(losses):.4f}",
        "{:.4f} {}".format(*max((one["loss_of_worst_slice"], one["worst_slice"]) for one in every)),
        f"{np.mean([month.lightgbm for month in months]):.4f}",
    ]


def _by_seed(months: Sequence[Month], name: str) -> np.ndarray:
    """The mean over months of a figure, for each seed that all of them have, [seeds]."""
    pairs = zip(*([one[name] for one in month.seeds] for month in months), strict=False)
    return np.mean(list(pairs), axis=1)


def _goal(measured: Mapping[int, Month]) -> list[Month]:
    """The months of which a mean AUC is wanted; none if one was not measured."""
    known = [measured[month] for month in _GOAL_MONTHS if month in measured]
    return known if len(known) == len(_GOAL_MONTHS) else []


def _report_targets(measured: Mapping[int, Month]) -> None:
    every = [one for month in measured.values() for one in month.seeds]
    loss = max(one["loss"] for one in every)
    slice_loss = max(one["loss_of_worst_slice"] for one in every)
    rows = [
        _target("largest loss by compression", loss, loss <= _LARGEST_LOSS, _LARGEST_LOSS),
        _target(
            *(f"the same, of a {_SLICE}", slice_loss, slice_loss <= _LARGEST_SLICE_LOSS),
            _LARGEST_SLICE_LOSS,
        ),
    ]
    for name, title in _NETWORKS.items():
        if _STEADY_MONTH in measured:
            deviation = _deviation(_by_seed([measured[_STEADY_MONTH]], name))
            text = f"standard deviation of AUC on {_STEADY_MONTH}, {title}"
            reached = deviation <= _LARGEST_DEVIATION
            rows.append(_target(text, deviation, reached, _LARGEST_DEVIATION))
        if goal := _goal(measured):
            mean = float(np.mean(_by_seed(goal, name)))
            text = f"mean AUC on {', '.join(map(str, _GOAL_MONTHS))}, {title}"
            rows.append(_target(text, mean, mean >= _LEAST_MEAN, _LEAST_MEAN))
    columns = ["figure", "measured", "target", "reached"]
    report("steady targets", columns, rows, rows, f"Of {len(every)} trainings, as above.")


def _target(title: str, value: float, reached: bool, target: float) -> list[str]:
    verdict = "" if np.isnan(value) else "yes" if reached else "no"
    return [title, f"{value:.4f}", f"{target:g}", verdict]


def _describe(values: np.ndarray) -> str:
    return f"{np.mean(values):.4f}, {_deviation(values):.4f}, {min(values):.4f}"


def _deviation(values: np.ndarray) -> float:
    """The standard deviation of a sample; NaN of a single value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def _report_promises(promises: Mapping[int, list[dict[str, Any]]], limit: float) -> None:
    """Reports what `eval` promised; the first of each month is of the run itself."""
    rows = []
    for month, (own, *seeds) in promises.items():
        worst = [f"{max(one[key] for one in seeds):.4f}" if seeds else "" for key in _PROMISE]
        kept = sum(one["loss"] <= limit for one in (own, *seeds))
        shown = [*(f"{own[key]:.4f}" for key in _PROMISE), str(len(seeds)), *worst]
        rows.append([str(month), *shown, f"{kept} of {1 + len(seeds)}"])
    every = [one for found in promises.values() for one in found]
    kept = sum(one["loss"] <= limit for one in every)
    rows.append(["all", *[""] * 5, f"{kept} of {len(every)}, {kept / len(every):.0%}"])
    columns = ["month", "the run: on eval", "on test", "seeds", "worst: on eval", "on test"]
    notes = (
        "What `eval` promised: that the compressed model loses at most `compression.max_loss` of "
        "AUC against the float model. Of the runs themselves it is what CompressionEvaluator found."
    )
    data = {"promises": promises, "max_loss": limit}
    report("promise", [*columns, f"at most {limit:g}"], rows, data, notes)


def find_runs(output: Path, settings: Sequence[str]) -> dict[int, FinishedRun]:
    """The last run of each month that trained a model, by the month of its split `test`."""
    found = {}
    for folder in sorted(output.glob("models/flights/artifacts/*")):
        if any(folder.glob("Quantizer/report/*/report.json")):
            run = FinishedRun(output, settings, folder)
            found[_month(run)] = run
    return dict(sorted(found.items()))


def _month(run: FinishedRun) -> int:
    """The month of the flights in the split `test`."""
    files = split_files(run.artifact("SpanExampleGen", "examples"), "test")
    record = next(iter(read_records(files).take(1).as_numpy_iterator()))
    (time,) = tf.train.Example.FromString(record).features.feature["time_hour"].int64_list.value
    return int(pd.Timestamp(time, unit="s", tz="America/New_York").strftime("%Y%m"))


def read_promise(run: FinishedRun) -> dict[str, Any]:
    """The loss by the compression of a run on `eval` and on `test`."""
    metric = run.config.make_task().headline
    uri = run.artifact("CompressionEvaluator", "evaluation").uri
    after, before = (
        read(uri)[OVERALL][metric.name] for read in (read_metrics, read_baseline_metrics)
    )
    if after is None or before is None:
        raise click.ClickException(f"{uri} has no {metric.title}")
    on_eval = loss_on_eval(run.artifact("Quantizer", "report"), metric)
    return {"loss_on_eval": on_eval, "loss": metric.loss(after, before)}


if __name__ == "__main__":
    main()
