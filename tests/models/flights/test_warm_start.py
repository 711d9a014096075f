"""A network that starts from the served one: categories keep their own weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from models.flights import network as network
from models.flights.features import IDS, NUMERIC
from models.flights.warm_start import start_from
from tests.models.flights.settings import learning

NUMBERS = 6
OLD = {"carrier": [b"UA", b"B6", b"EV"], "origin": [b"EWR", b"JFK"], "dest": [b"ORD", b"ATL"]}
# Another order, one carrier and two destinations more, and one carrier less.
NEW = {
    "carrier": [b"EV", b"AA", b"UA"],
    "origin": [b"JFK", b"EWR"],
    "dest": [b"ATL", b"MIA", b"ORD", b"LAX"],
}


def build(vocabularies: dict[str, list[bytes]], seed: int) -> tf_keras.Model:
    tf_keras.utils.set_random_seed(seed)
    sizes = {name: len(values) + 1 for name, values in vocabularies.items()}
    numeric = np.random.default_rng(1).normal(size=(100, NUMBERS)).astype(np.float32)
    return network.build_model(learning(), sizes, numeric, np.array([[0], [1], [0]]))


@pytest.fixture(scope="module")
def served_network() -> tf_keras.Model:
    """One all of whose weights are other than at first."""
    model = build(OLD, 1)
    for variable in model.trainable_variables:
        variable.assign(np.random.default_rng(1).normal(0, 0.2, variable.shape))
    return model


@pytest.fixture(scope="module")
def served(served_network: tf_keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of its SavedModel."""
    folder = tmp_path_factory.mktemp("served")
    signature = tf.function(lambda inputs: {"probability": served_network(inputs)})
    specs = {name: tf.TensorSpec([None, 1], tf.int64, name) for name in (*OLD, *IDS)}
    specs[NUMERIC] = tf.TensorSpec([None, NUMBERS], tf.float32, NUMERIC)
    concrete = signature.get_concrete_function(specs)
    tf.saved_model.save(served_network, str(folder), signatures={"raw_features": concrete})
    (folder / "assets").mkdir(exist_ok=True)
    for name, values in OLD.items():
        (folder / "assets" / name).write_bytes(b"\n".join(values) + b"\n")
    return folder


def rows_of(
    vocabularies: dict[str, list[bytes]], flights: Sequence[tuple[bytes, ...]]
) -> dict[str, np.ndarray]:
    """Rows as the network reads them, of categories as the data has them."""
    rng = np.random.default_rng(3)
    rows: dict[str, Any] = {
        name: [
            [1 + vocabularies[name].index(f[i]) if f[i] in vocabularies[name] else 0]
            for f in flights
        ]
        for i, name in enumerate(OLD)
    }
    rows |= {name: rng.integers(0, count, (len(flights), 1)) for name, count in IDS.items()}
    rows[NUMERIC] = rng.normal(size=(len(flights), NUMBERS)).astype(np.float32)
    return {name: np.array(values) for name, values in rows.items()}


def test_start_from_all_weights_predicts_as_the_served_network_for_known_categories(
    served_network: tf_keras.Model, served: Path
) -> None:
    flights = [
        (carrier, origin, dest)
        for carrier in (b"UA", b"EV", b"nobody")
        for origin in OLD["origin"]
        for dest in OLD["dest"]
    ]
    model = build(NEW, 2)
    done = start_from(model, str(served), NEW, 1.0)
    expected = served_network.predict(rows_of(OLD, flights), verbose=0)
    found = model.predict(rows_of(NEW, flights), verbose=0)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert done["weights"] == len(model.trainable_variables)
    assert 0.5 < done["rows"] < 1


def test_start_from_keeps_initial_values_of_a_new_category(served: Path) -> None:
    model, before = build(NEW, 2), build(NEW, 2)
    start_from(model, str(served), NEW, 1.0)
    row = 1 + NEW["carrier"].index(b"AA")
    for name in ("embedding", "wide"):
        table, initial = (m.get_layer(name).get_weights()[0] for m in (model, before))
        np.testing.assert_array_equal(table[row], initial[row])
        assert (table[row - 1] != initial[row - 1]).all()


def test_start_from_mixes_a_share_of_the_weights_with_the_initial_ones(
    served_network: tf_keras.Model, served: Path
) -> None:
    model, before = build(NEW, 2), build(NEW, 2)
    start_from(model, str(served), NEW, 0.25)
    found, initial, old = (
        m.get_layer("hidden_2").kernel.numpy() for m in (model, before, served_network)
    )
    np.testing.assert_allclose(found, 0.25 * old + 0.75 * initial, rtol=1e-5)


@pytest.mark.parametrize("case", ["nothing served", "no vocabulary", "other width", "other layer"])
def test_start_from_takes_nothing_of_a_model_of_another_shape(
    served: Path, tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, why = served, ""
    if case == "nothing served":
        folder, why = tmp_path, "nothing is served yet"
    elif case == "no vocabulary":
        folder = tmp_path / "served"
        tf.io.gfile.makedirs(str(folder / "assets"))
        for path in served.rglob("*"):
            if path.is_file() and path.name != "dest":
                target = folder / path.relative_to(served)
                target.parent.mkdir(exist_ok=True)
                target.write_bytes(path.read_bytes())
        why = "the served model has no vocabulary dest"
    elif case == "other width":
        monkeypatch.setattr(network, "_TRUNK", (256, 64, 64))
        why = "hidden_2/kernel:0 is (256, 64), in the served model (256, 128)"
    else:
        monkeypatch.setattr(network, "_TRUNK", (256, 128, 64, 64))
        why = "the served model has no hidden_4/kernel:0"
    model = build(NEW, 2)
    before = [variable.numpy() for variable in model.trainable_variables]
    assert start_from(model, str(folder), NEW, 1.0) == {"why_cold": why}
    for variable, value in zip(model.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
