"""Tests of Tuner with trainings in processes of their own."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_transform.tf_metadata import dataset_metadata, metadata_io, schema_utils
from tfx.v1.types import standard_artifacts as standard

from components.trainer.executor import SETTING, Executor
from components.tuner.component import Tuner
from components.tuner.processes import Trainings, parse_result
from components.tuner.results import Result, Training
from components.tuner.training import Subject
from ml import hyperparameters
from ml.tasks import Task
from storage.errors import UserError
from storage.span_store import SpanStore
from tests.components.digits import write_records
from tests.forked import start_server

RUN_FN = "tests.components.tuned_model.run_fn"
TASK = Task("regression", "y")
CONFIG = {**vars(TASK), "prediction": "p"}
LEARNING = {
    **{"epochs": 2, "batch_size": 32, "learning_rate": 0.01, "dropout": 0.0, "l2": 0.0},
    **{"loss": "", "class_weights": "", "patience": 0, "seed": 7, "rows_in_memory": 1000},
}
NETWORK = {"units": 4, "conduct": "trains"}
ROWS = {"train": 240, "eval": 80}
SPACE = {
    "training.learning_rate": {"low": 1e-3, "high": 0.1, "log": True},
    "network.units": {"choices": [4, 8]},
}
SEARCH = {"trials": 2, "parallel": 2, "sample_rows": 0, "finalists": 0, "trial_minutes": 5.0}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Transformed examples of two numbers and their sum, and what belongs to them."""
    start_server()
    root = tmp_path_factory.mktemp("tuned")
    spec = {
        "x": tf.io.FixedLenFeature([2], tf.float32),
        "y": tf.io.FixedLenFeature([1], tf.float32),
    }
    metadata = dataset_metadata.DatasetMetadata(schema_utils.schema_from_feature_spec(spec))
    metadata_io.write_metadata(metadata, str(root / "graph" / "transformed_metadata"))
    metadata_io.write_metadata(metadata, str(root / "schema"))
    random = np.random.default_rng(1)
    for split, rows in ROWS.items():
        numbers = random.normal(size=(rows, 2))
        write_records(root / "examples" / f"Split-{split}", map(serialize, numbers))
    examples = standard.Examples()
    examples.uri, examples.split_names = str(root / "examples"), json.dumps([*ROWS])
    return {"examples": examples, "transform_graph": root / "graph", "schema": root / "schema"}


def serialize(numbers: np.ndarray) -> bytes:
    def floats(values: Any) -> tf.train.Feature:
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))

    features = {"x": floats(numbers), "y": floats([numbers.sum()])}
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return bytes(example.SerializeToString())


@pytest.fixture
def subject(inputs: dict[str, Any]) -> Subject:
    folder = inputs["examples"].uri
    return Subject(
        run_fn=RUN_FN,
        train_files=(f"{folder}/Split-train/*",),
        eval_files=(f"{folder}/Split-eval/*",),
        transform_graph=str(inputs["transform_graph"]),
        schema=str(inputs["schema"] / "schema.pbtxt"),
        custom_config=CONFIG | LEARNING | {"warm_start": 0.0, "network": json.dumps(NETWORK)},
    )


def training(conduct: str = "trains") -> Training:
    return Training(trial=0, settings={"network.conduct": conduct}, rows=0, seed=7)


@pytest.fixture
def tune(inputs: dict[str, Any], run_component: Callable[..., Any]) -> Callable[..., Any]:
    """Runs the component; returns what it found, and the content of its report."""

    def run(**parameters: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        given = {
            **{"run_fn": RUN_FN, "custom_config": json.dumps(CONFIG), "task": TASK.to_json()},
            **{"network": json.dumps(NETWORK), "space": json.dumps(SPACE), **LEARNING, **SEARCH},
            **parameters,
        }
        outputs = run_component(Tuner, inputs, **given)
        best = hyperparameters.read(outputs["best_hyperparameters"])
        return best, outputs["report"].read()

    return run


def test_trainings_report_how_each_of_them_failed(subject: Subject) -> None:
    conducts = {
        "exits": "it ended with status 3",
        "is killed": "it was killed by SIGKILL, as when memory runs out",
        "lacks memory": "MemoryError: of 1 TB",
        "leaves no record": f"{RUN_FN} left no training.json in model_run_dir",
    }
    asked = [training(conduct) for conduct in conducts]
    diverging = replace(training(), settings={"training.learning_rate": 1e30})
    trainings = Trainings(subject, "digest", 300.0, SpanStore(""))
    *failed, diverged, trained = trainings.run([*asked, diverging, training()])
    for result, why in zip(failed, conducts.values(), strict=True):
        assert result.why.startswith(why)
        assert not result.metrics
    assert diverged.why.startswith("training diverged: ")
    assert diverged.lasting
    assert trained.why == ""
    assert trained.epochs == 2
    assert trained.metrics["rmse"] is not None


def test_trainings_stop_one_that_hangs(subject: Subject) -> None:
    trainings = Trainings(subject, "digest", 2.0, SpanStore(""))
    (result,) = trainings.run([training("hangs")])
    assert result.why == "stopped, for it took longer than 0.0333333 minutes"
    assert 2.0 <= result.seconds < 60.0
    assert not result.lasting


def test_trainings_keep_what_would_be_the_same_again(subject: Subject, store: Path) -> None:
    def run(digest: str, *asked: Training) -> list[Result]:
        return Trainings(subject, digest, 300.0, SpanStore(str(store))).run(asked)

    lasting = training("leaves no record")
    first, again = (run("digest", training(), training("exits"), lasting) for _ in range(2))
    assert [result.kept for result in first] == [False, False, False]
    assert [result.kept for result in again] == [True, False, True]
    assert [replace(result, kept=False, seconds=0.0) for result in again] == [
        replace(result, seconds=0.0) for result in first
    ]
    assert not any(result.kept for result in run("of other data", lasting))
    assert not any(result.kept for result in run("digest", replace(lasting, seed=8)))


@pytest.mark.parametrize(
    "change",
    [
        {"metrics": {"rmse": "nan"}},
        {"metrics": {"rmse": float("inf")}},
        {"metrics": [1]},
        {"metrics": {}},
        {"why": "diverged"},
        {"why": 3},
        {"epochs": True},
        {"seconds": float("nan")},
        {"seconds": None},
    ],
)
def test_parse_result_refuses_what_no_training_left(change: dict[str, Any]) -> None:
    facts = {"metrics": {"rmse": 1.5, "r2": None}, "epochs": 3, "seconds": 2.0, "why": ""}
    kept = parse_result(json.dumps(facts).encode())
    assert kept == Result({"rmse": 1.5, "r2": None}, 3, 2.0, kept=True)
    assert parse_result(json.dumps(facts | change).encode()) is None


@pytest.mark.parametrize("content", [b"", b"[]", b"3", b"\xff", b"{", b"[" * 100_000])
def test_parse_result_refuses_other_files(content: bytes) -> None:
    assert parse_result(content) is None


def test_tuner_goes_on_with_a_killed_search_and_finds_the_same(
    tune: Callable[..., Any], store: Path
) -> None:
    best, content = tune()
    assert content["counts"] == {"complete": 2, "pruned": 0, "failed": 0}
    assert content["trials"][0]["settings"] == {
        "training.learning_rate": 0.01,
        "network.units": 4,
    }
    assert best == content["best"]["settings"]
    values = [trial["value"] for trial in content["trials"]]
    assert content["best"]["value"] == min(values)
    assert content["configured"]["value"] == values[0]
    kept = sorted(store.rglob("training-*"))
    assert len(kept) == 2
    kept[1].unlink()
    again_best, again = tune()
    assert again_best == best
    assert again["kept_trainings"] == 1
    assert [trial["value"] for trial in again["trials"]] == values


def test_tuner_learns_from_a_sample_first(tune: Callable[..., Any]) -> None:
    _, content = tune(trials=1, sample_rows=100, finalists=1)
    assert content["steps"] == [100, 240]
    (trial,) = content["trials"]
    assert [step["rows"] for step in trial["trainings"]] == [100, 240]
    assert trial["trainings"][0]["value"] != trial["trainings"][1]["value"]
    assert [*trial["by_seed"]] == ["7", "8", "9"]
    assert content["best"]["value"] == pytest.approx(np.mean([*trial["by_seed"].values()]))


def test_tuner_fails_where_no_trial_is_complete(tune: Callable[..., Any]) -> None:
    space = {"network.units": {"choices": [4, 8]}}
    with pytest.raises(UserError, match="trial 0 failed: it ended with status 3"):
        tune(
            trials=2,
            space=json.dumps(space),
            network=json.dumps(NETWORK | {"conduct": "exits"}),
        )


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"trials": 0}, "trials = 0: allowed is 1 or more"),
        ({"parallel": 0}, "parallel = 0: allowed is 1 or more"),
        ({"trial_minutes": 0.0}, "trial_minutes = 0.0: allowed is above 0"),
        ({"space": '{"training.tempo": {"choices": [1, 2]}}'}, "training.tempo: Trainer has no"),
        ({"run_fn": "tests.nothing.run_fn"}, "is not the import path of a function"),
        ({"loss": "poisson_of_classes"}, "loss = 'poisson_of_classes'"),
    ],
)
def test_tuner_refuses_parameters(
    tune: Callable[..., Any], parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        tune(**parameters)


def test_trainer_takes_what_tuner_found(inputs: dict[str, Any], tmp_path: Path) -> None:
    found = standard.HyperParameters()
    found.uri = str(tmp_path / "best")
    hyperparameters.write(found, {"training.epochs": 9, "network.units": 8})
    artifacts = {"examples": inputs["examples"], "hyperparameters": found}
    for name, kind in (("transform_graph", standard.TransformGraph), ("schema", standard.Schema)):
        artifacts[name] = kind()
        artifacts[name].uri = str(inputs[name])
    outputs = {"model": standard.Model(), "model_run": standard.ModelRun()}
    for name, artifact in outputs.items():
        artifact.uri = str(tmp_path / name)
    parameters = {
        "run_fn": "tests.components.tuned_model.record_fn",
        "train_args": "{}",
        "eval_args": "{}",
        "custom_config": json.dumps(CONFIG),
        **{SETTING + name: value for name, value in LEARNING.items()},
        SETTING + "network": json.dumps(NETWORK),
    }
    Executor().Do(
        {name: [artifact] for name, artifact in artifacts.items()},
        {name: [artifact] for name, artifact in outputs.items()},
        parameters,
    )
    (file,) = Path(outputs["model"].uri).rglob("config.json")
    given = json.loads(file.read_text())
    assert given["epochs"] == 9
    assert given["batch_size"] == 32
    assert json.loads(given["network"]) == NETWORK | {"units": 8}
