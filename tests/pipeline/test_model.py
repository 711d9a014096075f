"""Tests of the interface through which the pipeline knows a model's folder."""

from __future__ import annotations

import importlib

import pytest

from pipeline.config import ConfigError
from pipeline.model import Model


def test_model_names_functions_that_are_there() -> None:
    model = Model.load("tests.trips")
    for path in (*model.functions, model.reference):
        module, _, function = path.rpartition(".")
        assert callable(getattr(importlib.import_module(module), function))
    assert set(model.slices) <= set(model.raw_features)


@pytest.mark.parametrize(
    "name", ["trips", "features", "__pycache__", "..", "tests", "tests.trips.export"]
)
def test_model_that_is_no_folder_is_refused_with_those_that_are(name: str) -> None:
    with pytest.raises(ConfigError, match=r"no such folder in .*models, but "):
        Model.load(name)
