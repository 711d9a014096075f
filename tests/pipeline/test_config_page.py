"""Tests of the page that lists the settings."""

from __future__ import annotations

from pipeline.config import config_keys
from pipeline.config_page import PAGE, render


def test_config_page_is_the_one_that_the_configuration_makes() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), "make docs writes it"


def test_config_page_has_every_key_with_its_meaning() -> None:
    page = render()
    for key in (key.removesuffix(".<name>") for key in config_keys()):
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{key}` |")]
        assert row.count(" | ") == 3
        assert not row.endswith("|  |"), f"{key} has no meaning"
