"""The text of a model's team is read before a run begins."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import model_folders
from pipeline.layers import ConfigError
from pipeline.model_folders import read_card


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the card of the model `taxi` would be."""
    monkeypatch.setattr(model_folders, "_PROJECT", tmp_path)
    path = tmp_path / "models" / "taxi" / "card.md"
    path.parent.mkdir(parents=True)
    return path


def test_read_card_is_empty_without_a_card(card: Path) -> None:
    assert read_card("taxi") == ""


def test_read_card_takes_what_kubeflow_would_replace_apart(card: Path) -> None:
    card.write_bytes("\ufeff**Use.** {{workflow.name}} ü\r\n".encode())
    assert read_card("taxi") == "**Use.** { {workflow.name}} ü\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"---\nlicense: [\n---\n", "models/taxi/card.md: its first block is not YAML: "),
        (b"\xff\xfe", "models/taxi/card.md: 'utf-8' codec can't decode"),
        (b"x" * 70_000, "models/taxi/card.md: it has more than 65,536 bytes"),
    ],
)
def test_read_card_refuses_in_one_line(card: Path, content: bytes, message: str) -> None:
    card.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_card("taxi")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_read_card_refuses_a_folder_of_that_name(card: Path) -> None:
    card.mkdir()
    with pytest.raises(ConfigError, match=r"models/taxi/card\.md: Is a directory"):
        read_card("taxi")
