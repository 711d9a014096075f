"""BaselineEvaluator on real trips, and models that the Evaluator compares with its baselines."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import tensorflow_data_validation as tfdv
from tfx.v1.types import standard_artifacts as standard
from tfx_bsl.coders import example_coder

from components.baseline_evaluator import BaselineEvaluator, load_predictions
from components.evaluator import baselines as comparing
from components.evaluator.baselines import Comparison, compare_with_baselines
from ml.artifacts import split_files, statistics_uri
from ml.baselines import BOOSTING, COLUMN, CONSTANT
from ml.example_columns import Columns, to_example_batch
from ml.tasks import Task
from pipeline.config import load_config
from storage.errors import SurroundingsError, UserError
from storage.tfrecords import open_records
from tests.conftest import read_month, seconds_of, thin
from tests.trips.features import RAW_FEATURES

TASK = load_config().make_task()


class World:
    """Examples, statistics and schema of three splits, and what BaselineEvaluator made of them."""

    def __init__(self, folder: Path, schema: Path, run: Callable[..., dict[str, Any]]):
        self.schema = tfdv.load_schema_text(str(schema / "schema.pbtxt"))
        self.run, self.schema_folder = run, schema
        self.examples, self.statistics = standard.Examples(), standard.ExampleStatistics()
        self.examples.uri, self.statistics.uri = str(folder / "e"), str(folder / "s")
        self.frames = {
            "train": frame(201303, 4000),
            "eval": frame(201304, 800),
            "test": frame(201305, 3000),
        }
        names = json.dumps(list(self.frames))
        self.examples.split_names = self.statistics.split_names = names
        for split, rows in self.frames.items():
            write(Path(self.examples.uri, f"Split-{split}"), rows, self.schema)
            path = Path(statistics_uri(self.statistics, split))
            path.parent.mkdir(parents=True)
            found = tfdv.generate_statistics_from_dataframe(rows[["delayed"]])
            path.write_bytes(found.SerializeToString())
        self.baselines = self.fit()

    def fit(self, **parameters: Any) -> Any:
        """Runs the component."""
        given = {"task": TASK.to_json(), "features": json.dumps(RAW_FEATURES), "split": "test"}
        outputs = self.run(
            BaselineEvaluator,
            {
                "examples": self.examples,
                "statistics": self.statistics,
                "schema": self.schema_folder,
            },
            **(given | parameters),
        )
        return outputs["baselines"]

    @property
    def labels(self) -> np.ndarray:
        """Labels of the split `test`."""
        return self.frames["test"]["delayed"].to_numpy(float)

    def compare(
        self, predictions: np.ndarray, monkeypatch: pytest.MonkeyPatch, max_loss: float = 0.02
    ) -> Comparison:
        """Compares a model that predicts this."""

        class Model:
            start = 0

            def predict(self, examples: np.ndarray) -> np.ndarray:
                self.start += len(examples)
                return predictions[self.start - len(examples) : self.start, None]

        monkeypatch.setattr(comparing, "load_predictor", lambda uri: Model())
        files = split_files(self.examples, "test")
        return compare_with_baselines(files, self.schema, "model", self.baselines, max_loss)


def frame(month: int, rows: int) -> pd.DataFrame:
    found = thin(read_month(month), rows).to_pandas()
    found["time_hour"] = seconds_of(found["time_hour"])
    return found


def write(folder: Path, rows: pd.DataFrame, schema: Any) -> None:
    folder.mkdir(parents=True)
    batch = pa.RecordBatch.from_pandas(rows, preserve_index=False)
    columns = Columns.from_schema(schema, "time_hour")
    encoder = example_coder.RecordBatchToExamplesEncoder()
    with open_records(str(folder / "data_tfrecord-00000.gz")) as file:
        for record in encoder.encode(to_example_batch(batch, columns)):
            file.write(record)


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory,
    curated_schema: Path,
    run_component: Callable[..., dict[str, Any]],
) -> World:
    return World(tmp_path_factory.mktemp("baselines"), curated_schema, run_component)


def test_baseline_evaluator_measures_three_baselines_on_the_rows_of_test(world: World) -> None:
    report = world.baselines.read()
    assert list(report["baselines"]) == [CONSTANT, COLUMN, BOOSTING]
    assert report["rows"]["test"] == len(world.labels)
    aucs = [facts["metrics"]["auc"] for facts in report["baselines"].values()]
    assert aucs[0] == 0.5
    assert 0.52 < aucs[1] < aucs[2] < 0.8
    assert report["baselines"][COLUMN]["title"].removesuffix(" alone") in RAW_FEATURES
    assert set(report["baselines"][BOOSTING]["metrics"]) == {m.name for m in TASK.metrics}
    predictions = load_predictions(world.baselines)
    assert {array.shape for array in predictions.values()} == {(len(world.labels), 1)}


def test_baseline_evaluator_finds_the_same_again(world: World) -> None:
    assert world.fit().read() == world.baselines.read()


def test_baseline_evaluator_refuses_a_feature_that_the_schema_lacks(world: World) -> None:
    with pytest.raises(UserError, match="the schema has no feature altitude"):
        world.fit(features='["temp", "altitude"]')


def test_comparison_blesses_a_model_like_gradient_boosting(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    boosting = load_predictions(world.baselines)[BOOSTING][:, 0]
    comparison = world.compare(boosting, monkeypatch, max_loss=0.0)
    assert comparison.failures == ()
    losses = {rival.name: (rival.loss, rival.margin) for rival in comparison.rivals}
    assert losses[BOOSTING] == (0.0, 0.0)  # Paired: no replicate tells them apart.
    pattern = (
        r"AUC (0\.\d{4}); baselines: gradient boosting \1, \w+ alone 0\.\d+, a constant 0\.5000"
    )
    assert re.fullmatch(pattern, comparison.line)
    comparison.write(str(tmp_path))
    assert Comparison.read(str(tmp_path)) == comparison
    assert Comparison.read(str(tmp_path / "none")) is None


@pytest.mark.parametrize(
    ("model", "fault"),
    [
        (lambda boosting, column, noise: noise, r"does not beat a constant|by chance"),
        (lambda boosting, column, noise: 0.9 * noise + 0.1 * column, r"is worse than \w+ alone"),
        (
            lambda boosting, column, noise: column,
            r"is 0\.\d+ worse than gradient boosting, at most 0\.02 is allowed",
        ),
    ],
    ids=["noise", "less than a column", "a column"],
)
def test_comparison_names_the_baseline_that_a_model_loses_to_in_one_line_of_all_figures(
    world: World, monkeypatch: pytest.MonkeyPatch, model: Any, fault: str
) -> None:
    kept = load_predictions(world.baselines)
    noise = np.random.default_rng(7).random(len(world.labels))
    predictions = model(kept[BOOSTING][:, 0], kept[COLUMN][:, 0], noise)
    (reason,) = world.compare(predictions, monkeypatch).failures
    assert re.search(fault, reason), reason
    assert reason.startswith("AUC ")
    assert "baselines: gradient boosting 0." in reason
    assert "\n" not in reason


def test_comparison_forgives_a_loss_that_chance_explains(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    boosting = load_predictions(world.baselines)[BOOSTING][:, 0]
    noise = np.random.default_rng(7).normal(size=len(boosting)) * 0.02
    comparison = world.compare(np.clip(boosting + noise, 0, 1), monkeypatch, max_loss=0.0)
    loss, margin = next((r.loss, r.margin) for r in comparison.rivals if r.name == BOOSTING)
    assert loss is not None
    assert margin is not None
    assert abs(loss) < margin < 0.02
    assert comparison.failures == ()


def test_comparison_refuses_predictions_of_other_rows(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write(tmp_path / "other", world.frames["test"].head(50), world.schema)
    files = [str(path) for path in (tmp_path / "other").iterdir()]

    class Half:
        def predict(self, examples: np.ndarray) -> np.ndarray:
            return np.full((len(examples), 1), 0.5)

    monkeypatch.setattr(comparing, "load_predictor", lambda uri: Half())
    with pytest.raises(SurroundingsError, match="run again with --no-cache"):
        compare_with_baselines(files, world.schema, "model", world.baselines, 0.02)


def test_comparison_of_a_regression_is_relative() -> None:
    task = Task("regression", "price")
    rival = comparing.Rival(BOOSTING, "gradient boosting", 500.0, 0.24, 0.01)
    constant = comparing.Rival(CONSTANT, "the mean", 4000.0, -0.85, 0.01)
    comparison = Comparison(task.headline, 620.0, 0.1, (constant, rival))
    assert comparison.failures == (
        "RMSE 620; baselines: gradient boosting 500, the mean 4,000: the model is 24% worse than "
        "gradient boosting, at most 10% is allowed (evaluation.max_baseline_loss)",
    )


def test_comparison_does_not_bless_what_cannot_be_measured() -> None:
    rival = comparing.Rival(CONSTANT, "a constant", None, None, None)
    (reason,) = Comparison(TASK.headline, None, 0.02, (rival,)).failures
    assert "AUC undefined" in reason
    assert "cannot be compared on these rows" in reason
