"""Tests of what the benchmarks write."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import common

_LINES = st.text(st.characters(codec="ascii", exclude_characters="#\r\n\x0b\x0c\x1c\x1d\x1e"))
_CONTENT = st.lists(_LINES, min_size=1).map("\n".join)
_NAMES = st.text("abcdef_", min_size=1)


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The page that measurements in a test go to."""
    monkeypatch.setenv(common.PAGE_VARIABLE, str(tmp_path / "results.md"))
    monkeypatch.setattr(common, "RESULTS", common.PROJECT / "output" / "benchmarks" / "test")
    return tmp_path / "results.md"


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--window", type=int, default=6)
@click.option("--month", "months", type=int, multiple=True, default=(1,))
@click.option("--set", "settings", multiple=True)
@click.option("--log/--no-log", default=True)
def measure(run: Path, window: int, months: tuple[int, ...], settings: object, log: bool) -> None:
    """Measures nothing."""
    common.report("window", ["seconds", "a|b"], [["all", "1.5"]], {"all": 1.5}, "Notes.")
    common.report("other", ["x"], [["1"]], {})
    common.report("window", ["seconds", "a|b"], [["all", "2.5"]], {"all": 2.5}, "Notes.")


def test_report_writes_a_section_with_the_origin_of_its_figures(page: Path, tmp_path: Path) -> None:
    given = [f"{tmp_path}/run", "--month=8", "--month=12", "--no-log"]
    given += ["--set", f"data.uri={tmp_path}/my data", "--set=gate.schema=../up/schema.pbtxt"]
    measure(given, standalone_mode=False)
    text = page.read_text()
    assert text.count("## window") == 1
    command = "python -m benchmarks.test_common run --month 8 --month 12"
    command += " --set 'data.uri=my data' --set gate.schema=schema.pbtxt --no-log"
    assert f"`{command}`, 20" in text
    assert "| seconds | a/b |\n| --- | --- |\n| all | 2.5 |\n\nNotes." in text
    assert "1.5" not in text
    assert "commit " in text


def test_report_refuses_figures_that_no_command_measured(page: Path) -> None:
    with pytest.raises(RuntimeError, match="no active click context"):
        common.report("window", ["seconds"], [["1.5"]], {})
    assert not page.exists()


@given(st.dictionaries(_NAMES, _CONTENT, min_size=1), _NAMES, _CONTENT)
def test_replace_section_keeps_the_other_sections(
    sections: dict[str, str], name: str, content: str
) -> None:
    page = "# Measured\n"
    for title, body in sections.items():
        page = common.replace_section(page, title, body)
    replaced = common.replace_section(page, name, content)
    expected = {**sections, name: content}
    rest = replaced
    for title, body in expected.items():
        assert f"## {title}\n\n{body.strip()}\n" in rest
        rest = rest.split(f"## {title}\n", 1)[1]
    assert common.replace_section(replaced, name, content) == replaced
