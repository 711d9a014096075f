"""Tests of the page that lists the settings."""

from __future__ import annotations

import re

import pytest

from pipeline.config import config_keys
from pipeline.config_page import PAGE, render
from pipeline.model_folders import default_model, model_names


def test_config_page_is_the_one_that_the_configuration_makes() -> None:
    page = PAGE.read_text(encoding="utf-8")
    found = re.search(r"^\| key \| default \| (\w+) \|", page, re.MULTILINE)
    assert found
    if found[1] not in model_names():
        pytest.skip(f"the page shows the model {found[1]}, which is gone: `make docs`")
    assert page == render(found[1]), "make docs writes it"


def test_config_page_has_every_key_with_its_meaning() -> None:
    page = render(default_model())
    for key in (key.removesuffix(".<name>") for key in config_keys()):
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{key}`")]
        assert row.count(" | ") == 4
        assert not row.endswith("|  |"), f"{key} has no meaning"
