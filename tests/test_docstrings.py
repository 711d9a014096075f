"""Runs the examples in the docstrings of the project's modules."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
ROOMS = (
    "components",
    "ml",
    "models",
    "orchestration",
    "pipeline",
    "report",
    "cloud",
    "serving",
    "storage",
    "terminal",
)


def modules_with_examples() -> list[str]:
    """Names of the modules that have an example; the others are not imported."""
    files = [
        *PROJECT.glob("*.py"),
        *(path for room in ROOMS for path in PROJECT.glob(f"{room}/**/*.py")),
    ]
    found = [path for path in files if ">>> " in path.read_text(encoding="utf-8")]
    return sorted(".".join(path.relative_to(PROJECT).with_suffix("").parts) for path in found)


@pytest.mark.parametrize("name", modules_with_examples())
def test_docstring_examples_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module(name.removesuffix(".__init__"))
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > 0
    assert result.failed == 0, "see the output above"


def test_docstring_examples_are_found() -> None:
    assert {"storage.directory", "storage.private_copy"} <= set(modules_with_examples())
