"""Columns of examples, small networks, and how good one is."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_transform as tft
import tf_keras
from sklearn.metrics import roc_auc_score
from tfx.v1.types import standard_artifacts as standard

from components.pruner.pruning import Pruning
from components.quantizer.fake_quant import emulate_int8
from ml.distillation import teach
from ml.examples import read_columns
from ml.fit import FitSettings, evaluate, fine_tune
from ml.networks import choose_layers, clone, kernel_layers, load_network
from ml.parameters import load_function
from ml.tasks import Task
from storage.errors import UserError
from tests.components.counting import Counting
from tests.components.digits import (
    SAVE_FN,
    Digits,
    build_network,
    read_digits,
    save_model,
    write_examples,
    write_model,
)

layers = tf_keras.layers

TASK = Task("binary", "label")
SETTINGS = FitSettings(TASK, "", "", 3, 16, 0.05, 7)
FARE = Task("regression", "label")
SPEC = {"schedule": "polynomial", "frequency": 10, "m_by_n": None, "block_size": (1, 1)}


def wide_and_deep() -> tf_keras.Model:
    """A linear part and a deep one, added up after the last weights."""
    tf_keras.utils.set_random_seed(3)
    wide, deep = tf_keras.Input((2,), name="wide"), tf_keras.Input((4,), name="deep")
    hidden = layers.Dense(8, "relu", name="first")(deep)
    hidden = layers.Dense(4, "relu", name="second")(layers.BatchNormalization(name="norm")(hidden))
    together = layers.Add()(
        [layers.Dense(1, name="linear")(wide), layers.Dense(1, name="top")(hidden)]
    )
    return tf_keras.Model([wide, deep], layers.Activation("sigmoid", name="delayed")(together))


def draw_columns(rows: int = 200) -> dict[str, np.ndarray]:
    """Rows whose label depends on both inputs, mostly."""
    random = np.random.default_rng(5)
    wide, deep = random.normal(size=(rows, 2)), random.normal(size=(rows, 4))
    score = wide[:, :1] - deep[:, :1] + 0.3 * random.normal(size=(rows, 1))
    return {
        "wide": wide.astype(np.float32),
        "deep": deep.astype(np.float32),
        "label": (score > 0).astype(np.int64),
        "weight": random.uniform(0.5, 2, (rows, 1)).astype(np.float32),
    }


def names_of(found: list[Any]) -> list[str]:
    return [layer.name for layer in found]


def same_weights(one: tf_keras.Model, other: tf_keras.Model) -> bool:
    return all(map(np.array_equal, one.get_weights(), other.get_weights()))


def test_kernel_layers_skips_layers_without_weights() -> None:
    assert names_of(kernel_layers(wide_and_deep())) == ["first", "second"]


def test_kernel_layers_finds_convolutions_but_no_embeddings() -> None:
    word = tf_keras.Input((6,), dtype="int32")
    embedded = layers.Embedding(9, 4, name="table")(word)
    hidden = layers.Flatten()(layers.Conv1D(3, 2, name="convolution")(embedded))
    network = tf_keras.Model(word, layers.Dropout(0.1)(layers.Dense(1)(hidden)))
    assert names_of(kernel_layers(network)) == ["convolution"]


def test_kernel_layers_leaves_out_the_last_layer_of_each_output() -> None:
    image = tf_keras.Input((4,))
    hidden = layers.Dense(3, name="hidden")(image)
    outputs = [layers.Dense(1, name="one")(hidden), layers.Dense(1, name="two")(hidden)]
    assert names_of(kernel_layers(tf_keras.Model(image, outputs))) == ["hidden"]


@pytest.mark.parametrize(
    ("chosen", "found"),
    [
        ([], ["first", "second"]),
        (["top"], ["top"]),
        (["second", "first"], ["first", "second"]),
        (["Dense"], ["first", "second", "linear", "top"]),
        (["BatchNormalization", "top"], ["norm", "top"]),
    ],
)
def test_choose_layers_chooses_by_name_or_type(chosen: list[str], found: list[str]) -> None:
    network = wide_and_deep()
    in_order = [name for name in names_of(network.layers) if name in found]
    assert names_of(choose_layers(network, chosen)) == in_order
    assert len(in_order) == len(found)


def test_choose_layers_refuses_an_unknown_name_and_lists_the_layers() -> None:
    with pytest.raises(UserError, match=r"'third' is none of first \(Dense\).* norm \(Batch"):
        choose_layers(wide_and_deep(), ["first", "third"])


def test_choose_layers_refuses_a_network_without_a_hidden_layer() -> None:
    network = tf_keras.Sequential([tf_keras.Input((4,)), layers.Dense(1, name="only")])
    with pytest.raises(UserError, match=r"no layer to choose.*its layers are only \(Dense\)"):
        choose_layers(network, [])


def test_clone_has_the_same_weights_and_shares_nothing() -> None:
    network = wide_and_deep()
    copy = clone(network)
    assert same_weights(copy, network)
    ids = [{id(part) for part in (*n.layers, *n.weights)} for n in (network, copy)]
    assert not ids[0] & ids[1]
    before = [weight.copy() for weight in network.get_weights()]
    fine_tune(copy, draw_columns(), SETTINGS)
    assert not same_weights(copy, network)
    assert all(map(np.array_equal, network.get_weights(), before))


def test_fine_tune_learns_the_same_with_the_same_seed() -> None:
    network, columns = wide_and_deep(), draw_columns()
    first, again = clone(network), clone(network)
    for copy in (first, again):
        fine_tune(copy, columns, SETTINGS)
    assert same_weights(first, again)
    before, after = evaluate(network, columns, SETTINGS), evaluate(first, columns, SETTINGS)
    assert after["loss"] < 0.8 * before["loss"]
    assert after["metrics"]["auc"] > 0.9


def test_fine_tune_uses_only_relative_weights_of_rows() -> None:
    settings = dataclasses.replace(SETTINGS, task=dataclasses.replace(TASK, weight="weight"))
    columns = draw_columns()
    networks = [wide_and_deep() for _ in range(3)]
    fine_tune(networks[0], columns, settings)
    fine_tune(networks[1], columns | {"weight": 64 * columns["weight"]}, settings)
    fine_tune(networks[2], columns | {"weight": columns["weight"] ** 2}, settings)
    assert same_weights(networks[0], networks[1])
    assert not same_weights(networks[0], networks[2])


@pytest.mark.parametrize("path", ["plain", "pruned", "int8"])
@pytest.mark.parametrize("rows", [100, 5000])  # One step and many at a time.
def test_fine_tune_traces_a_step_once(path: str, rows: int) -> None:
    columns = draw_columns(rows)
    inputs = tf_keras.Input((4,), name="deep")
    hidden = Counting()(layers.Dense(8, "relu", name="hidden")(inputs))
    network = tf_keras.Model(inputs, layers.Dense(1, "sigmoid", name="top")(hidden))
    if path == "int8":
        network = emulate_int8(network, {"deep": columns["deep"]})
    Counting.traced.clear()
    if path == "pruned":
        pruning = Pruning(network, ["hidden"], SPEC, columns, SETTINGS, 1.0, None)
        for sparsity, steps in ((0.9, 4), (0.5, 0)):  # A trial, and the pruning itself.
            pruning.run(sparsity, steps)
    else:
        fine_tune(network, columns, SETTINGS)
    assert Counting.traced.count(True) == 1


def test_fine_tune_a_second_time_learns_by_the_new_settings() -> None:
    network, columns = wide_and_deep(), draw_columns()
    fine_tune(network, columns, SETTINGS)
    before = [weight.numpy() for weight in network.trainable_weights]
    fine_tune(network, columns, dataclasses.replace(SETTINGS, learning_rate=1e-9))
    for weight, old in zip(network.trainable_weights, before, strict=True):
        np.testing.assert_allclose(weight, old, atol=1e-6)
    assert "train_step" not in vars(network)


@pytest.mark.parametrize("schedule", ["polynomial", "constant"])
@pytest.mark.parametrize("distillation", [0.0, 1.0])  # With dropout, and without it.
@pytest.mark.parametrize("rows", [100, 5000])  # One step and many at a time.
def test_pruning_prunes_the_same_whatever_it_has_pruned_before(
    schedule: str, distillation: float, rows: int
) -> None:
    columns, spec = draw_columns(rows), SPEC | {"schedule": schedule}
    inputs = tf_keras.Input((4,), name="deep")
    hidden = layers.BatchNormalization()(layers.Dense(8, "relu", name="hidden")(inputs))
    outputs = layers.Dense(1, "sigmoid", name="top")(layers.Dropout(0.3)(hidden))
    network = tf_keras.Model(inputs, outputs)
    targets = teach(network, columns, TASK, distillation)

    def pruning() -> Pruning:
        return Pruning(network, ["hidden"], spec, columns, SETTINGS, distillation, targets)

    once, several = pruning(), pruning()
    trial = several.run(0.75, 12)
    several.run(0.9, 5)
    pruned = several.run(0.5)
    assert same_weights(pruned, once.run(0.5))
    assert same_weights(trial, pruning().run(0.75, 12))
    for found, sparsity in ((trial, 0.75), (pruned, 0.5)):
        assert np.mean(found.get_layer("hidden").get_weights()[0] == 0) == sparsity


@pytest.mark.parametrize("odd", [1e30, np.nan])
def test_fine_tune_that_diverges_names_the_learning_rate(odd: float) -> None:
    network = tf_keras.Sequential(
        [tf_keras.Input((4,), name="deep"), layers.Dense(8, "relu"), layers.Dense(1)]
    )
    columns = draw_columns()
    columns["deep"][3] = odd
    settings = dataclasses.replace(SETTINGS, task=FARE, learning_rate=1.0)
    with pytest.raises(UserError, match=r"diverged.*learning rate \(now 1\)"):
        fine_tune(network, columns, settings)


def test_evaluate_gives_the_mean_loss_of_the_rows() -> None:
    network, columns = wide_and_deep(), draw_columns()
    predictions = network.predict([columns["wide"], columns["deep"]], verbose=0).astype(np.float64)
    right = np.where(columns["label"] == 1, predictions, 1 - predictions)
    found = evaluate(network, columns, SETTINGS)
    assert found["loss"] == pytest.approx(-np.log(right).mean(), rel=1e-4)
    assert found["metrics"]["auc"] == roc_auc_score(columns["label"].ravel(), predictions.ravel())


def test_load_function_imports_a_function_by_its_path() -> None:
    assert load_function(SAVE_FN) is save_model


@pytest.mark.parametrize(
    "path",
    [
        "",
        "save_model",
        "no_such_module.save_model",
        "tests.components.digits.no_such_function",
        "tests.components.digits.",
        ".digits.save_model",
        "..digits.save_model",
        "tests.components.digits.PIXELS",
        "tests.components.digits",
    ],
)
def test_load_function_refuses_what_is_not_the_path_of_a_function(path: str) -> None:
    with pytest.raises(UserError, match=f"{re.escape(repr(path))} is not the import path of a"):
        load_function(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": -1}, "epochs = -1: allowed is 0 or more"),
        ({"batch_size": 0}, "batch_size = 0: allowed is 1 or more"),
        ({"learning_rate": 0.0}, r"learning_rate = 0\.0: allowed is above 0, to 1"),
        ({"learning_rate": 1.1}, r"learning_rate = 1\.1: allowed is above 0, to 1"),
        ({"loss": "no_such_loss"}, "loss = 'no_such_loss': of a binary task it is one of binary_"),
        ({"loss": "huber"}, "loss = 'huber': of a binary task it is one of binary_crossentropy, "),
        (
            {"class_weights": "equal"},
            "class_weights = 'equal': 'balanced', or a weight for each of",
        ),
        ({"class_weights": "[1, 0]"}, r"class_weights = \[1, 0\]: weights above 0 are expected"),
        ({"class_weights": "[1]"}, r"class_weights = \[1\]: 'balanced', or a weight for each of"),
        ({"class_weights": "[1, null]"}, "class_weights"),
        ({"task": FARE, "class_weights": "balanced"}, "class_weights: a regression has no classes"),
    ],
)
def test_fine_tune_settings_refuse_a_wrong_value_by_name(
    change: dict[str, Any], message: str
) -> None:
    SETTINGS.check()
    with pytest.raises(UserError, match=message):
        dataclasses.replace(SETTINGS, **change).check()


@pytest.fixture(scope="module")
def some(tmp_path_factory: pytest.TempPathFactory) -> standard.Examples:
    """A hundred rows to learn from, and a split without any."""
    rows = read_digits()["train"]
    folder = tmp_path_factory.mktemp("some") / "examples"
    return write_examples(folder, {"train": rows[:100], "nothing": rows[:0]})


def test_read_columns_holds_every_row_in_the_order_of_the_file(
    some: standard.Examples, digits: Digits
) -> None:
    schema = tft.TFTransformOutput(digits.graph.uri).transformed_metadata.schema
    columns = read_columns(some, "train", schema)
    expected = read_digits()["train"][:100]
    assert columns["label"].shape == (100, 1)
    np.testing.assert_array_equal(columns["label"].ravel(), expected.labels)
    np.testing.assert_array_equal(columns["image"], expected.images)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("test", "no split 'test'; they have train, nothing"),
        ("nothing", "no examples in .*nothing"),
    ],
)
def test_read_columns_refuses_a_missing_or_empty_split_by_name(
    some: standard.Examples, digits: Digits, split: str, message: str
) -> None:
    schema = tft.TFTransformOutput(digits.graph.uri).transformed_metadata.schema
    with pytest.raises(UserError, match=message):
        read_columns(some, split, schema)


def test_load_network_loads_the_saved_network_without_its_signatures(
    digits: Digits, tmp_path: Path
) -> None:
    network = build_network()
    loaded = load_network(write_model(tmp_path, network, digits.graph))
    assert names_of(loaded.layers) == ["image", "first", "second", "digit"]
    assert same_weights(loaded, network)
    images = read_digits()["test"].images[:50]
    np.testing.assert_array_equal(
        loaded.predict({"image": images}, verbose=0), network.predict(images, verbose=0)
    )
