"""Tests that the layout of data is recognized by their paths."""

from pathlib import Path

import pytest

from orchestration.new_model.layout import recognize
from storage.errors import DataError
from storage.spans import DataSource

ROW = "a\n1\n"


def lay_out(folder: Path, paths: list[str]) -> DataSource:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(ROW)
    return DataSource(str(folder))


@pytest.mark.parametrize(
    ("paths", "pattern"),
    [
        (["span-201301/a.csv", "span-201302/a.csv"], "span-{YYYY}{MM}"),
        (["2013-01/a.csv", "2013-02/a.csv"], "{YYYY}-{MM}"),
        (["2013-01-01/a.csv", "2013-01-02/a.csv"], "{YYYY}-{MM}-{DD}"),
        (["year=2013/month=01/a.csv", "year=2013/month=02/a.csv"], "year={YYYY}/month={MM}"),
        (["year=2013/a.csv", "year=2014/a.csv"], "year={YYYY}"),
        (["trips-201301.csv", "trips-201302.csv"], "trips-{YYYY}{MM}.csv"),
        (["year=2013/month=1/a.csv", "year=2013/month=10/a.csv"], "year={YYYY}/month={MM}"),
        (["span-1/a.csv", "span-2/a.csv"], "span-{SPAN}"),
        (
            ["span-1/version-1/a.csv", "span-1/version-2/a.csv", "span-2/version-1/a.csv"],
            "span-{SPAN}/version-{VERSION}",
        ),
        ([".cache/b.csv", "_old/1/c.csv", "2013-01/a.csv", "2013-02/a.csv"], "{YYYY}-{MM}"),
        (["rows.csv"], ""),
    ],
)
def test_recognize_finds_the_pattern_of_the_paths(
    tmp_path: Path, paths: list[str], pattern: str
) -> None:
    assert recognize(lay_out(tmp_path, paths)).pattern == pattern


def test_recognize_keeps_a_pattern_that_is_given(tmp_path: Path) -> None:
    source = lay_out(tmp_path, ["span-1/a.csv", "span-2/a.csv"])
    given = DataSource(source.uri, "span-{SPAN}")
    assert recognize(given) == given


def test_recognize_refuses_a_folder_that_holds_something_else(tmp_path: Path) -> None:
    source = lay_out(tmp_path, ["2013-01/a.csv", "2013-02/a.csv", "2013_03/a.csv"])
    with pytest.raises(DataError, match="2013_03"):
        recognize(source)


def test_recognize_refuses_a_folder_without_tables(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        recognize(DataSource(str(tmp_path)))
