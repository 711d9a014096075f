"""Tests of the interface through which the pipeline knows a model's folder."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace

import pytest

from ml.tasks import Task
from pipeline.config import ConfigError, EvaluationConfig, MonitorConfig, load_config
from pipeline.model import Model


def test_model_names_functions_that_exist() -> None:
    model = Model.load(load_config())
    for path in model.functions:
        module, _, function = path.rpartition(".")
        assert callable(getattr(importlib.import_module(module), function))
    assert set(model.slices) <= set(model.raw_features)


def test_model_has_the_columns_of_the_configuration() -> None:
    config = load_config(settings=["label=tip", "weight=w", 'slices=["a"]', "data.time_column=t"])
    model = Model.load(config)
    assert (model.task.label, model.task.weight) == ("tip", "w")
    assert (model.slices, model.time_column) == (("a",), "t")
    assert model.custom_config["label"] == "tip"


def test_model_custom_config_holds_the_task() -> None:
    config = replace(
        load_config(),
        task="regression",
        class_names=(),
        example_weight="trips",
        evaluation=EvaluationConfig(),
        monitor=MonitorConfig(),
    )
    model = Model.load(config)
    assert Task.from_config(json.loads(json.dumps(model.custom_config))) == model.task
    assert (model.task.kind, model.task.example_weight) == ("regression", "trips")


def test_model_without_its_modules_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model = 'tests.pipeline': it has no preprocessing.py"):
        Model.load(replace(load_config(), model="tests.pipeline"))
