"""Tests of the training that all models share, for each task."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tf_keras

from ml import progress, training
from ml.determinism import make_deterministic
from ml.learning import Learning
from ml.scores import measure
from ml.task_layers import output_layer
from ml.tasks import Task
from ml.training import TrainingData, check_labels, fit
from pipeline.config import load_config
from storage.errors import DataError, UserError
from tests.components.counting import Counting

TASKS = {
    "binary": Task("binary", "y", ("no", "yes")),
    "multiclass": Task("multiclass", "y", ("a", "b", "c")),
    "regression": Task("regression", "y"),
}
# That a network reaches on the rows below, and a constant does not.
REACHED = {"binary": ("auc", 0.9), "multiclass": ("accuracy", 0.75), "regression": ("r2", 0.9)}


def learning(task: Task, **changes: Any) -> Learning:
    settings = dataclasses.asdict(load_config().training) | {"learning_rate": 0.01}
    custom_config = {**vars(task), "prediction": "p", **settings, "batch_size": 64, **changes}
    return Learning.from_config(custom_config)


def draw(task: Task, rows: int, seed: int) -> dict[str, np.ndarray]:
    """Rows whose label depends on two numbers."""
    random = np.random.default_rng(seed)
    numbers = random.normal(size=(rows, 2)).astype(np.float32)
    score = (numbers[:, :1] - numbers[:, 1:]) + 0.2 * random.normal(size=(rows, 1))
    if task.kind == "regression":
        label = (1000 + 300 * score).astype(np.float32)
    else:
        label = np.digitize(score, [0] if task.kind == "binary" else [-0.5, 0.5])
    return {"numbers": numbers, "y": label}


def build(task: Task, labels: np.ndarray) -> tf_keras.Model:
    layers = tf_keras.layers
    inputs = tf_keras.Input((2,), name="numbers")
    bias = tf_keras.initializers.Constant(task.initial_bias(labels))
    logits = layers.Dense(task.outputs, bias_initializer=bias)(layers.Dense(16, "relu")(inputs))
    return tf_keras.Model(inputs, output_layer(task, logits, "p", labels))


def run(task: Task, folder: Path, **changes: Any) -> tuple[tf_keras.Model, dict[str, Any]]:
    config = learning(task, **changes)
    tf_keras.utils.set_random_seed(config.seed)
    data = TrainingData(config, None, draw(task, 1500, 1), draw(task, 400, 2))
    network = build(task, data.labels)
    return network, fit(network, data, str(folder))


@pytest.mark.parametrize("kind", TASKS)
def test_fit_learns_each_task_and_reports_its_metrics_on_eval(tmp_path: Path, kind: str) -> None:
    task = TASKS[kind]
    lines: list[str] = []
    progress.subscribe(lines.append)
    network, summary = run(task, tmp_path, epochs=10)
    assert 1 <= summary["best_epoch"] <= summary["epochs"] <= 10
    rows = draw(task, 400, 2)
    predictions = network.predict(rows["numbers"], verbose=0)
    assert predictions.shape == (400, task.outputs)
    expected = measure(task, rows["y"], predictions)
    assert summary["metrics"] == pytest.approx(expected, rel=1e-4)
    name, least = REACHED[kind]
    assert summary["metrics"][name] > least
    assert any(line.startswith("epoch 1 of 10, step ") for line in lines)


def test_fit_traces_a_step_once(tmp_path: Path) -> None:
    task = TASKS["binary"]
    data = TrainingData(learning(task), None, draw(task, 1500, 1), draw(task, 400, 2))
    plain = build(task, data.labels)
    network = tf_keras.Model(plain.inputs, Counting()(plain.outputs[0]))
    Counting.traced.clear()
    fit(network, data, str(tmp_path))
    assert Counting.traced.count(True) == 1
    assert not {"train_step", "test_step"} & vars(network).keys()


@pytest.mark.parametrize("kind", TASKS)
def test_untrained_network_predicts_the_distribution_of_the_labels(kind: str) -> None:
    task = TASKS[kind]
    rows = draw(task, 1500, 1)
    network = build(task, rows["y"])
    found = network(np.zeros((1, 2), np.float32)).numpy().ravel()
    if kind == "regression":
        expected = [rows["y"].mean()]
    else:
        expected = [np.mean(rows["y"] == k) for k in range(len(task.classes))][-task.outputs :]
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_fit_stops_early_and_keeps_the_best_epoch(tmp_path: Path) -> None:
    task = TASKS["regression"]
    network, summary = run(task, tmp_path, epochs=60, patience=1, learning_rate=0.05)
    assert summary["best_epoch"] < summary["epochs"] < 60
    rows = draw(task, 400, 2)
    kept = network.evaluate(rows["numbers"], rows["y"], verbose=0, return_dict=True)
    assert kept["data_loss"] == pytest.approx(summary["metrics"]["rmse"] ** 2, rel=1e-4)


def test_fit_learns_the_same_however_many_steps_keras_takes_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def weights() -> list[np.ndarray]:
        config = learning(TASKS["multiclass"], epochs=3, patience=2)
        make_deterministic(config.seed)
        rows = draw(config.task, 1500, 1)
        data = TrainingData(config, None, rows, draw(config.task, 400, 2))
        layers, inputs = tf_keras.layers, tf_keras.Input((2,), name="numbers")
        hidden = layers.Dropout(0.3)(layers.Dense(16, "relu")(inputs))
        logits = layers.Dense(config.task.outputs)(hidden)
        network = tf_keras.Model(inputs, output_layer(config.task, logits, "p", rows["y"]))
        fit(network, data, str(tmp_path))
        return list(network.get_weights())

    many = weights()
    monkeypatch.setattr(training, "steps_per_call", lambda inputs, steps: 1)
    for one, other in zip(many, weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_fit_without_patience_trains_all_epochs_and_keeps_their_average(tmp_path: Path) -> None:
    task = TASKS["regression"]
    wanted = {"epochs": 12, "learning_rate": 0.05}
    stopped, early = run(task, tmp_path, patience=1, **wanted)
    network, summary = run(task, tmp_path, patience=0, **wanted)
    assert early["best_epoch"] < early["epochs"] < summary["epochs"]
    assert summary["best_epoch"] == summary["epochs"] == 12
    rows = draw(task, 400, 2)
    found, best = (model.predict(rows["numbers"], verbose=0) for model in (network, stopped))
    assert summary["metrics"] == pytest.approx(measure(task, rows["y"], found), rel=1e-4)
    assert np.abs(found - best).max() > 1
    assert float(network.optimizer.learning_rate) == pytest.approx(0.3 * 0.05, rel=1e-3)
    assert float(stopped.optimizer.learning_rate) < 0.05


def test_fit_without_patience_varies_less_from_seed_to_seed_than_its_last_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, rows = TASKS["binary"], draw(TASKS["binary"], 400, 2)
    wanted = {"epochs": 4, "patience": 0, "learning_rate": 0.1, "batch_size": 32}

    def spread() -> float:
        networks = [run(task, tmp_path / str(seed), seed=seed, **wanted)[0] for seed in (1, 2, 3)]
        return float(
            np.std([n.predict(rows["numbers"], verbose=0) for n in networks], axis=0).mean()
        )

    averaged = spread()
    monkeypatch.setattr(training, "AverageWeights", lambda *_: tf_keras.callbacks.Callback())
    assert averaged < 0.8 * spread()


def test_fit_that_diverges_says_what_to_lower(tmp_path: Path) -> None:
    task = TASKS["binary"]
    rows = draw(task, 300, 1)
    rows["numbers"][5] = 1e30
    data = TrainingData(learning(task, learning_rate=1.0), None, rows, draw(task, 100, 2))
    with pytest.raises(UserError, match=r"lower training\.learning_rate \(now 1\)"):
        fit(build(task, data.labels), data, str(tmp_path))


@pytest.mark.parametrize("split", ["train", "eval"])
@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_fit_names_a_feature_that_is_not_finite(tmp_path: Path, split: str, odd: float) -> None:
    task = TASKS["binary"]
    rows = {"train": draw(task, 300, 1), "eval": draw(task, 100, 2)}
    rows[split]["numbers"][5] = odd
    data = TrainingData(learning(task), None, rows["train"], rows["eval"])
    message = f"{split}: the transformed feature 'numbers' is NaN or infinite in 1 of .00 rows"
    with pytest.raises(UserError, match=message):
        fit(build(task, data.labels), data, str(tmp_path))


def test_fit_says_when_the_loss_on_eval_is_not_finite(tmp_path: Path) -> None:
    task = TASKS["regression"]
    rows = draw(task, 100, 2)
    rows["y"][3] = 1e30
    data = TrainingData(learning(task), None, draw(task, 300, 1), rows)
    with pytest.raises(UserError, match="the loss on eval is not finite"):
        fit(build(task, data.labels), data, str(tmp_path))


def test_fit_names_an_input_that_is_no_transformed_feature(tmp_path: Path) -> None:
    task = TASKS["binary"]
    rows = draw(task, 100, 1)
    network = build(task, rows["y"])
    rows["amounts"] = rows.pop("numbers")
    data = TrainingData(learning(task), None, rows, rows)
    with pytest.raises(UserError, match=r"inputs numbers are not among .* amounts, y"):
        fit(network, data, str(tmp_path))


@pytest.mark.parametrize(
    ("kind", "split", "labels", "message"),
    [
        ("binary", "train", [0, 0], "train: the label 'y' is never yes in 2 rows; all of no, yes"),
        ("binary", "eval", [1], "eval: the label 'y' is never no in 1 rows"),
        ("binary", "train", [0, 1, -1], "train: the label 'y' has values that are none of no, yes"),
        ("binary", "eval", [], "eval: the label 'y' is never no, yes in 0 rows"),
        ("multiclass", "train", [0, 1], "train: the label 'y' is never c in 2 rows"),
        ("multiclass", "eval", [0, -1], "eval: the label 'y' has values that are none of a, b, c"),
        ("regression", "train", [1.0, np.nan], "train: the label 'y' is absent or not finite"),
        ("regression", "eval", [np.inf], "eval: the label 'y' is absent or not finite"),
        ("regression", "eval", [], "eval: there is no label 'y'"),
        ("regression", "train", [3.0, 3.0], "train: the label 'y' is 3 in all of 2 rows"),
    ],
)
def test_check_labels_refuses_what_cannot_be_learned(
    kind: str, split: str, labels: list[float], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        check_labels(TASKS[kind], split, np.array(labels).reshape(-1, 1))


@pytest.mark.parametrize(
    ("kind", "split", "labels"),
    [
        ("binary", "train", [0, 1, 1]),
        ("multiclass", "train", [0, 1, 2]),
        ("multiclass", "eval", [1]),
        ("regression", "train", [-1.0, 0.0]),
        ("regression", "eval", [3.0, 3.0]),
    ],
)
def test_check_labels_accepts_what_can_be_learned(
    kind: str, split: str, labels: list[float]
) -> None:
    check_labels(TASKS[kind], split, np.array(labels).reshape(-1, 1))


def test_fit_takes_another_loss_and_stops_early_by_it(tmp_path: Path) -> None:
    task = TASKS["regression"]
    rows, evaluation = draw(task, 1500, 1), draw(task, 400, 2)
    for columns in (rows, evaluation):
        columns["y"] = np.exp(columns["y"] / 300)
    config = learning(task, epochs=3, loss="mean_squared_logarithmic_error")
    network = build(task, rows["y"])
    summary = fit(network, TrainingData(config, None, rows, evaluation), str(tmp_path))
    rows = evaluation
    kept = network.evaluate(rows["numbers"], rows["y"], verbose=0, return_dict=True)
    predictions = network.predict(rows["numbers"], verbose=0)
    errors = np.log1p(np.maximum(predictions, 1e-7)) - np.log1p(rows["y"])
    assert kept["data_loss"] == pytest.approx(np.mean(errors**2), rel=1e-3)
    assert summary["metrics"]["r2"] is not None


@pytest.mark.parametrize("loss", ["mean_squared_logarithmic_error", "poisson"])
def test_check_labels_refuses_negative_labels_for_a_loss_that_clips_them(loss: str) -> None:
    labels = np.array([[3.0], [-1.5]])
    check_labels(TASKS["regression"], "train", labels)
    with pytest.raises(DataError, match=f"is -1.5 at lowest; the loss {loss} needs 0 or more"):
        check_labels(TASKS["regression"], "train", labels, loss)


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_fit_with_class_weights_predicts_the_rare_class_more_often(
    tmp_path: Path, kind: str
) -> None:
    task = TASKS[kind]
    rows, evaluation = draw(task, 2000, 1), draw(task, 1000, 2)
    rare = len(task.classes) - 1
    for columns in (rows, evaluation):
        kept = (columns["y"].ravel() != rare) | (np.arange(len(columns["y"])) % 10 == 0)
        columns |= {name: column[kept] for name, column in columns.items()}
    means = {}
    for weights in ("", "balanced", json.dumps([1.0] * rare + [10.0])):
        config = learning(task, class_weights=weights, epochs=6)
        tf_keras.utils.set_random_seed(config.seed)
        network = build(task, rows["y"])
        fit(network, TrainingData(config, None, rows, evaluation), str(tmp_path))
        means[weights] = network.predict(evaluation["numbers"], verbose=0)[:, -1].mean()
    plain, balanced, listed = means.values()
    assert balanced > 1.3 * plain
    assert listed > 1.3 * plain


def test_fit_learns_by_example_weights_and_measures_by_them(tmp_path: Path) -> None:
    """Half of the rows have the opposite label, and hardly any weight."""
    task = Task("binary", "y", example_weight="count")
    rows, evaluation = draw(task, 2000, 1), draw(task, 400, 2)
    for columns in (rows, evaluation):
        columns["y"][::2] = 1 - columns["y"][::2]
        columns["count"] = np.ones_like(columns["y"], np.float32)
        columns["count"][::2] = 0.01
    network = build(task, rows["y"])
    data = TrainingData(learning(task, epochs=5), None, rows, evaluation)
    summary = fit(network, data, str(tmp_path))
    assert summary["metrics"]["auc"] > 0.9
    predictions = network.predict(evaluation["numbers"], verbose=0)
    expected = measure(task, evaluation["y"], predictions, evaluation["count"])
    assert summary["metrics"] == pytest.approx(expected, rel=1e-4)


def test_fit_stops_early_by_the_weights_of_training(tmp_path: Path) -> None:
    """By weight the labels of `eval` are those of `train`; by number they are the opposite."""
    task = Task("binary", "y", weight="age")
    rows, evaluation = draw(task, 1500, 1), draw(task, 600, 2)
    evaluation["y"][200:] = 1 - evaluation["y"][200:]
    rows["age"] = np.ones((1500, 1), np.float32)
    evaluation["age"] = np.ones((600, 1), np.float32)
    evaluation["age"][200:] = 1e-3
    network = build(task, rows["y"])
    config = learning(task, epochs=6, patience=6)
    summary = fit(network, TrainingData(config, None, rows, evaluation), str(tmp_path))
    assert summary["best_epoch"] > 3
    assert summary["metrics"]["auc"] < 0.5


def test_fit_names_a_weight_that_the_preprocessing_does_not_return(tmp_path: Path) -> None:
    task = Task("binary", "y", example_weight="count")
    rows = draw(task, 100, 1)
    data = TrainingData(learning(task), None, rows, rows)
    with pytest.raises(UserError, match="weight = 'count': not among the transformed features"):
        fit(build(task, rows["y"]), data, str(tmp_path))
