"""Trains the float network of the flights with several seeds, beside tuned gradient boosting."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import tensorflow as tf
import tf_keras
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from tfx import v1 as tfx

from benchmarks.common import report, run_measured
from benchmarks.quality import divide, read_split
from ml.artifacts import split_files
from ml.parameters import load_function
from ml.predictors import SavedModelPredictor
from orchestration.outcome import Outcome
from pipeline.config import load_config
from pipeline.model import Model
from storage.tfrecords import read_records

MONTHS = (201308, 201311, 201312)
_LEAVES, _RATE, _TREES, _LEAST, _L2 = 63, 0.02, 400, 100, 20.0
_FEATURES, _ROWS, _SEED = 0.4, 0.6, 7
_Examples = tfx.types.standard_artifacts.Examples


@click.command()
@click.option(
    "--seed",
    "seeds",
    type=int,
    multiple=True,
    default=(7, 8, 9, 10, 11),
    show_default=True,
    help="Two or more.",
)
@click.option(
    "--runs",
    type=click.Path(exists=True, path_type=Path),
    help="Output directory of runs as of each month; without it, the pipeline runs first.",
)
def main(seeds: tuple[int, ...], runs: Path | None) -> None:
    """Prints mean, standard deviation and worst AUC over the seeds, by month.

    The gradient boostings get the raw features and all rows of the window.
    """
    with _finished(runs) as output:
        found = {month: find_run(output, month) for month in MONTHS}
        ours = {month: measure_network(run, seeds) for month, run in found.items()}
        boosted = {month: measure_boosting(run) for month, run in found.items()}
    rows = [
        [str(month), *_describe(ours[month]), *(f"{value:.4f}" for value in boosted[month])]
        for month in MONTHS
    ]
    means = np.mean(list(ours.values()), axis=0)
    trees = np.mean(list(boosted.values()), axis=0)
    rows.append(["mean", *_describe(means), *(f"{value:.4f}" for value in trees)])
    columns = ["AUC on", "mean", "standard deviation", "worst", "HistGradientBoosting"]
    columns += ["LightGBM"] if find_spec("lightgbm") else []
    notes = (
        f"The float network, {len(seeds)} seeds; each line but the last is one month that it has "
        f"not seen. The gradient boostings are tuned: {_TREES} trees of {_LEAVES} leaves, learning "
        f"rate {_RATE}, {_LEAST} rows a leaf, L2 {_L2:g}, {_FEATURES:.0%} of the features"
        + (f"; LightGBM with {_ROWS:.0%} of the rows too." if find_spec("lightgbm") else ".")
    )
    data = {"seeds": seeds, "ours": ours, "boosting": boosted}
    report("steady", columns, rows, data, notes)


@contextmanager
def _finished(runs: Path | None) -> Iterator[Path]:
    """An output directory with a run as of each month."""
    if runs is not None:
        yield runs
        return
    with tempfile.TemporaryDirectory() as folder:
        for month in MONTHS:
            run_measured(
                ["local_runner.py", "run", f"--output={folder}", "--set", f"data.as_of={month}"],
                allowed=(0, Outcome.NOT_BLESSED.exit_status),
            )
        yield Path(folder)


def find_run(output: Path, month: int) -> Path:
    """The artifacts of the last run that evaluated on a month.

    Raises:
      click.ClickException: If there is none.
    """
    for run in sorted(output.glob("models/flights/artifacts/*"), reverse=True):
        finished = any(run.glob("Transform/transform_graph/*/transform_fn"))
        if finished and _month(run) == month:
            return run
    raise click.ClickException(f"{output} has no run of its own nodes as of {month}")


def _month(run: Path) -> int:
    """The month of the flights in the split `test`."""
    record = next(iter(_test_records(run).take(1).as_numpy_iterator()))
    (time,) = tf.train.Example.FromString(record).features.feature["time_hour"].int64_list.value
    return int(pd.Timestamp(time, unit="s", tz="America/New_York").strftime("%Y%m"))


def _test_records(run: Path) -> tf.data.TFRecordDataset:
    examples = _Examples()
    (examples.uri,) = map(str, run.glob("SpanExampleGen/examples/*"))
    examples.split_names = '["train", "eval", "test"]'
    return read_records(split_files(examples, "test"))


def measure_network(run: Path, seeds: Sequence[int]) -> list[float]:
    """The AUC of the float network on the split `test`, for each seed."""
    model = _load_model()
    records = np.array(list(_test_records(run).as_numpy_iterator()), object)
    _, labels = divide(model.task, read_split(model, run, "test"))
    (graph,) = run.glob("Transform/transform_graph/*")
    (examples,) = run.glob("Transform/transformed_examples/*")
    found = []
    for seed in seeds:
        settings = load_config(settings=["model=flights", f"training.seed={seed}"]).training
        tf_keras.backend.clear_session()
        with tempfile.TemporaryDirectory() as folder:
            arguments = tfx.components.FnArgs(
                train_files=[str(examples / "Split-train" / "*")],
                eval_files=[str(examples / "Split-eval" / "*")],
                transform_output=str(graph),
                serving_model_dir=f"{folder}/model",
                model_run_dir=f"{folder}/run",
                custom_config=dataclasses.asdict(settings) | model.custom_config,
            )
            load_function(model.run_fn)(arguments)
            predictions = SavedModelPredictor(f"{folder}/model").predict(records)
        found.append(float(roc_auc_score(labels, predictions[:, 0])))
    return found


def measure_boosting(run: Path) -> list[float]:
    """The AUC of the gradient boostings: scikit-learn's, and LightGBM's if it is installed."""
    model = _load_model()
    train, held_out, test = (read_split(model, run, split) for split in ("train", "eval", "test"))
    features, labels = divide(model.task, pd.concat([train, held_out], ignore_index=True))
    unseen, expected = divide(model.task, test)
    for name in features.select_dtypes(object):
        kind = pd.CategoricalDtype(sorted(features[name].unique()))
        features[name], unseen[name] = (rows[name].astype(kind) for rows in (features, unseen))
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


def _load_model() -> Model:
    return Model.load(load_config(settings=["model=flights"]))


def _describe(values: Sequence[float]) -> list[str]:
    return [f"{np.mean(values):.4f}", f"{np.std(values, ddof=1):.4f}", f"{min(values):.4f}"]


if __name__ == "__main__":
    main()
