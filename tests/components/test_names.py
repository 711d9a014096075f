"""Tests that a model carries columns of any name, in all that serves it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ml.predictors import SavedModelPredictor, TFLitePredictor
from storage.names import TFLITE_MODEL
from tests.components.odd_names import OddModel, make_odd_model


@pytest.fixture(scope="module")
def model(
    tmp_path_factory: pytest.TempPathFactory, run_component: Callable[..., dict[str, Any]]
) -> OddModel:
    return make_odd_model(tmp_path_factory.mktemp("odd"), run_component)


def test_a_tflite_model_predicts_as_the_savedmodel_for_columns_of_any_name(
    model: OddModel,
) -> None:
    expected = SavedModelPredictor(str(model.folder)).predict(model.examples)
    content = (model.folder / TFLITE_MODEL).read_bytes()
    found = TFLitePredictor(content).predict(model.examples)
    np.testing.assert_allclose(found, expected, atol=1e-5)
