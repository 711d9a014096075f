"""The network: what it is made of, and that it learns."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tf_keras

from ml.learning import Learning
from ml.training import TrainingData, fit
from models.flights import network as network
from models.flights.features import CROSSES, NUMERIC
from tests.models.flights.settings import TASK, learning

LABEL, WEIGHT = TASK.label, TASK.weight
SIZES = {"carrier": 5, "origin": 4, "dest": 9}
NUMBERS = 6


def make_rows(count: int, seed: int) -> dict[str, np.ndarray]:
    """Rows whose label depends on one number and on a pair of ids."""
    rng = np.random.default_rng(seed)
    ids = {"carrier": 5, "origin": 4, "dest": 9, "hour": 24, "weekday": 7}
    rows = {name: rng.integers(0, size, (count, 1)) for name, size in ids.items()}
    rows[NUMERIC] = rng.normal(size=(count, NUMBERS)).astype(np.float32)
    logit = 2 * rows[NUMERIC][:, :1] + 3 * ((rows["carrier"] == 1) & (rows["origin"] == 2)) - 1
    rows[LABEL] = (rng.random((count, 1)) < 1 / (1 + np.exp(-logit))).astype(np.int64)
    rows[WEIGHT] = np.ones((count, 1), np.float32)
    return rows


def build(config: Learning) -> tf_keras.Model:
    numeric = make_rows(1000, 4)[NUMERIC]
    return network.build_model(config, SIZES, numeric, np.array([[0], [1], [0], [1], [0]]))


def fit_rows(model: tf_keras.Model, config: Learning, folder: Path, rows: int) -> dict[str, Any]:
    return fit(
        model, TrainingData(config, None, make_rows(rows, 1), make_rows(1000, 2)), str(folder)
    )


def test_network_output_starts_at_the_share_of_the_positive_class() -> None:
    model = build(learning())
    (bias,) = model.get_layer("deep").bias.numpy()
    assert 1 / (1 + np.exp(-bias)) == pytest.approx(0.4, abs=1e-3)
    assert model.predict(make_rows(100, 1), verbose=0).shape == (100, 1)


def test_network_wide_part_has_a_weight_for_every_pair_of_ids() -> None:
    layer = build(learning()).get_layer("wide")
    sizes = SIZES | {"hour": 24, "weekday": 7}
    pairs = sum(sizes[left] * sizes[right] for left, right in CROSSES)
    assert layer.input_dim == sum(sizes.values()) + pairs
    assert not layer.get_weights()[0].any()


def test_network_ids_share_no_embedding_and_no_weight() -> None:
    """Changing one id changes the rows of the tables that are read for it, and no others."""
    model = build(learning())
    tables = tf_keras.Model(
        model.inputs, [model.get_layer(name).input for name in ("embedding", "wide")]
    )
    rows = make_rows(2000, 3)
    for looked_up in tables.predict({name: rows[name] for name in model.input_names}, verbose=0):
        ranges = [(column.min(), column.max()) for column in looked_up.T]
        assert all(end < start for (_, end), (start, _) in pairwise(ranges))


def test_network_reads_each_number_in_bins_that_hold_as_many_rows() -> None:
    rng = np.random.default_rng(5)
    skewed = rng.exponential(size=80_000).astype(np.float32)
    tied = np.where(rng.random(80_000) < 0.9, 0, skewed).astype(np.float32)
    numeric = np.stack([skewed, tied, np.full(80_000, 3, np.float32)], axis=1)
    model = network.build_model(learning(), SIZES, numeric, np.array([[0], [1]]))
    (bins,) = (layer.output for layer in model.layers if "clip_by_value" in layer.name)
    found = tf_keras.Model(model.inputs, bins).predict(make_rows(80_000, 6) | {NUMERIC: numeric})
    assert found.shape == (80_000, 8 + 1)  # Nine tenths of `tied` are one value; one is constant.
    assert found.min() == 0
    assert found.max() == 1
    # A row lies in the bin that it has come into but not through; the rows are spread evenly.
    lies = ((found[:, :8] > 0) & (found[:, :8] < 1)).mean(axis=0)
    np.testing.assert_allclose(lies, 1 / 8, atol=0.02)
    order = np.argsort(skewed)
    assert (np.diff(found[order, :8], axis=0) >= 0).all()


def test_network_learns_the_number_and_the_pair_of_ids(tmp_path: Path) -> None:
    tf_keras.utils.set_random_seed(7)
    config = learning(epochs=12, batch_size=128, learning_rate=5e-3, patience=2)
    assert fit_rows(build(config), config, tmp_path, 4000)["metrics"]["auc"] > 0.85


def test_network_with_the_same_seed_learns_the_same(tmp_path: Path) -> None:
    config = learning(epochs=1, batch_size=128)
    predictions = []
    for _ in range(2):
        tf_keras.utils.set_random_seed(config.seed)
        model = build(config)
        fit_rows(model, config, tmp_path, 1000)
        predictions.append(model.predict(make_rows(50, 3), verbose=0))
    np.testing.assert_allclose(predictions[0], predictions[1], atol=1e-4)
