"""The digits: data, schema, preprocessing and network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow_transform as tft
from click.testing import CliRunner
from sklearn.datasets import load_digits

from data.digits import make
from models.digits.network import build_model, change_images
from models.digits.preprocessing import PIXELS
from storage.errors import DataError
from tests.models.trial import ModelData, change

DIGITS = ModelData("digits")


@pytest.fixture(scope="module")
def rows() -> pa.Table:
    return DIGITS.read()


@pytest.fixture(scope="module")
def graph(rows: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> tft.TFTransformOutput:
    return DIGITS.learn(rows.slice(0, 200), tmp_path_factory.mktemp("digits"))


def test_digits_are_those_of_the_script(tmp_path: Path) -> None:
    again = tmp_path / "digits.parquet"
    CliRunner().invoke(make.main, ["--output", str(again)], catch_exceptions=False)
    committed = Path(make.__file__).with_name("digits.parquet")
    assert pq.read_table(again).equals(pq.read_table(committed))


def test_digits_look_like_those_of_scikit_learn(rows: pa.Table) -> None:
    source = load_digits()
    assert rows["digit"].to_pylist() == source.target.tolist()
    images = np.array(rows["image"].to_pylist()).reshape(-1, 28, 28)
    corners = images[:, [0, 0, -1, -1], [0, -1, 0, -1]] / 255 * 16
    wanted = source.images[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    np.testing.assert_allclose(corners, wanted, atol=0.05)
    np.testing.assert_allclose(images.mean(), source.images.mean() / 16 * 255, rtol=0.15)


def test_schema_accepts_the_digits(rows: pa.Table) -> None:
    assert DIGITS.anomalies(rows) == {}


def test_schema_refuses_a_wrong_label_and_a_wrong_grey_value(rows: pa.Table) -> None:
    wrong = change(rows, 0, {"digit": 10})
    assert list(DIGITS.anomalies(pa.concat_tables([rows, wrong]))) == ["digit"]
    wide = rows.set_column(0, "image", rows["image"].cast(pa.list_(pa.int64(), PIXELS)))
    wrong = change(wide, 0, {"image": [256] * PIXELS})
    assert list(DIGITS.anomalies(pa.concat_tables([wide, wrong]))) == ["image"]


def test_schema_refuses_an_image_of_another_size(rows: pa.Table) -> None:
    small = pa.table({"image": [[0] * 64], "digit": [0]})
    with pytest.raises(DataError, match="'image' has a vector of 64 values; 784 are expected"):
        DIGITS.anomalies(small)


def test_preprocessing_scales_grey_values(rows: pa.Table, graph: tft.TFTransformOutput) -> None:
    ends = change(rows, 0, {"image": [0] * PIXELS}, {"image": [255] * PIXELS}, {"digit": 9})
    made = DIGITS.transform(graph, ends)
    assert made["pixels"].shape == (3, PIXELS)
    assert set(made["pixels"][0]) == {0.0}
    assert set(made["pixels"][1]) == {1.0}
    assert made["digit"].ravel().tolist() == [0, 0, 9]


def test_preprocessing_bounds_impossible_grey_values(
    rows: pa.Table, graph: tft.TFTransformOutput
) -> None:
    wide = rows.set_column(0, "image", rows["image"].cast(pa.list_(pa.int64(), PIXELS)))
    made = DIGITS.transform(graph, change(wide, 0, {"image": [-1, 2**62] * (PIXELS // 2)}))
    assert set(made["pixels"].ravel()) == {0.0, 1.0}


def test_network_is_that_of_the_tutorial() -> None:
    model = build_model(DIGITS.learning)
    kernels = [layer.kernel.shape for layer in model.layers if hasattr(layer, "kernel")]
    assert [tuple(shape) for shape in kernels] == [(784, 64), (64, 64), (64, 10)]
    predictions = model.predict(np.zeros((2, PIXELS), np.float32), verbose=0)
    np.testing.assert_allclose(predictions.sum(axis=1), 1, atol=1e-5)


def test_training_has_changed_copies_of_the_images(rows: pa.Table) -> None:
    images = {"pixels": _pixels(rows, 4), "digit": np.arange(4).reshape(-1, 1)}
    made = change_images(images, dict(DIGITS.learning.network, copies=3))
    assert made["pixels"].shape == (12, PIXELS)
    assert made["digit"].ravel().tolist() == [0, 1, 2, 3] * 3
    copies = made["pixels"].reshape(3, 4, PIXELS)
    assert not np.allclose(copies[0], copies[1], atol=0.01)
    # A little: an image is nearer to its own copies than to other images.
    far = np.abs(copies[:, :, np.newaxis] - images["pixels"]).mean(axis=-1)
    assert (far.argmin(axis=-1) == np.arange(4)).all()


def test_images_that_nothing_changes_stay_as_they_are(rows: pa.Table) -> None:
    pixels = _pixels(rows, 4)
    nothing = {"copies": 2, "rotation": 0.0, "zoom": 0.0, "shift": 0.0}
    made = change_images({"pixels": pixels}, nothing)
    np.testing.assert_allclose(made["pixels"], np.tile(pixels, (2, 1)), atol=1e-6)


def _pixels(rows: pa.Table, count: int) -> np.ndarray:
    return np.array(rows["image"].slice(0, count).to_pylist(), np.float32) / 255
