"""Tests that `make test-benchmarks` can run every benchmark."""

from __future__ import annotations

import importlib
from pathlib import Path

import click
import pytest

from benchmarks.common import PROJECT
from tests.models.tiny_benchmarks import TINY

# They are run by `stock`.
_PARTS = {"stock_pipeline"}


def test_every_benchmark_has_a_tiny_setting() -> None:
    programs = {
        path.stem
        for path in (PROJECT / "benchmarks").glob("*.py")
        if "__main__" in path.read_text(encoding="utf-8")
    }
    assert programs - _PARTS == TINY.keys()


@pytest.mark.parametrize("name", TINY)
def test_tiny_settings_are_arguments_and_constants_of_the_benchmark(
    name: str, tmp_path: Path
) -> None:
    module = importlib.import_module(f"benchmarks.{name}")
    (tmp_path / "serving_model").mkdir()
    arguments = [argument.format(run=tmp_path) for argument in TINY[name].arguments]
    context = module.main.make_context(name, arguments)
    assert isinstance(context, click.Context)
    for constant in TINY[name].constants:
        assert hasattr(module, constant)
