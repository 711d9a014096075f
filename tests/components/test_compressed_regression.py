"""Pruner and Quantizer on a regression: every form of the model predicts in the label's unit."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_transform as tft
from sklearn.metrics import mean_squared_error, r2_score

from components.pruner.component import Pruner
from components.quantizer.choice import MODES
from components.quantizer.component import Quantizer
from ml.artifacts import serving_model_uri
from ml.examples import read_columns
from ml.predictors import load_predictor
from tests.components.prices import (
    LEARNING,
    Prices,
    make_prices,
    serialize,
    train_network,
    write_model,
)

Outputs = dict[str, Any]
# How far a prediction may be from that of the SavedModel, in standard deviations of the label.
TOLERANCE = {"none": 1e-5, "float16": 0.002} | dict.fromkeys(MODES[2:], 0.05)


@pytest.fixture(scope="module")
def prices(tmp_path_factory: pytest.TempPathFactory) -> Prices:
    return make_prices(tmp_path_factory.mktemp("prices"))


@pytest.fixture(scope="module")
def pruned(prices: Prices, run_component: Callable[..., Outputs]) -> Outputs:
    fit = {"epochs": 16, "learning_rate": 1e-3, "target_sparsity": "0.5"}
    return run_component(Pruner, prices.for_pruner(), **(LEARNING | fit))


@pytest.fixture(scope="module")
def quantized(
    prices: Prices, pruned: Outputs, run_component: Callable[..., Outputs]
) -> Callable[[str], Outputs]:
    @cache
    def run(mode: str) -> Outputs:
        inputs = prices.for_quantizer(pruned["pruned_model"])
        return run_component(Quantizer, inputs, **(LEARNING | {"mode": mode}))

    return run


def measure(prices: Prices, predictions: np.ndarray) -> tuple[float, float]:
    """R² and RMSE on eval, where a row counts as often as it was sold."""
    rows = prices.rows["eval"]
    label, weights = rows["price"].ravel(), rows["sold"].ravel()
    return (
        r2_score(label, predictions.ravel(), sample_weight=weights),
        mean_squared_error(label, predictions.ravel(), sample_weight=weights) ** 0.5,
    )


def test_pruner_of_a_regression_reports_metrics_in_the_unit_of_the_label(
    prices: Prices, pruned: Outputs
) -> None:
    report = pruned["report"].read()
    for when, model in (("before", prices.model), ("after", pruned["pruned_model"])):
        predictor = load_predictor(serving_model_uri(model))
        r2, rmse = measure(prices, predictor.predict(serialize(prices.rows["eval"])))
        metrics = report[when]["metrics"]
        assert list(metrics) == ["rmse", "mae", "r2", "bias"]
        assert metrics["rmse"] == pytest.approx(rmse, rel=1e-4)
        assert report[when]["loss"] == pytest.approx(rmse**2, rel=1e-4)
        assert metrics["r2"] == pytest.approx(r2, abs=1e-4)
        assert r2 > 0.4


@pytest.mark.parametrize("mode", MODES)
def test_quantizer_of_a_regression_gives_both_formats_the_unit_of_the_label(
    prices: Prices, quantized: Callable[[str], Outputs], mode: str
) -> None:
    done = quantized(mode)
    folder = serving_model_uri(done["quantized_model"])
    records = serialize(prices.rows["eval"])
    tflite = load_predictor(folder).predict(records)
    saved_model = load_predictor(folder, prefer_tflite=False).predict(records)
    assert tflite.shape == saved_model.shape == (len(records), 1)
    unit = prices.rows["train"]["price"].std()
    assert np.abs(tflite - saved_model).max() < TOLERANCE[mode] * unit
    r2, rmse = measure(prices, tflite)
    assert r2 > 0.4
    row = done["report"].read()["modes"][mode]
    assert row["metrics"]["rmse"] == pytest.approx(rmse, rel=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_quantizer_of_a_regression_keeps_more_than_256_values_apart(
    prices: Prices, quantized: Callable[[str], Outputs], mode: str
) -> None:
    """An output in 8 bits would have at most 256 values, about 1,300 apart."""
    folder = serving_model_uri(quantized(mode)["quantized_model"])
    rows = prices.rows["train"]
    start, end = rows["facts"][:1], rows["facts"][1:2]
    path = start + np.linspace(0, 1, 2000, dtype=np.float32)[:, np.newaxis] * (end - start)
    known = {name: np.resize(rows[name], (2000, 1)) for name in ("price", "sold")}
    predictions = load_predictor(folder).predict(serialize({"facts": path, **known}))
    print(f"{mode}: {len(np.unique(predictions))} values")
    assert len(np.unique(predictions)) > 256


def test_quantizer_of_a_network_that_predicts_a_logarithm_gives_the_unit_of_the_label(
    prices: Prices, run_component: Callable[..., Outputs], tmp_path: Path
) -> None:
    loss = "mean_squared_logarithmic_error"
    schema = tft.TFTransformOutput(prices.graph.uri).transformed_metadata.schema
    network = train_network(read_columns(prices.transformed, "train", schema), loss)
    inputs = prices.for_quantizer(write_model(tmp_path, network, prices.graph))
    done = run_component(Quantizer, inputs, **(LEARNING | {"mode": "qat", "loss": loss}))
    folder = serving_model_uri(done["quantized_model"])
    records = serialize(prices.rows["eval"])
    tflite = load_predictor(folder).predict(records)
    saved_model = load_predictor(folder, prefer_tflite=False).predict(records)
    np.testing.assert_allclose(tflite, saved_model, rtol=0.05)
    assert measure(prices, tflite)[0] > 0.3


def test_quantizer_of_a_regression_chooses_by_the_share_of_the_error(
    prices: Prices, pruned: Outputs, run_component: Callable[..., Outputs]
) -> None:
    inputs = prices.for_quantizer(pruned["pruned_model"])
    auto = {"mode": "auto", "auto_modes": '["int8"]', "max_loss": 0.2}
    report = run_component(Quantizer, inputs, **(LEARNING | auto))["report"].read()
    lost = report["modes"]["int8"]["metrics"]["rmse"] / report["float"]["metrics"]["rmse"] - 1
    assert lost < 0.2
    assert report["mode"] == "int8"
    assert report["why"].endswith(" is the first tried, and loses at most 20% in RMSE")
