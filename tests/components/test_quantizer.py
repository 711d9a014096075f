"""Quantizer on a network that tells handwritten digits, and what it refuses."""

from __future__ import annotations

import dataclasses
import gc
import gzip
import json
import math
import re
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from hypothesis import given
from hypothesis import strategies as st
from tensorflow.lite.python.conversion_metadata_schema_py_generated import (
    ConversionMetadata,
    ModelType,
)

from components.quantizer.choice import MODES, check_modes, explain_choice, measure_loss
from components.quantizer.component import Quantizer
from components.quantizer.conversion import convert, weight_sparsity
from components.quantizer.fake_quant import check_representative, emulate_int8
from components.quantizer.measurement import Measurement
from components.quantizer.trade_off import plot_trade_off
from ml.artifacts import serving_model_uri
from ml.metrics import AUC, RMSE
from ml.predictors import load_predictor
from ml.tflite import parse, read_signatures
from storage.errors import UserError
from storage.names import TFLITE_MODEL
from tests.components import small_model
from tests.components.digits import (
    LEARNING,
    PIXELS,
    TASK,
    Digits,
    build_network,
    digest,
    load_kernels,
    measure_accuracy,
    read_digits,
    write_examples,
    write_model,
)

layers = tf_keras.layers
Outputs = dict[str, Any]
Quantize = Callable[..., Outputs]

EMULATED = ("int8", "qat", "pqat")
# How far the probabilities of the two formats may lie apart.
TOLERANCE = {"none": 1e-5, "float16": 2e-3, "dynamic_range": 0.04} | dict.fromkeys(EMULATED, 0.04)


@pytest.fixture(scope="module")
def quantize(
    digits: Digits, pruned_digits: Outputs, run_component: Callable[..., Outputs]
) -> Quantize:
    """Quantizes the pruned network, or another, with other parameters."""

    def run(inputs: dict[str, Any] | None = None, **parameters: Any) -> Outputs:
        inputs = inputs or digits.for_quantizer(model=pruned_digits["pruned_model"])
        settings = LEARNING | {"batch_size": 32, "mode": "int8"}
        return run_component(Quantizer, inputs, **(settings | parameters))

    return run


@pytest.fixture(scope="module")
def unpruned(digits: Digits, quantize: Quantize) -> Outputs:
    """The network with all its weights in int8; not to be changed."""
    return quantize(digits.for_quantizer(), mode="int8")


@pytest.fixture(scope="module")
def quantized(digits: Digits, pruned_digits: Outputs, quantize: Quantize) -> Quantize:
    """The pruned network in a mode, and whether its inputs stayed the same; not to be changed."""

    @cache
    def run(mode: str) -> Outputs:
        inputs = digits.for_quantizer(model=pruned_digits["pruned_model"])
        before = [digest(artifact.uri) for artifact in inputs.values()]
        outputs = quantize(inputs, mode=mode)
        after = [digest(artifact.uri) for artifact in inputs.values()]
        return outputs | {"inputs_stayed": before == after}

    return run


def folder_of(outputs: Outputs) -> Path:
    return Path(serving_model_uri(outputs["quantized_model"]))


def tflite_of(outputs: Outputs) -> bytes:
    return (folder_of(outputs) / TFLITE_MODEL).read_bytes()


def measurement(outputs: Outputs, mode: str) -> dict[str, Any]:
    row: dict[str, Any] = outputs["report"].read()["modes"][mode]
    return row


@pytest.mark.parametrize("mode", MODES)
def test_quantizer_formats_give_the_same_predictions(quantized: Quantize, mode: str) -> None:
    folder = str(folder_of(quantized(mode)))
    records = read_digits()["test"].serialize()
    saved_model = load_predictor(folder, prefer_tflite=False).predict(records)
    tflite = load_predictor(folder).predict(records)
    assert tflite.shape == saved_model.shape == (len(records), 10)
    np.testing.assert_allclose(tflite, saved_model, atol=TOLERANCE[mode])
    assert np.mean(tflite.argmax(axis=1) == saved_model.argmax(axis=1)) >= 0.98


@pytest.mark.parametrize("mode", MODES)
def test_quantizer_keeps_the_accuracy(digits: Digits, quantized: Quantize, mode: str) -> None:
    before = measure_accuracy(load_predictor(serving_model_uri(digits.model)))
    after = measure_accuracy(load_predictor(str(folder_of(quantized(mode)))))
    print(f"accuracy on the test split: {before:.3f} in float, {after:.3f} pruned and {mode}")
    assert after > 0.9
    assert after > before - 0.03


@pytest.mark.parametrize("mode", MODES)
def test_quantizer_reports_the_measurements_of_the_file(quantized: Quantize, mode: str) -> None:
    report, content = quantized(mode)["report"].read(), tflite_of(quantized(mode))
    assert report["mode"] == mode
    assert report["why"] == f"{mode} is the configured mode"
    assert list(report["modes"]) == [mode]
    row = report["modes"][mode]
    assert row["bytes"] == len(content)
    assert row["gzip_bytes"] == len(gzip.compress(content, 9))
    assert 0 < row["p50_ms"] <= row["p99_ms"]
    assert row["batch_us_per_row"] > 0
    assert abs(report["float"]["metrics"]["macro_auc"] - row["metrics"]["macro_auc"]) < 0.002
    assert list(row["metrics"]) == ["accuracy", "macro_auc", "log_loss", "calibration"]


def test_quantizer_names_the_signatures_of_the_file_that_it_measures(quantized: Quantize) -> None:
    signatures = read_signatures(tflite_of(quantized("int8")))
    assert set(signatures) == {"raw_features", "serving_default"}


def test_quantizer_makes_int8_three_times_smaller(quantized: Quantize, unpruned: Outputs) -> None:
    whole = measurement(quantized("none"), "none")["bytes"]
    for mode in EMULATED:
        assert measurement(quantized(mode), mode)["bytes"] * 3 < whole
    assert measurement(unpruned, "int8")["bytes"] * 3 < whole


@pytest.mark.parametrize("mode", MODES)
def test_quantizer_makes_activations_int8_in_the_modes_that_emulate(
    quantized: Quantize, mode: str
) -> None:
    interpreter = Interpreter(model_content=tflite_of(quantized(mode)))
    # Weights are quantized around zero; images, and what comes out of ReLU, are not.
    found = [
        detail["index"]
        for detail in interpreter.get_tensor_details()
        if detail["dtype"] == np.int8 and detail["quantization"][1] != 0
    ]
    assert len(found) >= 3 if mode in EMULATED else not found


def test_quantizer_pqat_keeps_the_zeros_of_the_pruner(
    pruned_digits: Outputs, quantized: Quantize
) -> None:
    kernels = load_kernels(pruned_digits["pruned_model"]).values()
    pruned = sum(np.sum(kernel == 0) for kernel in kernels) / sum(k.size for k in kernels)
    assert measurement(quantized("pqat"), "pqat")["sparsity"] >= pruned - 0.01


@pytest.mark.parametrize("mode", MODES)
def test_quantizer_leaves_its_inputs_unchanged(quantized: Quantize, mode: str) -> None:
    assert quantized(mode)["inputs_stayed"]


def test_weight_sparsity_is_that_of_the_network_in_every_form(pruned_digits: Outputs) -> None:
    saved_model = serving_model_uri(pruned_digits["pruned_model"])
    kernels = load_kernels(pruned_digits["pruned_model"]).values()
    zeros = sum(np.sum(kernel == 0) for kernel in kernels) / sum(k.size for k in kernels)
    for float16 in (False, True):
        content = convert(saved_model, "raw_features", float16=float16, quantize=False)
        assert weight_sparsity(content) == pytest.approx(zeros, abs=1e-3)


def test_convert_leaves_a_loaded_model_as_it_was(tmp_path: Path) -> None:
    path = str(small_model.export(tmp_path / "model", tflite=False))
    loaded = tf.saved_model.load(path)

    def predict() -> np.ndarray:
        inputs = {"colour": tf.constant(["red", "none"]), "number": tf.constant([1.0, 2.0])}
        return np.asarray(loaded.signatures[small_model.SIGNATURE](**inputs)["probability"])

    before = predict()
    content = convert(path, small_model.SIGNATURE, float16=False, quantize=False, loaded=loaded)
    gc.collect()  # Tables of the conversion are gone.
    np.testing.assert_array_equal(predict(), before)
    assert content == convert(path, small_model.SIGNATURE, float16=False, quantize=False)


def test_convert_records_that_the_model_came_from_a_saved_model(tmp_path: Path) -> None:
    path = str(small_model.export(tmp_path / "model", tflite=False))
    model = parse(convert(path, small_model.SIGNATURE, float16=False, quantize=False))
    (buffer,) = [e.buffer for e in model.metadata if e.name == b"CONVERSION_METADATA"]
    found = ConversionMetadata.GetRootAs(bytes(model.buffers[buffer].data))
    assert found.Environment().ModelType() == ModelType.TF_SAVED_MODEL


def test_convert_names_tables_of_other_words_differently(tmp_path: Path) -> None:
    def table(vocabulary: tuple[str, ...]) -> set[int]:
        folder = small_model.export(tmp_path / vocabulary[0], vocabulary=vocabulary)
        model = parse((folder / TFLITE_MODEL).read_bytes())
        options = [o.builtinOptions for graph in model.subgraphs for o in graph.operators]
        return {one.tableId for one in options if isinstance(one, schema.HashtableOptionsT)}

    one, other = table(("red", "green")), table(("green", "red"))
    assert len(one) == len(other) == 1
    assert one != other


def test_quantizer_auto_ships_the_first_mode_that_keeps_the_metric(quantize: Quantize) -> None:
    done = quantize(mode="auto", auto_modes='["dynamic_range", "float16"]', max_loss=0.01)
    report = done["report"].read()
    assert list(report["modes"]) == [report["mode"]] == ["dynamic_range"]
    assert report["why"].startswith("auto: dynamic_range ")
    assert report["why"].endswith(" is the first tried, and loses at most 0.01 in accuracy")
    row = measurement(done, "dynamic_range")
    assert len(gzip.compress(tflite_of(done), 9)) == row["gzip_bytes"]
    check_picture(Path(done["report"].uri) / "trade_off.png")


def test_quantizer_auto_ships_float_where_every_mode_loses_too_much(
    digits: Digits, quantize: Quantize, tmp_path: Path
) -> None:
    untrained = write_model(tmp_path, build_network(), digits.graph)
    inputs = digits.for_quantizer(model=untrained)
    report = quantize(inputs, mode="auto", auto_modes='["float16"]', max_loss=0.01)["report"].read()
    assert report["mode"] == "none"
    assert list(report["modes"]) == ["float16", "none"]
    assert report["why"].startswith("float: every mode loses more than 0.01 in accuracy (float16 ")


def check_picture(path: Path) -> None:
    """A picture that is not blank: something is drawn in each half of it, in several colours."""
    assert path.stat().st_size > 5000
    picture = matplotlib.image.imread(path)[:, :, :3]
    for half in np.array_split(picture, 2, axis=1):
        coloured = half[np.ptp(half, axis=2) > 0.1]
        assert len(coloured) > 50
        assert len(np.unique(coloured.round(1), axis=0)) >= 2


def made(auc: float | None = 0.9, **values: Any) -> Measurement:
    defaults: dict[str, Any] = {"bytes": 2, "gzip_bytes": 1, "sparsity": 0.0, "p50_ms": 1.0}
    defaults["metrics"] = {"auc": auc, "rmse": 5.0}
    return Measurement(**(defaults | {"p99_ms": 2.0, "batch_us_per_row": 1.0} | values))


def test_plot_trade_off_draws_where_the_metric_is_undefined(tmp_path: Path) -> None:
    nothing = made(auc=None)
    plot_trade_off(str(tmp_path / "plot.png"), nothing, {"int8": nothing}, "int8", AUC)
    assert (tmp_path / "plot.png").stat().st_size > 5000


def test_measure_loss_is_infinite_where_the_metric_is_undefined() -> None:
    assert measure_loss(made(auc=None), made(), AUC) == math.inf
    assert measure_loss(made(), made(auc=None), AUC) == math.inf


@pytest.mark.parametrize(("rmse", "loss"), [(4.0, -0.2), (5.1, 0.02)])
def test_measure_loss_of_a_regression_is_a_share_of_its_error(rmse: float, loss: float) -> None:
    worse = dataclasses.replace(made(), metrics={"rmse": rmse})
    assert measure_loss(worse, made(), RMSE) == pytest.approx(loss)


def test_explain_choice_tells_the_loss_of_each_mode_when_float_is_shipped() -> None:
    losses = {"int8": 0.1, "pqat": 0.05, "none": 0.04}
    assert explain_choice("auto", "none", losses, 0.002, AUC) == (
        "float: every mode loses more than 0.002 in AUC (int8 0.1000, pqat 0.0500, none 0.0400)"
    )
    assert explain_choice("auto", "none", {"int8": 0.022}, 0.02, RMSE) == (
        "float: every mode loses more than 2% in RMSE (int8 2.2%)"
    )


def test_explain_choice_of_a_mode_that_is_set() -> None:
    assert explain_choice("int8", "int8", {"int8": 0.5}, 0.0, AUC) == "int8 is the configured mode"


@given(modes=st.lists(st.sampled_from(MODES), min_size=1))
def test_check_modes_gives_each_auto_mode_once_and_float(modes: list[str]) -> None:
    found = check_modes("auto", json.dumps(modes), 0.002)
    assert sorted(found) == sorted({"none", *modes})
    assert found[-1] == "none"


WRONG_LABEL = dataclasses.replace(TASK, label="digit").to_json()
WEIGHTED = dataclasses.replace(TASK, weight="weight").to_json()
RAW_WEIGHTED = dataclasses.replace(TASK, example_weight="weight").to_json()
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"mode": "int4"}, r"mode = 'int4': allowed is none, float16, .* or auto"),
    ({"mode": "auto", "auto_modes": "int8"}, "auto_modes = 'int8': allowed is a JSON list"),
    ({"mode": "auto", "auto_modes": '"int8"'}, "auto_modes = .*: allowed is a JSON list"),
    ({"mode": "auto", "auto_modes": '["int8", "int4"]'}, "auto_modes = .*: allowed is"),
    ({"mode": "auto", "auto_modes": "[]"}, r"auto_modes = '\[\]': allowed is a JSON list"),
    ({"mode": "auto", "auto_modes": "[[]]"}, r"auto_modes = '\[\[\]\]': allowed is"),
    ({"max_loss": -0.1}, r"max_loss = -0\.1: allowed is 0 or more"),
    ({"max_loss": float("nan")}, "max_loss = nan: allowed is 0 or more"),
    ({"weight_bits": 4}, "weight_bits = 4: allowed is 5 to 8"),
    ({"weight_bits": 9}, "weight_bits = 9: allowed is 5 to 8"),
    ({"distillation": -0.1}, r"distillation = -0\.1: allowed is 0 to 1"),
    ({"epochs": -1}, "epochs = -1: allowed is 0 or more"),
    ({"batch_size": 0}, "batch_size = 0: allowed is 1 or more"),
    ({"learning_rate": 2.0}, r"learning_rate = 2\.0: allowed is above 0, to 1"),
    ({"loss": "sparse_nonsense"}, "loss = 'sparse_nonsense': of a multiclass task it is one of"),
    ({"class_weights": "[1, 2]"}, "class_weights = .* a weight for each of the 10 classes"),
    ({"save_fn": "tests.components.digits.lose"}, r"'tests\.components\.digits\.lose' is not"),
    ({"task": WRONG_LABEL}, "label = 'digit': allowed is image or label"),
    ({"mode": "qat", "task": WEIGHTED}, "weight = 'weight': allowed is image or label"),
    ({"mode": "none", "task": RAW_WEIGHTED}, "example_weight = 'weight': allowed is a raw feature"),
    ({"signature": "raw"}, r"no signature 'raw'; it has .*raw_features"),
    ({"signature": "serving_default"}, "'serving_default' .* no operators ParseExampleV2"),
    (
        {
            "mode": "none",
            "save_fn": "tests.components.digits.save_with_determinant",
            "signature": "determinant",
        },
        "'determinant' .* no operators MatrixDeterminant",
    ),
]


@pytest.mark.parametrize(
    ("parameters", "message"), REFUSED, ids=[json.dumps(given) for given, _ in REFUSED]
)
def test_quantizer_refuses_a_wrong_parameter_by_name(
    digits: Digits, refused: Callable[..., None], parameters: dict[str, Any], message: str
) -> None:
    refused(
        Quantizer, digits.for_quantizer(), message, **(LEARNING | {"mode": "int8"} | parameters)
    )


def images(*after: tf_keras.layers.Layer) -> tf_keras.Model:
    return build_network(layers.Reshape((28, 28, 1)), *after, layers.Flatten(), layers.Dense(8))


def inner() -> tf_keras.Model:
    return tf_keras.Sequential([tf_keras.Input((PIXELS,)), layers.Dense(8)], name="odd")


# Networks whose layer "odd" int8 kernels are not to be had for, or cannot be emulated.
UNQUANTIZABLE: dict[str, Callable[[], tf_keras.Model]] = {
    "transposed convolution": lambda: images(layers.Conv2DTranspose(2, 3, name="odd")),
    "depthwise convolution": lambda: images(layers.DepthwiseConv2D(3, name="odd")),
    "activation": lambda: build_network(layers.Dense(8, "elu", name="odd")),
    "network in a network": lambda: build_network(inner(), layers.Dense(8)),
    "lambda": lambda: build_network(layers.Lambda(lambda x: 2 * x, name="odd"), layers.Dense(8)),
}


@pytest.mark.parametrize("case", UNQUANTIZABLE)
def test_quantizer_refuses_a_layer_that_cannot_be_quantized_by_name(
    digits: Digits, refused: Callable[..., None], tmp_path: Path, case: str
) -> None:
    model = write_model(tmp_path, UNQUANTIZABLE[case](), digits.graph)
    inputs = digits.for_quantizer(model=model, float_model=model)
    refused(Quantizer, inputs, r"\bodd\b", **(LEARNING | {"mode": "int8"}))


def test_quantizer_auto_leaves_out_modes_that_a_network_cannot_have(
    digits: Digits, quantize: Quantize, tmp_path: Path
) -> None:
    model = write_model(tmp_path, UNQUANTIZABLE["activation"](), digits.graph)
    modes = '["int8", "dynamic_range"]'
    inputs = digits.for_quantizer(model=model, float_model=model)
    report = quantize(inputs, mode="auto", auto_modes=modes, max_loss=0.5)["report"].read()
    assert report["mode"] == "dynamic_range"
    assert re.search(r"; the network cannot be quantized: .*\bodd\b", report["why"])


def test_quantizer_refuses_a_network_with_nothing_to_quantize(
    digits: Digits, refused: Callable[..., None], tmp_path: Path
) -> None:
    network = build_network(layers.Reshape((28, 28)), layers.LSTM(8))
    model = write_model(tmp_path, network, digits.graph)
    inputs = digits.for_quantizer(model=model, float_model=model)
    refused(
        Quantizer,
        inputs,
        "cannot be quantized: .* none that could be",
        **(LEARNING | {"mode": "int8"}),
    )


def test_quantizer_names_an_operator_that_cannot_be_converted(
    digits: Digits, refused: Callable[..., None], tmp_path: Path
) -> None:
    network = build_network(layers.Reshape((28, 28)), layers.SimpleRNN(4))
    model = write_model(tmp_path, network, digits.graph)
    inputs = digits.for_quantizer(model=model, float_model=model)
    refused(Quantizer, inputs, r"\bTensorListReserve\b", **(LEARNING | {"mode": "none"}))


def test_emulate_int8_refuses_arithmetic_that_cannot_be_emulated_by_name() -> None:
    image = tf_keras.Input((PIXELS,), name="image")
    network = tf_keras.Model(image, layers.Dense(10)(layers.Dense(8, "relu")(image - 1)))
    name = network.layers[1].name
    with pytest.raises(UserError, match=name):
        emulate_int8(network, {"image": read_digits()["train"].images[:50]})


@pytest.mark.parametrize(
    "convolutions",
    [
        lambda: [layers.Reshape((28, 28, 1)), layers.Conv2D(8, 5, 4, activation="relu")],
        lambda: [layers.Reshape((28, 28)), layers.Conv1D(8, 5, 4, activation="relu")],
    ],
    ids=["Conv2D", "Conv1D"],
)
def test_quantizer_quantizes_convolutions(
    digits: Digits, quantize: Quantize, tmp_path: Path, convolutions: Callable[[], list[Any]]
) -> None:
    network = build_network(*convolutions(), layers.Flatten(), layers.Dense(16, "relu"))
    model = write_model(tmp_path, network, digits.graph)
    done = quantize(digits.for_quantizer(model=model, float_model=model), mode="int8")
    records = read_digits()["test"].serialize()
    expected = load_predictor(serving_model_uri(model)).predict(records)
    found = load_predictor(str(folder_of(done))).predict(records)
    np.testing.assert_allclose(found, expected, atol=0.02)


@pytest.mark.parametrize(
    ("key", "split"), [("examples", "eval"), ("transformed_examples", "train")]
)
@pytest.mark.parametrize("empty", [False, True], ids=["missing", "empty"])
def test_quantizer_refuses_a_missing_or_empty_split_by_name(
    digits: Digits, refused: Callable[..., None], tmp_path: Path, key: str, split: str, empty: bool
) -> None:
    splits = {name: rows[:50] for name, rows in read_digits().items() if name != split}
    if empty:
        splits[split] = read_digits()[split][:0]
    inputs = digits.for_quantizer(**{key: write_examples(tmp_path, splits)})
    message = rf"no examples.*Split-{split}|'{split}' is empty" if empty else f"no split '{split}'"
    refused(Quantizer, inputs, message, **LEARNING)


def test_quantizer_refuses_nan_in_the_representative_dataset_naming_the_feature(
    digits: Digits, refused: Callable[..., None], tmp_path: Path
) -> None:
    splits = {"train": read_digits()["train"][:100].with_nan()}
    inputs = digits.for_quantizer(transformed_examples=write_examples(tmp_path, splits))
    refused(Quantizer, inputs, "NaN or infinity in 'image'", **LEARNING)


def test_quantizer_refuses_to_learn_from_nan(
    digits: Digits, refused: Callable[..., None], tmp_path: Path
) -> None:
    splits = {"train": read_digits()["train"].with_nan()}
    inputs = digits.for_quantizer(transformed_examples=write_examples(tmp_path, splits))
    others = {"mode": "qat", "representative_rows": 1, "batch_size": 128}
    save_fn = "tests.components.digits.save_if_finite"
    refused(Quantizer, inputs, "image|diverged", **(LEARNING | others | {"save_fn": save_fn}))


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (np.zeros((0, 2), np.float32), "the representative dataset is empty"),
        (np.array([[0, 1], [2, np.nan]], np.float32), r"NaN or infinity in 'pixels' \(row 1\)"),
        (np.array([[0, -np.inf]], np.float32), r"NaN or infinity in 'pixels' \(row 0\)"),
    ],
)
def test_check_representative_tells_what_is_wrong(column: np.ndarray, message: str) -> None:
    whole = np.zeros((len(column), 1), np.int64)
    with pytest.raises(UserError, match=message):
        check_representative({"whole": whole, "pixels": column})


def test_emulate_int8_leaves_the_network_unchanged_and_predicts_nearly_alike() -> None:
    network = build_network()
    network = tf_keras.Model(network.inputs, network.outputs)
    before = [weight.copy() for weight in network.get_weights()]
    rows = read_digits()["train"].images[:200] / 255
    predict_rows = partial(network.predict, rows, verbose=0)
    expected = predict_rows()
    emulated = emulate_int8(network, {"image": rows})
    np.testing.assert_allclose(emulated.predict(rows, verbose=0), expected, atol=0.01)
    assert all(map(np.array_equal, before, network.get_weights()))
    np.testing.assert_array_equal(predict_rows(), expected)
