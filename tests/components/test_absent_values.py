"""The Quantizer's check of what a TFLite model predicts where features are absent."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from components.quantizer.absent_values import check_absent_values
from components.quantizer.candidates import Candidate
from components.quantizer.conversion import convert
from components.quantizer.measurement import Rows
from ml.tasks import Task
from storage.errors import UserError
from storage.names import DEFAULT_SIGNATURE, RAW_SIGNATURE

ROWS = 40
# Each feature, and what absence is taken for.
WITH_NAN = {"rain": math.nan, "wind": math.nan}
SPEC = {
    name: tf.io.FixedLenFeature([1], tf.float32, default)
    for name, default in (WITH_NAN | {"distance": None}).items()
}


class Model(tf.Module):
    """A model of three numbers, which takes another number for NaN in each of two.

    What an operator of the interpreter makes of NaN depends on the CPU, so two models that differ
    in it stand for the formats of one.
    """

    def __init__(self, rain: float, wind: float):
        super().__init__()
        self._usual = {"rain": rain, "wind": wind}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
    def examples(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        return self._predict(**tf.io.parse_example(examples, SPEC))

    @tf.function(
        input_signature=[tf.TensorSpec([None], tf.float32, name=name) for name in sorted(SPEC)]
    )
    def features(
        self, distance: tf.Tensor, rain: tf.Tensor, wind: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        return self._predict(distance, rain, wind)

    def _predict(
        self, distance: tf.Tensor, rain: tf.Tensor, wind: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        numbers = {"rain": rain, "wind": wind}
        known = [
            tf.where(
                tf.math.is_nan(numbers[name]), usual * tf.ones_like(numbers[name]), numbers[name]
            )
            for name, usual in self._usual.items()
        ]
        return {"score": tf.reshape(tf.sigmoid(tf.add_n([*known, distance])), [-1, 1])}


def save(folder: Path, rain: float = 0.5, wind: float = -0.5) -> str:
    model = Model(rain, wind)
    signatures = {DEFAULT_SIGNATURE: model.examples, RAW_SIGNATURE: model.features}
    tf.saved_model.save(model, str(folder), signatures)
    return str(folder)


def tflite(saved_model: str) -> bytes:
    return convert(saved_model, RAW_SIGNATURE, float16=False, quantize=False)


def candidate(saved_model: str, content: bytes) -> Candidate:
    return Candidate(saved_model, content, tf.saved_model.load(saved_model))


@pytest.fixture(scope="module")
def rows() -> Rows:
    """Rows in which no feature is absent."""
    random = np.random.default_rng(7)
    serialized = []
    for _ in range(ROWS):
        example = tf.train.Example()
        for name in SPEC:
            example.features.feature[name].float_list.value.append(random.normal())
        serialized.append(example.SerializeToString())
    task = Task("binary", "score")
    return Rows(task, np.array(serialized, object), random.integers(0, 2, ROWS).astype(float))


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save(tmp_path_factory.mktemp("model"))


def test_formats_of_one_model_take_absent_values_alike(saved_model: str, rows: Rows) -> None:
    check_absent_values(candidate(saved_model, tflite(saved_model)), rows, SPEC)


@pytest.mark.parametrize("name", WITH_NAN)
def test_a_feature_is_named_that_the_interpreter_makes_a_number_of(
    name: str, saved_model: str, rows: Rows, tmp_path: Path
) -> None:
    other = tflite(save(tmp_path / "other", **{name: 88.0}))
    with pytest.raises(UserError, match=f"without {name}: 1 in place of 0.*of_known"):
        check_absent_values(candidate(saved_model, other), rows, SPEC)


def test_a_number_that_is_nan_in_the_interpreter_alone_is_an_error(
    saved_model: str, rows: Rows, tmp_path: Path
) -> None:
    other = tflite(save(tmp_path / "other", rain=math.nan))
    with pytest.raises(UserError, match="without rain: nan in place of 0"):
        check_absent_values(candidate(saved_model, other), rows, SPEC)


def test_what_the_saved_model_does_not_know_either_is_no_error(rows: Rows, tmp_path: Path) -> None:
    path = save(tmp_path / "nan", rain=math.nan)
    other = tflite(save(tmp_path / "other", rain=88.0))
    check_absent_values(candidate(path, other), rows, SPEC)


def test_features_that_are_always_there_or_never_read_are_left_in(
    saved_model: str, rows: Rows
) -> None:
    unread = {"remarks": tf.io.VarLenFeature(tf.string)}
    required = SPEC | {"rain": tf.io.FixedLenFeature([1], tf.float32)} | unread
    check_absent_values(candidate(saved_model, tflite(saved_model)), rows, required)


def test_a_difference_with_all_values_is_not_laid_upon_an_absent_one(
    saved_model: str, rows: Rows, tmp_path: Path
) -> None:
    class Shifted(Model):
        def _predict(self, *values: tf.Tensor, **named: tf.Tensor) -> dict[str, tf.Tensor]:
            (score,) = super()._predict(*values, **named).values()
            return {"score": score + 0.2}

    model = Shifted(0.5, -0.5)
    signatures = {DEFAULT_SIGNATURE: model.examples, RAW_SIGNATURE: model.features}
    tf.saved_model.save(model, str(tmp_path / "shifted"), signatures)
    check_absent_values(candidate(saved_model, tflite(str(tmp_path / "shifted"))), rows, SPEC)
