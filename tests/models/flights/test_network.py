"""The network: what it is made of, and that it learns."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import tf_keras

from ml import progress
from ml.keras_setup import skip_autograph_of_keras
from ml.learning import Learning
from models.flights import network as network
from models.flights.features import CROSSES, NUMERIC
from storage.errors import DataError, UserError
from tests.models.flights.settings import MODEL, learning

LABEL, WEIGHT = MODEL.label, MODEL.weight
SIZES = {"carrier": 5, "origin": 4, "dest": 9}
NUMBERS = 6


@pytest.fixture(autouse=True, scope="module")
def _quick_first_fit() -> None:
    skip_autograph_of_keras()


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
    return network.build_model(config, SIZES, NUMBERS, prior=0.3)


def test_the_output_starts_at_the_prior() -> None:
    model = build(learning())
    (bias,) = model.get_layer("deep").bias.numpy()
    assert 1 / (1 + np.exp(-bias)) == pytest.approx(0.3)
    assert model.predict(make_rows(100, 1), verbose=0).shape == (100, 1)


def test_the_wide_part_has_a_weight_for_every_pair_of_ids() -> None:
    layer = build(learning()).get_layer("wide")
    sizes = SIZES | {"hour": 24, "weekday": 7}
    pairs = sum(sizes[left] * sizes[right] for left, right in CROSSES)
    assert layer.input_dim == sum(sizes.values()) + pairs
    assert not layer.get_weights()[0].any()


def test_no_two_ids_share_an_embedding_or_a_weight() -> None:
    """Changing one id changes the rows of the tables that are read for it, and no others."""
    model = build(learning())
    tables = tf_keras.Model(
        model.inputs, [model.get_layer(name).input for name in ("embedding", "wide")]
    )
    rows = make_rows(2000, 3)
    for looked_up in tables.predict({name: rows[name] for name in model.input_names}, verbose=0):
        ranges = [(column.min(), column.max()) for column in looked_up.T]
        assert all(end < start for (_, end), (start, _) in pairwise(ranges))


def test_it_learns_keeps_the_best_epoch_and_reports_progress(tmp_path: object) -> None:
    tf_keras.utils.set_random_seed(7)
    config = learning(epochs=12, batch_size=128, learning_rate=5e-3, patience=2)
    lines: list[str] = []
    progress.subscribe(lines.append)
    model, evaluation = build(config), make_rows(1000, 2)
    summary = network._fit(model, config, make_rows(4000, 1), evaluation, str(tmp_path))
    assert summary["auc"] > 0.85
    assert 1 <= summary["best_epoch"] <= summary["epochs"] <= 12
    kept = model.evaluate(evaluation, evaluation[LABEL], verbose=0, return_dict=True)
    assert kept["auc"] == pytest.approx(summary["auc"], abs=1e-3)
    assert any(line.startswith("epoch 1 of 12, step ") for line in lines)


def test_learning_that_diverges_is_an_error_that_says_what_to_lower(tmp_path: object) -> None:
    config = learning(epochs=3, learning_rate=1.0)
    rows = make_rows(3000, 1)
    rows[NUMERIC][5] = np.nan
    with pytest.raises(UserError, match=r"lower training\.learning_rate \(now 1\)"):
        network._fit(build(config), config, rows, rows, str(tmp_path))


def test_the_same_seed_gives_the_same_network(tmp_path: object) -> None:
    config = learning(epochs=1, batch_size=128)
    answers = []
    for _ in range(2):
        tf_keras.utils.set_random_seed(config.seed)
        model = build(config)
        network._fit(model, config, make_rows(1000, 1), make_rows(500, 2), str(tmp_path))
        answers.append(model.predict(make_rows(50, 3), verbose=0))
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-4)


@pytest.mark.parametrize(
    ("labels", "shown"),
    [
        ([0, 0, 0], "are 0; 0 and 1 are needed"),
        ([1, 1], "are 1; 0 and 1 are needed"),
        ([1, 2], "are 1, 2; 0 and 1 are needed"),
        ([0.0, 1.0, np.nan], "are 0, 1, nan; 0 and 1 are needed"),
        ([], "are none; 0 and 1 are needed"),
    ],
)
def test_check_labels_refuses_what_is_not_0_and_1(labels: list[float], shown: str) -> None:
    with pytest.raises(DataError, match=f"eval: the values of the label 'late' {shown}, both"):
        network.check_labels(LABEL, "eval", np.array(labels).reshape(-1, 1))


def test_check_labels_accepts_0_and_1() -> None:
    network.check_labels(LABEL, "train", np.array([[0], [1], [1]]))
