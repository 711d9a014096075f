"""Measures how steady the flights' model is: over seeds, over months, beside tuned boosting.

Everything is measured on months that no model has seen. Each month's Transform runs once; Trainer,
Pruner and Quantizer run again with each seed.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import tensorflow as tf
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

from benchmarks.common import report, run_measured
from benchmarks.compression import SHIPPED, compress, loss_on_eval
from benchmarks.finished_run import FinishedRun
from benchmarks.quality import divide, read_split
from components.evaluator.results import OVERALL, read_baseline_metrics, read_metrics
from ml.artifacts import split_files
from orchestration.outcome import Outcome
from pipeline.model import Model
from storage.tfrecords import read_records

MONTHS = (201308, 201311, 201312)
_MODEL, _SLICE = "model=flights", "carrier"
_LEAVES, _RATE, _TREES, _LEAST, _L2 = 63, 0.02, 400, 100, 20.0
_FEATURES, _ROWS, _SEED = 0.4, 0.6, 7
_SPLITS = ("train", "eval", "test")


@click.command()
@click.option(
    "--seed",
    "seeds",
    type=int,
    multiple=True,
    default=(1, 2, 3, 4, 5),
    show_default=True,
    help="Two or more.",
)
@click.option(
    "--month",
    "months",
    type=int,
    multiple=True,
    default=MONTHS,
    show_default=True,
    help="Month that is trained with all seeds.",
)
@click.option(
    "--runs",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Output directory of runs as of each month, such as a backtest's. Default: run the "
    "pipeline first.",
)
@click.option("--set", "settings", multiple=True, help="KEY=VALUE of the configuration.")
def main(
    seeds: tuple[int, ...], months: tuple[int, ...], runs: Path | None, settings: tuple[str, ...]
) -> None:
    """Prints mean, standard deviation and worst AUC and losses over the seeds, by month.

    A second table has what `eval` promised of each compression, and what `test` showed. The
    gradient boostings get the raw features and all rows of the window.
    """
    os.environ["COLUMNS"] = str(shutil.get_terminal_size((180, 50)).columns)
    with _finished(runs, months) as output, tempfile.TemporaryDirectory() as folder:
        found = find_runs(output, [_MODEL, *settings])
        if missing := [str(month) for month in months if month not in found]:
            raise click.ClickException(f"{output} has no run as of {', '.join(missing)}")
        promises = [read_promise(month, run) for month, run in found.items()]
        boosted = {month: measure_boosting(found[month]) for month in months}
        measured: dict[int, list[dict[str, Any]]] = {}
        for month in months:
            rows = found[month].test_rows(_SLICE)
            measured[month] = []
            for seed in seeds:
                done = compress(found[month], Path(folder, f"{month}-{seed}"), seed, rows)
                print(month, done, flush=True)
                measured[month].append(done)
                promises.append(
                    {key: done[key] for key in ("seed", "loss_on_eval", "loss")} | {"month": month}
                )
    limit = found[months[0]].parameters("Quantizer")["max_loss"]
    _report_seeds(seeds, measured, boosted)
    _report_promises(promises, limit)


def _report_seeds(
    seeds: Sequence[int],
    measured: Mapping[int, list[dict[str, Any]]],
    boosted: Mapping[int, list[float]],
) -> None:
    values = {
        month: {name: [one[name] for one in done] for name in ("auc", SHIPPED)}
        for month, done in measured.items()
    }
    rows = []
    for month, done in measured.items():
        losses = [one["loss"] for one in done]
        slices = {one["loss_of_worst_slice"]: one["worst_slice"] for one in done}
        rows.append(
            [
                str(month),
                *(_describe(values[month][name]) for name in ("auc", SHIPPED)),
                f"{np.mean(losses):.4f}, {max(losses):.4f}",
                f"{max(slices):.4f} {slices[max(slices)]}",
                *(f"{value:.4f}" for value in boosted[month]),
            ]
        )
    means = {
        name: np.mean([values[month][name] for month in measured], axis=0)
        for name in ("auc", SHIPPED)
    }
    trees = np.mean(list(boosted.values()), axis=0)
    rows.append(["mean", *map(_describe, means.values()), "", "", *(f"{v:.4f}" for v in trees)])
    columns = ["AUC on", "float: mean, std, worst", "compressed: mean, std, worst"]
    columns += ["loss: mean, worst", f"worst {_SLICE}", "HistGradientBoosting"]
    columns += ["LightGBM"] if find_spec("lightgbm") else []
    notes = (
        f"{len(seeds)} seeds of the flights; each month was not seen before. Losses are of AUC, of "
        f"model.tflite against the same seed's float model; of a {_SLICE}: of the one that loses "
        f"most in any seed. The gradient boostings are tuned: {_TREES} trees of {_LEAVES} leaves, "
        f"learning rate {_RATE}, {_LEAST} rows a leaf, L2 {_L2:g}, {_FEATURES:.0%} of the features"
        + (f"; LightGBM with {_ROWS:.0%} of the rows too." if find_spec("lightgbm") else ".")
    )
    report("steady", columns, rows, {"measured": measured, "boosting": boosted}, notes)


def _report_promises(promises: Sequence[Mapping[str, Any]], limit: float) -> None:
    rows = [
        [
            str(one["month"]),
            str(one.get("seed", "of the run")),
            f"{one['loss_on_eval']:.4f}",
            f"{one['loss']:.4f}",
            "yes" if one["loss"] <= limit else "no",
        ]
        for one in promises
    ]
    held = sum(one["loss"] <= limit for one in promises)
    rows.append(["all", "", "", "", f"{held} of {len(promises)}, {held / len(promises):.0%}"])
    columns = ["month", "seed", "loss on eval", "loss on test", f"at most {limit:g}"]
    notes = (
        "What `eval` promised: that the compressed model loses at most `compression.max_loss` of "
        "AUC against the float model. Of the runs themselves it is what CompressionEvaluator found."
    )
    report("promise", columns, rows, {"promises": promises, "max_loss": limit}, notes)


@contextmanager
def _finished(runs: Path | None, months: Sequence[int]) -> Iterator[Path]:
    """An output directory with a run as of each month."""
    if runs is not None:
        yield runs
        return
    with tempfile.TemporaryDirectory() as folder:
        for month in months:
            run_measured(
                ["local_runner.py", "run", f"--output={folder}", "--set", f"data.as_of={month}"],
                allowed=(0, Outcome.NOT_BLESSED.exit_status),
            )
        yield Path(folder)


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


def read_promise(month: int, run: FinishedRun) -> dict[str, Any]:
    """The loss by the compression of a run on `eval` and on `test`."""
    metric = run.config.make_task().headline
    uri = run.artifact("CompressionEvaluator", "evaluation").uri
    after, before = (
        read(uri)[OVERALL][metric.name] for read in (read_metrics, read_baseline_metrics)
    )
    if after is None or before is None:
        raise click.ClickException(f"{uri} has no {metric.title}")
    on_eval = loss_on_eval(run.artifact("Quantizer", "report"), metric)
    return {"month": month, "loss_on_eval": on_eval, "loss": metric.loss(after, before)}


def measure_boosting(run: FinishedRun) -> list[float]:
    """The AUC of the gradient boostings: scikit-learn's, and LightGBM's if it is installed."""
    model = Model.load(run.config)
    artifacts = Path(run.artifact("SpanExampleGen", "examples").uri).parents[2]
    train, held_out, test = (read_split(model, artifacts, name) for name in _SPLITS)
    features, labels = divide(model.task, pd.concat([train, held_out], ignore_index=True))
    unseen, expected = divide(model.task, test)
    for name in features.select_dtypes(object):
        kind = pd.CategoricalDtype(sorted(features[name].unique()))
        # Numbered, because LightGBM keeps categories as JSON, which has no bytes.
        features[name], unseen[name] = (
            rows[name].astype(kind).cat.rename_categories(range(len(kind.categories)))
            for rows in (features, unseen)
        )
    fitted = [_boosting().fit(features, labels)]
    if find_spec("lightgbm"):
        fitted.append(_lightgbm().fit(features, labels))
    return [float(roc_auc_score(expected, one.predict_proba(unseen)[:, 1])) for one in fitted]


def _boosting() -> HistGradientBoostingClassifier:
    return HistGradientBoostingClassifier(
        learning_rate=_RATE,
        max_iter=_TREES,
        max_leaf_nodes=_LEAVES,
        min_samples_leaf=_LEAST,
        l2_regularization=_L2,
        max_features=_FEATURES,
        categorical_features="from_dtype",
        early_stopping=False,
        random_state=_SEED,
    )


def _lightgbm() -> Any:
    return import_module("lightgbm").LGBMClassifier(
        learning_rate=_RATE,
        n_estimators=_TREES,
        num_leaves=_LEAVES,
        min_child_samples=_LEAST,
        reg_lambda=_L2,
        colsample_bytree=_FEATURES,
        subsample=_ROWS,
        subsample_freq=1,
        random_state=_SEED,
        verbose=-1,
    )


def _describe(values: Sequence[float]) -> str:
    return f"{np.mean(values):.4f}, {np.std(values, ddof=1):.4f}, {min(values):.4f}"


if __name__ == "__main__":
    main()
