"""Compares each model of the repository with a baseline of scikit-learn on the same split."""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, OrdinalEncoder
from tfx import v1 as tfx

from benchmarks.common import report, run_measured
from components.evaluator.results import OVERALL, read_metrics
from ml.artifacts import load_schema
from ml.comparisons import only
from ml.examples import read_rows
from ml.scores import headline
from ml.tasks import BINARY, REGRESSION, Task
from orchestration.outcome import Outcome
from pipeline.config import load_config
from pipeline.model import Model

_SEED = 7

_EXAMPLES = tfx.types.standard_artifacts.Examples


@dataclass(frozen=True)
class Case:
    """What is compared.

    Attributes:
      model: Folder of the model.
      as_of: Span to evaluate on; 0 where a hash splits the rows.
      linear: Whether the baseline is logistic regression, not gradient boosting.
    """

    model: str
    as_of: int = 0
    linear: bool = False

    @property
    def title(self) -> str:
        """Its name in the table."""
        return f"{self.model} {self.as_of}" if self.as_of else self.model

    @property
    def baseline(self) -> str:
        """What the model is compared with."""
        return "logistic regression" if self.linear else "HistGradientBoosting"


CASES = (
    Case("diamonds"),
    Case("digits", linear=True),
    Case("penguins"),
    *(Case("flights", month) for month in (201308, 201311, 201312)),
)
SMALL = ("diamonds", "digits", "penguins")


@click.command()
@click.option(
    "--model",
    "models",
    type=click.Choice(sorted({case.model for case in CASES})),
    multiple=True,
    default=SMALL,
    show_default=True,
    help="A model; may be repeated. A figure of each flights month takes three runs of minutes.",
)
@click.option("--seed", "seeds", type=int, multiple=True, default=(7, 8, 9), show_default=True)
def main(models: tuple[str, ...], seeds: tuple[int, ...]) -> None:
    """Runs the pipeline for each model and seed; prints the headline metric of `model.tflite`.

    The baseline trains on `train` and `eval`; the pipeline's model needs `eval` for early stopping.
    """
    rows, data = [], []
    for case in CASES:
        if case.model not in models:
            continue
        with tempfile.TemporaryDirectory() as root:
            folders = [Path(root) / str(seed) for seed in seeds]
            values = [
                run_pipeline(case, seed, folder)
                for seed, folder in zip(seeds, folders, strict=True)
            ]
            baseline = measure_baseline(case, folders[0])
        task = Model.load(load_config(settings=[f"model={case.model}"])).task
        ours = float(np.mean(values))
        show = task.headline.show
        rows.append(
            [
                case.title,
                task.headline.title,
                show(ours),
                f"{show(min(values))} to {show(max(values))}",
                case.baseline,
                show(baseline),
                f"{-task.headline.loss(ours, baseline):+.4f}",
            ]
        )
        data.append({"case": case.title, "seeds": seeds, "ours": values, "baseline": baseline})
        # After each model, because all of them take long.
        _report(models, seeds, rows, data)


def _report(
    models: Collection[str], seeds: Collection[int], rows: list[list[str]], data: list[Any]
) -> None:
    columns = ["model", "metric", "`model.tflite`", "seeds", "baseline", "its metric", "better by"]
    notes = (
        f"Mean of {len(seeds)} seeds. The last column is a difference, and of RMSE a share of the "
        "baseline's; above 0 our model is better. The baselines have scikit-learn's defaults."
    )
    title = "quality" if set(models) == set(SMALL) else f"quality of {', '.join(models)}"
    report(title, columns, rows, data, notes)


def run_pipeline(case: Case, seed: int, output: Path) -> float:
    """The headline metric that the Evaluator found, blessed or not."""
    run_measured(
        [
            *("local_runner.py", "run", "--model", case.model, "--output", str(output)),
            *("--set", f"data.as_of={case.as_of}", "--set", f"training.seed={seed}"),
        ],
        allowed=(0, Outcome.NOT_BLESSED.exit_status),
    )
    task = Model.load(load_config(settings=[f"model={case.model}"])).task
    metrics = read_metrics(str(_artifact(_only_run(output), "Evaluator", "evaluation")))
    value = metrics[OVERALL][task.headline.name]
    if value is None:
        raise RuntimeError(f"{case.title}: the Evaluator found no {task.headline.title}")
    return value


def measure_baseline(case: Case, output: Path) -> float:
    """The headline metric of the baseline on the split `test` of a run."""
    model, run = Model.load(load_config(settings=[f"model={case.model}"])), _only_run(output)
    train, held_out, test = (read_split(model, run, split) for split in ("train", "eval", "test"))
    features, labels = divide(model.task, pd.concat([train, held_out], ignore_index=True))
    fitted = _make_baseline(case, model.task, features).fit(features, labels)
    features, labels = divide(model.task, test)
    if model.task.kind == REGRESSION:
        predictions = fitted.predict(features)
    else:
        predictions = fitted.predict_proba(features)
        if model.task.kind == BINARY:
            predictions = predictions[:, 1]
    value = headline(model.task, labels, predictions)
    if value is None:
        raise RuntimeError(f"{case.title}: the baseline has no {model.task.headline.title}")
    return value


def _make_baseline(case: Case, task: Task, features: pd.DataFrame) -> Any:
    if case.linear:
        return make_pipeline(MaxAbsScaler(), LogisticRegression(max_iter=5000))
    categories = make_column_selector(dtype_include=object)
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    prepared = make_column_transformer((encoder, categories), remainder="passthrough")
    kind = (
        HistGradientBoostingRegressor if task.kind == REGRESSION else HistGradientBoostingClassifier
    )
    # The transformer puts categories first.
    places = list(range(len(categories(features))))
    return make_pipeline(prepared, kind(categorical_features=places, random_state=_SEED))


def read_split(model: Model, run: Path, split: str) -> pd.DataFrame:
    """Features and label of a split, as the model gets them.

    Args:
      model: The model.
      run: Folder of the artifacts of a run; its schema may be an earlier run's, from the cache.
      split: `train`, `eval` or `test`.
    """
    examples, schema = _EXAMPLES(), tfx.types.standard_artifacts.Schema()
    examples.uri = str(_artifact(run, "SpanExampleGen", "examples"))
    examples.split_names = '["train", "eval", "test"]'
    schema.uri = str(max(run.parent.glob("*/ImportSchemaGen/schema/*")))
    names = [*model.raw_features, model.task.label]
    return read_rows(examples, split, only(names, load_schema(schema)))


def divide(task: Task, rows: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
    """Features, and encoded labels."""
    return rows.drop(columns=task.label), task.encode(rows[task.label].to_numpy())


def _artifact(run: Path, node: str, key: str) -> Path:
    """The folder of an output of a node of a run."""
    (folder,) = run.glob(f"{node}/{key}/*")
    return folder


def _only_run(output: Path) -> Path:
    (run,) = output.glob("models/*/artifacts/*")
    return run


if __name__ == "__main__":
    main()
