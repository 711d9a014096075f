"""Tests that a configuration takes names of columns that a model can carry, and no others."""

from __future__ import annotations

import json
import re

import pytest

from pipeline.config import ConfigError, load_config


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ('features=["a", "b", "a"]', r"features = .*: 'a' is listed 2 times \(--set\)"),
        ('features=["a\\nb"]', r"features.0 = .*: 'a\\nb' has a line break .*; rename the column"),
        ('features=["self"]', r"features.0 = 'self': 'self' is no name that LiteRT takes"),
        ('features=["examples"]', r"features = .*: 'examples', as the only feature, is what"),
        ("features=[]", r"features = .*: a feature or more is expected"),
        ("label=request.time", r"label = 'request.time': .* is a name of the request log"),
        ("data.time_column=request.time", r"data.time_column = .* is a name of the request log"),
        ("example_weight=self", r"example_weight = 'self': 'self' is no name that LiteRT takes"),
        ("prediction=the price", r"prediction = 'the price'"),
    ],
)
def test_load_config_refuses_names_of_columns_that_cannot_be_carried(
    setting: str, message: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        load_config(settings=[setting])
    assert re.match(message, str(refused.value))


def test_load_config_takes_names_of_columns_that_people_have() -> None:
    names = ("trip.miles", "two words", "größe", "_x", "1st", "fare ($)")
    config = load_config(settings=[f"features={json.dumps(names)}", "label=is slow?"])
    assert (config.features, config.label) == (names, "is slow?")
