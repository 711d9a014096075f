"""Tests which spans a run reads, for histories with and without holes."""

import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import spans
from storage.errors import DataError
from storage.periods import SpanPeriod
from storage.spans import DataSource, Span, Window, filesystem
from storage.table_formats import TextFormat

MONTHS = "span-{YYYY}{MM}"


def find_spans(uri: str, pattern: str = MONTHS, **source: Any) -> list[Span]:
    return spans.find_spans(DataSource(uri, pattern, **source))


def resolve_window(
    uri: str, as_of: int, window: int, pattern: str = MONTHS, **source: Any
) -> Window:
    return spans.resolve_window(DataSource(uri, pattern, **source), as_of, window)


def make_spans(root: Path, months: Iterable[int]) -> Path:
    """Makes spans of one tiny file each; nothing here reads what is in them."""
    root.mkdir(exist_ok=True)
    for month in months:
        folder = root / f"span-{month:06d}"
        folder.mkdir()
        (folder / "data.parquet").write_text(str(month))
    return root


def months_of(window: Window) -> tuple[list[int], int]:
    return [span.number for span in window.train], window.test.number


def month_after(month: int) -> int:
    return month + 89 if month % 100 == 12 else month + 1


def month_number(index: int) -> int:
    """The month that lies `index` months after January of 2012."""
    return (2012 + index // 12) * 100 + index % 12 + 1


@pytest.fixture
def year(tmp_path: Path) -> Path:
    return make_spans(tmp_path / "year", range(201301, 201313))


# Finding spans


def test_find_spans_lists_spans_oldest_first_with_their_files(tmp_path: Path) -> None:
    root = make_spans(tmp_path / "spans", [201302, 201212, 201301])
    (root / "span-201301" / "a.parquet").touch()
    found = find_spans(str(root))
    assert [span.number for span in found] == [201212, 201301, 201302]
    names = [str(root / "span-201301" / name) for name in ("a.parquet", "data.parquet")]
    assert found[1].files == tuple(names)


def test_find_spans_reads_a_uri_as_its_path(year: Path) -> None:
    assert find_spans(year.as_uri()) == find_spans(str(year))


def test_find_spans_reads_a_relative_path_as_its_absolute_one(
    year: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(year.parent)
    assert find_spans("year") == find_spans(str(year))


@pytest.mark.parametrize("name", ["a b", "50%20", "#1", "é"])
def test_find_spans_accepts_any_name_of_the_directory(tmp_path: Path, name: str) -> None:
    root = make_spans(tmp_path / name, [201301])
    assert find_spans(str(root))[0].files == (str(root / "span-201301" / "data.parquet"),)


@pytest.mark.parametrize(
    "name",
    [
        "span-201300",
        "span-201313",
        "span-2013-01",
        "span-20131",
        "span-2013011",
        "span-201301.bak",
        "span-201301\n",
        "span-\uff12\uff10\uff11\uff1301",
        "Span-201301",
        "a-span-201301",
        "201301",
        "month=201301",
    ],
)
def test_find_spans_refuses_a_folder_that_is_not_named_like_a_span(
    tmp_path: Path, name: str
) -> None:
    root = make_spans(tmp_path / "spans", [201302])
    (root / name).mkdir()
    (root / name / "data.parquet").touch()
    with pytest.raises(DataError) as refusal:
        find_spans(str(root))
    assert str(refusal.value).startswith(f"{str(root / name)!r} is a folder and no span")


@pytest.mark.parametrize("name", ["span-201301", "more.parquet", "span-201301.PQ", "2013.csv"])
def test_find_spans_refuses_a_file_next_to_the_spans(tmp_path: Path, name: str) -> None:
    root = make_spans(tmp_path / "spans", [201302])
    (root / name).touch()
    with pytest.raises(DataError) as refusal:
        find_spans(str(root))
    assert str(refusal.value).startswith(f"{str(root / name)!r} is a file and no span")


def test_find_spans_skips_only_hidden_names_checksums_and_texts(tmp_path: Path) -> None:
    root = make_spans(tmp_path / "spans", [201302])
    span = root / "span-201302"
    texts = [root / name for name in ("README.md", "LICENSE.txt", "requirements.in", "make.py")]
    for path in (*texts, span / "_SUCCESS"):
        path.touch()
    for path in (root / "_staging", root / ".tmp", span / "_temporary"):
        path.mkdir()
        (path / "data.parquet").touch()
    (span / "data.parquet.crc").touch()
    (span / ".part-1.parquet").touch()
    assert find_spans(str(root))[0].files == (str(span / "data.parquet"),)


def test_find_spans_reads_parquet_files_of_any_case(tmp_path: Path) -> None:
    root = make_spans(tmp_path / "spans", [201302])
    span = root / "span-201302"
    names = ["PART2.PARQUET", "data.parquet", "part-1.pq"]
    for name in names:
        (span / name).touch()
    assert find_spans(str(root))[0].files == tuple(str(span / name) for name in names)


def make_folder(path: Path) -> None:
    path.mkdir()
    (path / "part.parquet").touch()


@pytest.mark.parametrize(
    ("name", "make", "kind"),
    [
        ("day=16", make_folder, "a folder"),
        ("folder.parquet", make_folder, "a folder"),
        ("part-1.json", Path.touch, "a file"),
        ("part-1", Path.touch, "a file"),
        ("part-1.parquet.gz", Path.touch, "a file"),
        ("README.md", Path.touch, "a file"),
        ("lost.parquet", lambda path: path.symlink_to("nowhere"), "a link to nothing"),
        ("pipe.parquet", os.mkfifo, "neither a file nor a folder"),
    ],
)
def test_find_spans_refuses_other_contents_of_a_span(
    tmp_path: Path, name: str, make: Callable[[Path], None], kind: str
) -> None:
    root = make_spans(tmp_path / "spans", [201302])
    path = root / "span-201302" / name
    make(path)
    with pytest.raises(DataError) as refusal:
        find_spans(str(root))
    assert str(refusal.value).startswith(f"{str(path)!r} is {kind} and no file of rows")


def test_find_spans_refuses_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    root = make_spans(tmp_path / "spans", [201302])
    Path(os.fsdecode(os.fsencode(root / "span-201302") + b"/\xff.parquet")).touch()
    with pytest.raises(DataError, match="cannot be read"):
        find_spans(str(root))


def test_find_spans_follows_links(tmp_path: Path) -> None:
    elsewhere = make_spans(tmp_path / "elsewhere", [201301, 201302])
    root = make_spans(tmp_path / "spans", [201303])
    (root / "span-201301").symlink_to(elsewhere / "span-201301")
    (root / "span-201303" / "more.parquet").symlink_to(elsewhere / "span-201302" / "data.parquet")
    found = find_spans(str(root))
    assert [(span.number, len(span.files)) for span in found] == [(201301, 1), (201303, 2)]


@given(
    names=st.sets(st.text(st.sampled_from("aAqQ._=-1*[?é "), min_size=1, max_size=6), max_size=4)
)
@settings(max_examples=50)
def test_find_spans_reads_refuses_or_skips_every_name(names: set[str]) -> None:
    """Nothing that could be data is passed over, whatever it is called."""
    with tempfile.TemporaryDirectory() as folder:
        span = make_spans(Path(folder), [201302]) / "span-201302"
        files = {span / f"{name}.pq" for name in names} | {span / n for n in names - {".", ".."}}
        for path in files:
            path.touch()
        read = {path for path in files if path.name.lower().endswith(".pq")}
        skipped = {path for path in files if path.name[0] in "_."}
        if files - read - skipped:
            with pytest.raises(DataError, match="would not be read"):
                find_spans(folder)
        else:
            expected = {*map(str, read - skipped), str(span / "data.parquet")}
            assert set(find_spans(folder)[0].files) == expected


def test_find_spans_refuses_a_missing_directory_by_name(tmp_path: Path) -> None:
    missing = str(tmp_path / "nowhere")
    with pytest.raises(DataError, match=f"{re.escape(repr(missing))} does not exist"):
        find_spans(missing)


def test_find_spans_refuses_a_file_in_place_of_the_directory_by_name(tmp_path: Path) -> None:
    file = tmp_path / "spans"
    file.touch()
    with pytest.raises(DataError, match=f"{re.escape(repr(str(file)))} .* is not a directory"):
        find_spans(str(file))


def test_filesystem_refuses_an_unknown_kind_of_uri_by_name() -> None:
    with pytest.raises(DataError, match=r"'ftp://host/spans' cannot be opened"):
        filesystem("ftp://host/spans")


@contextmanager
def without_privileges() -> Iterator[None]:
    """Permissions mean nothing to root, so a test that needs them is somebody else meanwhile."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_find_spans_refuses_an_unreadable_directory_by_name(year: Path) -> None:
    year.chmod(0)
    try:
        with without_privileges(), pytest.raises(DataError, match=re.escape(str(year))):
            find_spans(str(year))
    finally:
        year.chmod(0o755)


def test_find_spans_tells_the_name_of_a_span_when_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no span; span-{YYYY}{MM} is expected"):
        find_spans(str(tmp_path))


def test_find_spans_refuses_a_span_without_a_file_by_name(year: Path) -> None:
    (year / "span-201306" / "data.parquet").unlink()
    folder = re.escape(str(year / "span-201306"))
    with pytest.raises(DataError, match=f"{folder} holds no file of rows"):
        find_spans(str(year))


# Fingerprints


def fingerprint(root: Path) -> str:
    return resolve_window(str(root), 201312, 3).fingerprint


def test_fingerprint_stays_while_nothing_is_touched(year: Path) -> None:
    assert fingerprint(year) == fingerprint(year)


def add_a_file(span: Path) -> None:
    (span / "more.parquet").touch()


def resize_a_file(span: Path) -> None:
    file = span / "data.parquet"
    stat = file.stat()
    file.write_text("something longer")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def rewrite_a_file(span: Path) -> None:
    file = span / "data.parquet"
    stat = file.stat()
    file.write_text(file.read_text()[::-1])
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))


def rename_a_file(span: Path) -> None:
    (span / "data.parquet").rename(span / "renamed.parquet")


@pytest.mark.parametrize("month", [201309, 201312])
@pytest.mark.parametrize("change", [add_a_file, resize_a_file, rewrite_a_file, rename_a_file])
def test_fingerprint_changes_with_any_file_of_the_window(
    year: Path, month: int, change: Callable[[Path], None]
) -> None:
    before = fingerprint(year)
    change(year / f"span-{month}")
    assert fingerprint(year) != before


def test_fingerprint_changes_when_a_file_is_removed(year: Path) -> None:
    add_a_file(year / "span-201311")
    before = fingerprint(year)
    (year / "span-201311" / "more.parquet").unlink()
    assert fingerprint(year) != before


def test_fingerprint_stays_when_a_month_outside_the_window_changes(year: Path) -> None:
    before = fingerprint(year)
    resize_a_file(year / "span-201308")
    assert fingerprint(year) == before


def test_fingerprint_differs_for_windows_of_other_months(year: Path) -> None:
    wider = resolve_window(str(year), 201312, 4).fingerprint
    earlier = resolve_window(str(year), 201311, 3).fingerprint
    assert len({fingerprint(year), wider, earlier}) == 3


# Windows


def test_resolve_window_takes_the_months_before_the_test_month(year: Path) -> None:
    window = resolve_window(str(year), 201310, 3)
    assert months_of(window) == ([201307, 201308, 201309], 201310)
    assert window.test.files == (str(year / "span-201310" / "data.parquet"),)


def test_resolve_window_takes_zero_as_the_newest_month(year: Path) -> None:
    assert months_of(resolve_window(str(year), 0, 2)) == ([201310, 201311], 201312)


def test_resolve_window_crosses_the_new_year(tmp_path: Path) -> None:
    root = make_spans(tmp_path / "spans", [201211, 201212, 201301, 201302])
    assert months_of(resolve_window(str(root), 201302, 3)) == ([201211, 201212, 201301], 201302)


def test_resolve_window_takes_a_short_history_whole(year: Path) -> None:
    assert months_of(resolve_window(str(year), 201303, 6)) == ([201301, 201302], 201303)


def test_resolve_window_reads_no_month_after_the_test_month(year: Path) -> None:
    train, test = months_of(resolve_window(str(year), 201305, 12))
    assert max(train) < test == 201305


def test_resolve_window_refuses_a_hole_and_names_every_missing_month(tmp_path: Path) -> None:
    root = make_spans(tmp_path / "spans", [201301, 201304, 201306])
    with pytest.raises(
        DataError, match=r"lack span-201302, span-201303, span-201305 in"
    ) as failure:
        resolve_window(str(root), 201306, 5)
    assert str(root) in str(failure.value)


def test_resolve_window_allows_a_hole_before_the_window(tmp_path: Path) -> None:
    root = make_spans(tmp_path / "spans", [201301, 201304, 201305, 201306])
    assert months_of(resolve_window(str(root), 201306, 2)) == ([201304, 201305], 201306)


def test_resolve_window_refuses_a_hole_right_before_the_test_month(tmp_path: Path) -> None:
    root = make_spans(tmp_path / "spans", [201301, 201303])
    with pytest.raises(DataError, match=r"lack span-201302 in"):
        resolve_window(str(root), 201303, 1)


@pytest.mark.parametrize("as_of", [201401, 201212, 201313, 7])
def test_resolve_window_refuses_a_missing_month_and_names_those_there_are(
    year: Path, as_of: int
) -> None:
    with pytest.raises(
        DataError, match=r"span-.* is not in .*span-201301 to span-201312, 12 in all"
    ):
        resolve_window(str(year), as_of, 6)


def test_resolve_window_refuses_the_first_month(year: Path) -> None:
    with pytest.raises(DataError, match=r"nothing to train on: .* no span before span-201301"):
        resolve_window(str(year), 201301, 6)


@given(first=st.integers(0, 500), window=st.integers(1, 40))
@settings(max_examples=50)
def test_resolve_window_without_holes_takes_consecutive_months(first: int, window: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        history = [month_number(index) for index in range(first, first + window + 1)]
        root = make_spans(Path(folder), history)
        train, test = months_of(resolve_window(str(root), 0, window))
    assert len(train) == window
    assert [month_after(month) for month in train] == [*train[1:], test]


@st.composite
def histories(draw: st.DrawFn) -> set[int]:
    """Months in a row, some of them missing."""
    first, count = draw(st.integers(0, 30)), draw(st.integers(1, 18))
    holes = draw(st.sets(st.integers(first, first + count - 1), max_size=3))
    kept = set(range(first, first + count)) - holes or {first}
    return {month_number(index) for index in kept}


@given(
    present=histories(),
    as_of=st.just(0) | st.integers(0, 47).map(month_number),
    window=st.integers(1, 20),
)
def test_resolve_window_is_whole_or_refused_with_each_missing_month(
    present: set[int], as_of: int, window: int
) -> None:
    test_month = as_of or max(present)
    before = months_since(min(present), test_month)[-window:]
    missing = [month for month in (*before, test_month) if month not in present]
    with tempfile.TemporaryDirectory() as folder:
        root = make_spans(Path(folder), present)
        if before and not missing:
            assert months_of(resolve_window(str(root), as_of, window)) == (before, test_month)
        else:
            with pytest.raises(DataError) as failure:
                resolve_window(str(root), as_of, window)
            named = missing if test_month in present else [test_month]
            assert all(f"span-{month}" in str(failure.value) for month in named)


def months_since(first: int, until: int) -> list[int]:
    """All months from `first` to the one before `until`."""
    months = []
    while first < until:
        months.append(first)
        first = month_after(first)
    return months


# Other layouts


def touch(root: Path, *names: str) -> str:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return str(root)


@pytest.mark.parametrize(
    ("pattern", "names", "numbers"),
    [
        (
            "year={YYYY}/month={MM}",
            ("year=2012/month=12/a.csv", "year=2013/month=01/a.csv"),
            [201212, 201301],
        ),
        ("{YYYY}-{MM}-{DD}", ("2013-01-02/a.jsonl", "2013-01-01/a.jsonl.gz"), [20130101, 20130102]),
        ("{YYYY}/{MM}/{DD}/{HH}", ("2013/01/02/03/a.pq",), [2013010203]),
        ("sales-{YYYY}.csv", ("sales-2012.csv", "sales-2013.csv"), [2012, 2013]),
        ("{YYYY}-{MM}*.csv", ("2013-01-a.csv", "2013-01-b.csv", "README.md"), [201301]),
        ("span-{SPAN}", ("span-10/a.parquet", "span-9/a.parquet"), [9, 10]),
    ],
)
def test_find_spans_finds_what_a_pattern_says(
    tmp_path: Path, pattern: str, names: tuple[str, ...], numbers: list[int]
) -> None:
    found = find_spans(touch(tmp_path, *names), pattern)
    assert [span.number for span in found] == numbers
    files = {file for span in found for file in span.files}
    assert files == {str(tmp_path / name) for name in names if not name.endswith(".md")}


def test_find_spans_reads_the_highest_version_of_a_span(tmp_path: Path) -> None:
    names = ("span-1/version-9/a.pq", "span-1/version-10/a.pq", "span-2/version-1/a.pq")
    found = find_spans(touch(tmp_path, *names), "span-{SPAN}/version-{VERSION}")
    assert [span.files for span in found] == [
        (str(tmp_path / names[1]),),
        (str(tmp_path / names[2]),),
    ]


@pytest.mark.parametrize(
    ("pattern", "names", "reason"),
    [
        ("{YYYY}{MM}*", ("201301/a.pq", "201301.pq"), "201301* is a folder and a file"),
        (
            "{YYYY}{MM}",
            ("201301/a.pq", "201301/b.csv"),
            "differ in format; a table has one",
        ),
        ("{YYYY}-{MM}", ("2013-13/a.pq",), "is a folder and no span"),
        ("year={YYYY}/month={MM}", ("year=2013/01/a.pq",), "is a folder and no span"),
        ("year={YYYY}/month={MM}", ("year=2013/a.pq",), "is a file and no span"),
        ("", ("2013-01/a.pq",), "is a folder, so it would not be read: say how the paths"),
        ("", ("a.xlsx",), "is a file and no file of rows"),
        ("", ("README.md",), "holds no file of rows"),
    ],
)
def test_find_spans_refuses_a_layout_by_name(
    tmp_path: Path, pattern: str, names: tuple[str, ...], reason: str
) -> None:
    with pytest.raises(DataError, match=re.escape(reason)):
        find_spans(touch(tmp_path, *names), pattern)


def test_resolve_window_takes_data_without_spans_or_times_as_one_span(tmp_path: Path) -> None:
    root = touch(tmp_path, "a.csv", "b.csv", "make.py")
    for uri in (root, f"{root}/a.csv"):
        window = resolve_window(uri, 0, 6, "")
        assert window.spans == (window.test,) == window.train
        assert window.test.number == 0
    assert len(resolve_window(root, 0, 6, "").test.files) == 2


@pytest.mark.parametrize(
    ("period", "numbers"),
    [
        (SpanPeriod.YEAR, [2012, 2013]),
        (SpanPeriod.MONTH, [201212, 201301, 201302]),
        (SpanPeriod.DAY, [20121231, 20130101, 20130201]),
        (SpanPeriod.HOUR, [2012123123, 2013010100, 2013020112]),
    ],
)
def test_find_spans_divides_files_by_the_time_of_their_rows(
    tmp_path: Path, period: SpanPeriod, numbers: list[int]
) -> None:
    (tmp_path / "a.csv").write_text("t,x\n2013-02-01 12:30:00,1\n2012-12-31 23:59:59,2\n")
    (tmp_path / "b.csv").write_text("t,x\n2013-01-01T00:00:00,3\n")
    found = find_spans(str(tmp_path), "", time_column="t", period=period)
    assert [span.number for span in found] == numbers
    assert all(span.within for span in found)
    by_number = {span.number: span.files for span in found}
    assert by_number[numbers[-1]][0] == str(tmp_path / "a.csv")


def test_data_source_is_its_layout_at_a_uri() -> None:
    source = DataSource("a", "{YYYY}", "t", SpanPeriod.DAY, TextFormat(";", "latin-1", ("-",)))
    assert DataSource.of("a", source.layout) == source
