"""Pruner on a network that tells handwritten digits, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from tfx.v1.types import standard_artifacts as standard

from components.pruner.component import Pruner
from components.pruner.least_units import split_sparsity
from components.pruner.pruning import count_weights, measure_sparsity
from components.pruner.spec import check_pruning, limit_sparsity
from ml.artifacts import serving_model_uri
from ml.fit import FitSettings
from ml.networks import kernel_layers
from ml.predictors import load_predictor
from storage.errors import UserError
from tests.components.digits import (
    PIXELS,
    PRUNING,
    TASK,
    Digits,
    Rows,
    build_network,
    digest,
    load_kernels,
    measure_accuracy,
    read_digits,
    write_examples,
    write_model,
)

layers = tf_keras.layers
Layers = list[tf_keras.layers.Layer]
Outputs = dict[str, Any]
Prune = Callable[..., Outputs]


@pytest.fixture(scope="module")
def prune(digits: Digits, run_component: Callable[..., Outputs]) -> Prune:
    """Prunes the digits' network, or another, with other parameters."""

    def run(model: standard.Model | None = None, **parameters: Any) -> Outputs:
        inputs = digits.for_pruner(**({"model": model} if model else {}))
        return run_component(Pruner, inputs, **(PRUNING | parameters))

    return run


def zeros(kernel: np.ndarray) -> float:
    return float(np.mean(kernel == 0))


def predict(model: standard.Model, split: str) -> np.ndarray:
    predictor = load_predictor(serving_model_uri(model))
    return predictor.predict(read_digits()[split].serialize())


def test_pruner_reaches_and_reports_the_target_in_every_hidden_layer(
    pruned_digits: Outputs,
) -> None:
    kernels = load_kernels(pruned_digits["pruned_model"])
    report = pruned_digits["report"].read()
    weights = {"first": PIXELS * 64, "second": 64 * 64}
    assert list(report["layers"]) == ["first", "second"]
    for name, layer in report["layers"].items():
        # What dead units had left is gone too.
        assert 0.798 < layer["sparsity"] < 0.83
        left = np.count_nonzero(kernels[name])
        assert layer == {"sparsity": 1 - left / weights[name], "weights": weights[name]}
    left = sum(np.count_nonzero(kernels[name]) for name in weights)
    assert report["sparsity"] == pytest.approx(1 - left / sum(weights.values()))


def test_pruner_removes_dead_units_and_reports_them(prune: Prune) -> None:
    done = prune(target_sparsity="0.96", epochs=16)
    kernels, units = load_kernels(done["pruned_model"]), done["report"].read()["units"]
    assert list(units) == ["first", "second"]
    assert sum(layer["removed"] for layer in units.values()) > 0
    for name, layer in units.items():
        assert kernels[name].shape[1] == layer["units"] - layer["removed"] > 1
        assert kernels[name].any(axis=0).all()
    assert kernels["second"].shape[0] == kernels["first"].shape[1]
    assert kernels["second"].any(axis=1).all()


def test_pruner_keeps_a_share_of_the_units_and_the_accuracy(prune: Prune) -> None:
    done = prune(keep_units="0.5", target_sparsity="0.5")
    kernels, report = load_kernels(done["pruned_model"]), done["report"].read()
    assert kernels["first"].shape[1] == kernels["second"].shape[0] <= 32
    assert kernels["second"].shape[1] == kernels["digit"].shape[0] <= 32
    for name, counts in report["units"].items():
        assert counts == {"units": 64, "removed": 64 - kernels[name].shape[1]}
    assert report["sparsity"] > 0.74
    assert measure_accuracy(load_predictor(serving_model_uri(done["pruned_model"]))) > 0.9


def test_pruner_takes_units_for_half_of_what_is_kept_to_be_zeros(prune: Prune) -> None:
    done = prune(keep_units="auto")
    kernels, report = load_kernels(done["pruned_model"]), done["report"].read()
    assert 0.79 < report["sparsity"] < 0.82
    for name in ("first", "second"):
        assert kernels[name].shape[1] == 64 - report["units"][name]["removed"] < 34
        assert 0.4 < zeros(kernels[name]) < 0.55
    assert measure_accuracy(load_predictor(serving_model_uri(done["pruned_model"]))) > 0.9


@given(widths=st.lists(st.integers(1, 300), min_size=1, max_size=3), sparsity=st.floats(0, 0.999))
def test_split_sparsity_reaches_the_sparsity_with_half_of_it_zeros(
    widths: list[int], sparsity: float
) -> None:
    names = [f"hidden_{at}" for at in range(len(widths))]
    hidden = [layers.Dense(width, name=name) for name, width in zip(names, widths, strict=True)]
    network = tf_keras.Sequential([layers.Input([50]), *hidden, layers.Dense(1)])
    share, zeros_of_rest = split_sparsity(network, names, sparsity)
    assert 0 < share <= 1
    units = [max(1, round(share * width)) for width in widths]
    left = sum(map(math.prod, zip([50, *units], units, strict=False)))
    whole = sum(map(math.prod, zip([50, *widths], widths, strict=False)))
    assert left * (1 - zeros_of_rest) == pytest.approx((1 - sparsity) * whole)
    if sparsity <= 0.5:
        assert (share, zeros_of_rest) == (1, sparsity)
    else:
        assert zeros_of_rest >= 0.5 - 1e-9


def test_split_sparsity_keeps_all_units_where_not_every_layer_can_lose_some() -> None:
    network = build_network(
        layers.Reshape((28, 28, 1)), layers.Conv2D(8, 5, 4, name="strokes"), layers.Flatten()
    )
    names = [layer.name for layer in kernel_layers(network)]
    assert "strokes" in names
    assert split_sparsity(network, names, 0.9) == (1, 0.9)
    dense = build_network(layers.Dense(8, name="one"), layers.Dense(8, name="two"))
    assert split_sparsity(dense, ["two"], 0.9) == (1, 0.9)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_pruner_learns_from_the_float_model_rather_than_from_labels(
    digits: Digits, run_component: Callable[..., Outputs], tmp_path: Path, share: float
) -> None:
    splits = {}
    for split, rows in read_digits().items():
        labels = rows.labels if split != "train" else (rows.labels + 1) % 10  # All of them wrong.
        splits[split] = Rows(rows.images / np.float32(255), labels)
    inputs = digits.for_pruner(examples=write_examples(tmp_path, splits))
    done = run_component(Pruner, inputs, **(PRUNING | {"distillation": share}))
    accuracy = measure_accuracy(load_predictor(serving_model_uri(done["pruned_model"])))
    assert accuracy > 0.9 if share else accuracy < 0.7


def test_pruner_keeps_all_weights_of_the_output_layer(pruned_digits: Outputs) -> None:
    assert zeros(load_kernels(pruned_digits["pruned_model"])["digit"]) == 0


def test_pruner_keeps_the_accuracy(digits: Digits, pruned_digits: Outputs) -> None:
    models = (digits.model, pruned_digits["pruned_model"])
    before, after = (measure_accuracy(load_predictor(serving_model_uri(m))) for m in models)
    print(f"accuracy on the test split: {before:.3f} before pruning, {after:.3f} after")
    assert after > 0.9
    assert after > before - 0.03


@pytest.mark.parametrize("when", ["before", "after"])
def test_pruner_reports_loss_and_metrics_of_both_models(
    digits: Digits, pruned_digits: Outputs, when: str
) -> None:
    model = digits.model if when == "before" else pruned_digits["pruned_model"]
    predictions, labels = predict(model, "eval"), read_digits()["eval"].labels
    loss = -np.log(predictions[np.arange(len(labels)), labels]).mean()
    # scikit-learn wants sums of 1 that float32 does not hold.
    exact = predictions.astype(np.float64)
    area = roc_auc_score(labels, exact / exact.sum(axis=1, keepdims=True), multi_class="ovr")
    report = pruned_digits["report"].read()
    assert report[when]["loss"] == pytest.approx(loss, rel=1e-3)
    metrics = report[when]["metrics"]
    assert list(metrics) == ["accuracy", "macro_auc", "log_loss", "calibration"]
    assert metrics["macro_auc"] == pytest.approx(area, abs=1e-5)
    assert metrics["accuracy"] == np.mean(predictions.argmax(axis=1) == labels)


def test_pruner_keeps_the_signatures_of_the_model(digits: Digits, pruned_digits: Outputs) -> None:
    def signatures(model: standard.Model) -> dict[str, Any]:
        loaded = tf.saved_model.load(serving_model_uri(model)).signatures
        return {
            name: (signature.structured_input_signature, signature.structured_outputs)
            for name, signature in loaded.items()
        }

    given = signatures(digits.model)
    assert set(given) == {"serving_default", "raw_features"}
    assert signatures(pruned_digits["pruned_model"]) == given


def test_pruner_leaves_no_wrapper_of_the_toolkit_in_the_saved_model(
    digits: Digits, pruned_digits: Outputs
) -> None:
    folders = [serving_model_uri(m) for m in (digits.model, pruned_digits["pruned_model"])]
    before, after = (tf_keras.models.load_model(folder, compile=False) for folder in folders)
    assert [type(layer).__name__ for layer in after.layers if layer.weights] == ["Dense"] * 3
    assert [w.name for w in after.weights] == [w.name for w in before.weights]
    for path in filter(Path.is_file, Path(folders[1]).rglob("*")):
        assert not re.search(rb"(?i)prune_?low|pruning_step", path.read_bytes()), path


@pytest.fixture(scope="module")
def again(digits: Digits, prune: Prune) -> Outputs:
    """The same once more, and whether the inputs stayed the same."""
    tf_keras.utils.set_random_seed(1)  # What was random before must not matter.
    folders = [artifact.uri for artifact in digits.for_pruner().values()]
    before = [digest(folder) for folder in folders]
    outputs = prune()
    return outputs | {"inputs_stayed": before == [digest(folder) for folder in folders]}


def test_pruner_leaves_its_inputs_unchanged(again: Outputs) -> None:
    assert again["inputs_stayed"]


def test_pruner_weights_depend_on_the_seed_alone(pruned_digits: Outputs, again: Outputs) -> None:
    first, second = (load_kernels(done["pruned_model"]) for done in (pruned_digits, again))
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_pruner_prunes_blocks_of_four_inputs_together(prune: Prune) -> None:
    kernels = load_kernels(
        prune(block_size="[4, 1]", epochs=2, target_sparsity="0.7")["pruned_model"]
    )
    for name in ("first", "second"):
        assert zeros(kernels[name]) == pytest.approx(0.7, abs=0.005)
        blocks = kernels[name].T.reshape(-1, 4)
        assert set(np.unique(np.count_nonzero(blocks, axis=1))) == {0, 4}


def test_pruner_prunes_two_of_every_four_inputs(prune: Prune) -> None:
    done = prune(m_by_n="[2, 4]", epochs=1)
    kernels = load_kernels(done["pruned_model"])
    for name in ("first", "second"):
        groups = kernels[name].T.reshape(-1, 4)
        assert (np.count_nonzero(groups, axis=1) <= 2).all()
    assert done["report"].read()["sparsity"] == pytest.approx(0.5, abs=0.001)


def test_pruner_reaches_the_target_with_a_constant_schedule(prune: Prune) -> None:
    report = prune(schedule="constant", target_sparsity="0.6", epochs=2)["report"].read()
    assert report["sparsity"] == pytest.approx(0.6, abs=0.002)


@pytest.mark.parametrize("schedule", ["polynomial", "constant"])
def test_pruner_reaches_the_target_with_a_low_frequency(prune: Prune, schedule: str) -> None:
    parameters = {"schedule": schedule, "frequency": 1000, "target_sparsity": "0.6"}
    report = prune(epochs=1, **parameters)["report"].read()
    assert report["sparsity"] == pytest.approx(0.6, abs=0.005)


def test_pruner_keeps_the_weights_of_other_layers(prune: Prune) -> None:
    done = prune(layers='["second"]', epochs=2, target_sparsity="0.7")
    assert list(done["report"].read()["layers"]) == ["second"]
    kernels = load_kernels(done["pruned_model"])
    assert zeros(kernels["second"]) == pytest.approx(0.7, abs=0.002)
    assert zeros(kernels["first"]) == zeros(kernels["digit"]) == 0


def test_pruner_passes_the_network_on_with_a_target_of_zero(digits: Digits, prune: Prune) -> None:
    done = prune(target_sparsity="0", epochs=0)
    given, passed = load_kernels(digits.model), load_kernels(done["pruned_model"])
    assert all(np.array_equal(given[name], passed[name]) for name in given)
    report = done["report"].read()
    assert report["sparsity"] == 0
    assert report["before"] == report["after"]


def test_pruner_prunes_a_convolution(digits: Digits, prune: Prune, tmp_path: Path) -> None:
    network = build_network(
        layers.Reshape((28, 28, 1)), layers.Conv2D(8, 5, 4, name="strokes"), layers.Flatten()
    )
    done = prune(write_model(tmp_path, network, digits.graph), epochs=1, target_sparsity="0.6")
    assert list(done["report"].read()["layers"]) == ["strokes"]
    assert zeros(load_kernels(done["pruned_model"])["strokes"]) == pytest.approx(0.6, abs=0.01)


def test_pruner_prunes_less_with_few_steps_and_says_why(prune: Prune) -> None:
    report = prune(target_sparsity="0.84", epochs=2, batch_size=90)["report"].read()
    assert report["pruning"]["sparsity"] == 0.59
    assert report["sparsity"] == pytest.approx(0.59, abs=0.005)
    assert report["why"] == (
        "24 steps are too few for a sparsity of 84%, which takes 157: 59% is pruned. Raise "
        "pruning.epochs (now 2) or lower training.batch_size (now 90)"
    )
    lost = report["before"]["metrics"]["accuracy"] - report["after"]["metrics"]["accuracy"]
    assert lost < 0.01


def test_pruner_passes_the_network_on_with_one_step(digits: Digits, prune: Prune) -> None:
    done = prune(epochs=1, batch_size=2000)
    given, passed = load_kernels(digits.model), load_kernels(done["pruned_model"])
    assert all(np.array_equal(given[name], passed[name]) for name in given)
    assert done["report"].read()["why"].startswith("1 steps are too few for a sparsity of 80%")


@given(
    target=st.floats(0.01, 0.99),
    rows=st.integers(1, 10**6),
    epochs=st.integers(1, 9),
    batch_size=st.integers(1, 4096),
)
def test_limit_sparsity_takes_the_target_where_there_are_steps_enough(
    target: float, rows: int, epochs: int, batch_size: int
) -> None:
    settings = FitSettings(TASK, "", "", epochs, batch_size, 0.01, 7)
    steps = settings.steps(rows)
    assert steps == epochs * -(-rows // batch_size)
    spec, why = limit_sparsity({"sparsity": target, "m_by_n": None}, settings, steps)
    assert 0 <= spec["sparsity"] <= target
    if why:
        assert spec["sparsity"] < target
        assert spec["sparsity"] <= max(0, 1 - 2 / steps**0.5)
    else:
        assert spec["sparsity"] == target
        assert (1 - target) ** 2 * steps >= 3.99


def test_limit_sparsity_leaves_a_pattern_as_it_is_and_says_so() -> None:
    settings = FitSettings(TASK, "", "", 1, 100, 0.01, 7)
    given = {"sparsity": 0.5, "m_by_n": (2, 4)}
    spec, why = limit_sparsity(given, settings, 9)
    assert spec == given
    assert "9 steps are too few for a sparsity of 50%, which takes 16: 50% is pruned all the" in why


def test_measure_sparsity_includes_a_layer_that_does_not_learn() -> None:
    network = build_network(layers.Dense(4, name="frozen", trainable=False))
    kernel = np.ones((PIXELS, 4))
    kernel[::2] = 0
    network.get_layer("frozen").set_weights([kernel, np.zeros(4)])
    weights = count_weights(network, ["frozen"])
    assert measure_sparsity(network, weights)["sparsity"] == 0.5


def test_measure_sparsity_of_a_separable_convolution_uses_the_pruned_kernel() -> None:
    separable = layers.SeparableConv2D(8, 3, name="separable")
    network = build_network(layers.Reshape((28, 28, 1)), separable, layers.Flatten())
    separable.pointwise_kernel.assign(tf.zeros_like(separable.pointwise_kernel))
    assert measure_sparsity(network, count_weights(network, ["separable"]))["sparsity"] == 1


WRONG_LABEL = dataclasses.replace(TASK, label="digit").to_json()
WEIGHTED = dataclasses.replace(TASK, weight="weight").to_json()
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"target_sparsity": "1.2"}, r"target_sparsity = '1\.2': allowed is 0 to below 1, or auto"),
    ({"target_sparsity": "1.0"}, r"target_sparsity = '1\.0': allowed is 0 to below 1"),
    ({"target_sparsity": "-0.1"}, r"target_sparsity = '-0\.1': allowed is 0 to below 1"),
    ({"target_sparsity": "nan"}, "target_sparsity = 'nan'"),
    ({"target_sparsity": "most"}, "target_sparsity = 'most': allowed is 0 to below 1, or auto"),
    ({"target_sparsity": "auto", "max_loss": -1.0}, r"max_loss = -1\.0: allowed is 0 or more"),
    ({"schedule": "linear"}, "schedule = 'linear': allowed is polynomial or constant"),
    ({"frequency": 0}, "frequency = 0: allowed is 1 or more"),
    ({"epochs": 0}, "epochs = 0: allowed is 1 or more, in order to prune"),
    ({"epochs": 0, "target_sparsity": "0", "m_by_n": "[2, 4]"}, "epochs = 0"),
    ({"epochs": -1}, "epochs = -1"),
    ({"batch_size": 0}, "batch_size = 0: allowed is 1 or more"),
    ({"learning_rate": 0.0}, r"learning_rate = 0\.0: allowed is above 0"),
    ({"learning_rate": float("nan")}, "learning_rate = nan"),
    ({"block_size": "[4]"}, r"block_size = '\[4\]': allowed is a JSON pair"),
    ({"block_size": "4"}, "block_size = '4': allowed is a JSON pair"),
    ({"block_size": "four by one"}, "block_size = 'four by one': allowed is a JSON pair"),
    ({"block_size": "[4, 1.5]"}, r"block_size = '\[4, 1\.5\]': allowed is a JSON pair"),
    ({"block_size": "[0, 1]"}, r"block_size = '\[0, 1\]': allowed is a pair"),
    ({"block_size": "[64, 1]", "layers": '["second"]'}, "block_size.*second"),
    ({"m_by_n": "[4, 2]"}, r"m_by_n = '\[4, 2\]': allowed is a pair as in \[2, 4\]"),
    ({"m_by_n": "[4, 4]"}, r"m_by_n = '\[4, 4\]'"),
    ({"m_by_n": "2:4"}, "m_by_n = '2:4': allowed is a JSON pair"),
    ({"m_by_n": "[2, 4]", "block_size": "[4, 1]"}, r"block_size = .* together with m_by_n"),
    ({"distillation": 1.1}, r"distillation = 1\.1: allowed is 0 to 1"),
    ({"distillation": float("nan")}, "distillation = nan: allowed is 0 to 1"),
    ({"keep_units": "0.0"}, r"keep_units = '0\.0': allowed is above 0, to 1, or auto"),
    ({"keep_units": "1.5"}, r"keep_units = '1\.5': allowed is above 0, to 1, or auto"),
    ({"keep_units": "half"}, "keep_units = 'half': allowed is above 0, to 1, or auto"),
    ({"layers": '["third"]'}, r"'third' is none of first \(Dense\), second \(Dense\), digit"),
    ({"layers": '["Conv2D"]'}, r"'Conv2D' is none of first \(Dense\), second \(Dense\)"),
    ({"layers": "first"}, "layers.*first"),
    ({"layers": '"first"'}, "layers.*first"),
    ({"loss": "sparse_nonsense"}, "loss = 'sparse_nonsense': of a multiclass task it is one of"),
    ({"class_weights": "[1, 2]"}, "class_weights = .* a weight for each of the 10 classes"),
    ({"class_weights": "[1, x]"}, "class_weights|Expecting"),
    ({"save_fn": "tests.components.digits.lose"}, r"'tests\.components\.digits\.lose' is not"),
    ({"save_fn": "no_such_module.save"}, r"'no_such_module\.save' is not the import path"),
    ({"task": WRONG_LABEL}, "label = 'digit': allowed is image or label"),
    ({"task": WEIGHTED}, "weight = 'weight': allowed is image or label"),
]


@pytest.mark.parametrize(
    ("parameters", "message"), REFUSED, ids=[json.dumps(given) for given, _ in REFUSED]
)
def test_pruner_refuses_a_wrong_parameter_by_name(
    digits: Digits, refused: Callable[..., None], parameters: dict[str, Any], message: str
) -> None:
    refused(Pruner, digits.for_pruner(), message, **(PRUNING | parameters))


@tf_keras.saving.register_keras_serializable("digits")
class Mix(tf_keras.layers.Layer):
    """A dense layer of one's own, which tfmot does not know."""

    def build(self, input_shape: tuple[int, ...]) -> None:
        self.kernel = self.add_weight("kernel", (input_shape[-1], 8))

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return inputs @ self.kernel


class Unregistered(Mix):
    """A layer that Keras cannot load without being told of it."""


def images(*after: tf_keras.layers.Layer) -> Layers:
    return [layers.Reshape((28, 28, 1)), *after, layers.Flatten()]


# Networks whose layer "odd" cannot become sparse as the parameters say.
UNPRUNABLE: dict[str, tuple[Callable[[], Layers], dict[str, Any]]] = {
    "own layer": (lambda: [Mix(name="odd")], {}),
    "own layer that is not registered": (lambda: [Unregistered(name="odd")], {}),
    "einsum": (lambda: [layers.EinsumDense("ab,bc->ac", 8, name="odd")], {}),
    "convolution in blocks": (
        lambda: images(layers.Conv2D(4, 3, name="odd")),
        {"block_size": "[4, 1]"},
    ),
    "convolution of one channel in groups of four": (
        lambda: images(layers.Conv2D(4, 3, name="odd")),
        {"m_by_n": "[2, 4]"},
    ),
    "convolution over time in groups of four": (
        lambda: [
            layers.Reshape((28, 28)),
            layers.Conv1D(4, 3, name="odd"),
            layers.GlobalMaxPooling1D(),
        ],
        {"m_by_n": "[2, 4]"},
    ),
    "no kernel": (
        lambda: [layers.Dense(8), layers.LayerNormalization(name="odd")],
        {"layers": '["LayerNormalization"]'},
    ),
    "no weights": (
        lambda: [layers.Dense(8), layers.Dropout(0.1, name="odd")],
        {"layers": '["Dropout"]'},
    ),
    "depthwise": (
        lambda: images(layers.DepthwiseConv2D(3, name="odd")),
        {"layers": '["odd"]'},
    ),
}


@pytest.mark.parametrize("case", UNPRUNABLE)
def test_pruner_refuses_a_layer_that_cannot_become_sparse_by_name(
    digits: Digits, refused: Callable[..., None], tmp_path: Path, case: str
) -> None:
    make_layers, parameters = UNPRUNABLE[case]
    model = write_model(tmp_path, build_network(*make_layers()), digits.graph)
    parameters = PRUNING | {"epochs": 1} | parameters
    refused(Pruner, digits.for_pruner(model=model), r"\bodd\b", **parameters)


def test_pruner_refuses_a_network_with_nothing_to_prune(
    digits: Digits, refused: Callable[..., None], tmp_path: Path
) -> None:
    model = write_model(tmp_path, build_network(layers.BatchNormalization()), digits.graph)
    message = r"no layer to choose.* its layers are .*digit \(Dense\)"
    refused(Pruner, digits.for_pruner(model=model), message, **PRUNING)


def serving_folder(root: Path) -> tuple[standard.Model, str]:
    model = standard.Model()
    model.uri = str(root)
    return model, serving_model_uri(model)


def test_pruner_refuses_a_model_that_is_not_keras(
    digits: Digits, refused: Callable[..., None], tmp_path: Path
) -> None:
    model, folder = serving_folder(tmp_path)
    module = tf.Module()
    module.double = tf.function(lambda x: 2 * x, [tf.TensorSpec([None], tf.float32)])
    tf.saved_model.save(module, folder)
    message = f"{re.escape(folder)} is not a tf_keras model"
    refused(Pruner, digits.for_pruner(model=model), message, **PRUNING)


class Subclassed(tf_keras.Model):
    """A model that says in code how its layers follow one another."""

    def __init__(self) -> None:
        super().__init__()
        self.last = layers.Dense(10, "softmax")

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return self.last(inputs)


def test_pruner_refuses_a_subclassed_model(
    digits: Digits, refused: Callable[..., None], tmp_path: Path
) -> None:
    model, folder = serving_folder(tmp_path)
    network = Subclassed()
    network(np.zeros((1, PIXELS), np.float32))
    network.save(folder, save_format="tf")
    message = r"is a Subclassed; only Sequential and Functional"
    refused(Pruner, digits.for_pruner(model=model), message, **PRUNING)


@pytest.mark.parametrize("split", ["train", "eval"])
def test_pruner_refuses_a_missing_split_by_name(
    digits: Digits, refused: Callable[..., None], tmp_path: Path, split: str
) -> None:
    kept = {name: rows[:50] for name, rows in read_digits().items() if name != split}
    inputs = digits.for_pruner(examples=write_examples(tmp_path, kept))
    message = f"have no split '{split}'; they have {', '.join(kept)}"
    refused(Pruner, inputs, message, **PRUNING)


@pytest.mark.parametrize("split", ["train", "eval"])
def test_pruner_refuses_an_empty_split(
    digits: Digits, refused: Callable[..., None], tmp_path: Path, split: str
) -> None:
    splits = {"train": read_digits()["train"][:50], "eval": read_digits()["eval"][:50]}
    splits[split] = splits[split][:0]
    inputs = digits.for_pruner(examples=write_examples(tmp_path, splits))
    refused(Pruner, inputs, f"there are no examples in .*Split-{split}", **PRUNING)


def test_pruner_refuses_to_learn_from_nan(
    digits: Digits, refused: Callable[..., None], tmp_path: Path
) -> None:
    splits = read_digits() | {"train": read_digits()["train"][:400].with_nan()}
    inputs = digits.for_pruner(examples=write_examples(tmp_path, splits))
    refused(Pruner, inputs, "diverged|image", **PRUNING)


numbers = st.floats() | st.integers()
pairs = st.lists(numbers, max_size=3).map(json.dumps) | st.text()
PARAMETERS = ("target_sparsity", "schedule", "frequency", "block_size", "m_by_n", "epochs")


@given(
    target_sparsity=(numbers | st.floats(0, 1)).map(str) | st.just("auto") | st.text(),
    schedule=st.sampled_from(["polynomial", "constant"]) | st.text(),
    frequency=st.integers(),
    block_size=st.sampled_from(["[1, 1]", "[4, 1]"]) | pairs,
    m_by_n=st.sampled_from(["[]", "[2, 4]"]) | pairs,
    epochs=st.integers(),
)
def test_pruning_spec_is_sound_or_refused_by_the_name_of_a_parameter(**parameters: Any) -> None:
    try:
        spec = check_pruning(**parameters)
    except UserError as error:
        refusal = str(error)
    else:
        refusal = ""
        assert spec["sparsity"] is None or 0 <= spec["sparsity"] < 1
        assert spec["schedule"] in ("polynomial", "constant")
        assert min(spec["frequency"], *spec["block_size"]) >= 1
        assert spec["m_by_n"] is None or 0 < spec["m_by_n"][0] < spec["m_by_n"][1]
    assert not refusal or refusal.partition(" = ")[0] in PARAMETERS


@given(target=st.floats(0, 1, exclude_max=True), pair=st.tuples(*[st.integers(1, 64)] * 2))
def test_pruning_spec_accepts_every_target_and_every_block(
    target: float, pair: tuple[int, int]
) -> None:
    check = partial(check_pruning, schedule="polynomial", frequency=1, m_by_n="[]", epochs=1)
    spec = check(target_sparsity=str(target), block_size=json.dumps(pair))
    assert (spec["sparsity"], spec["block_size"]) == (target, pair)
