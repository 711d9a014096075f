"""Tests that what is kept of a span is whole or not there, and does not grow for ever."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.span_store import STORE_VARIABLE, ShardName, SpanStore

DAY = 24 * 60 * 60


@pytest.fixture
def store(tmp_path: Path) -> SpanStore:
    return SpanStore(str(tmp_path / "store"))


def test_span_store_reads_by_kind_month_and_key(store: SpanStore) -> None:
    store.write("a", 201301, "k", b"one")
    store.write("b", 201301, "k", b"two")
    assert store.read("a", 201301, "k") == b"one"
    assert store.read("b", 201301, "k") == b"two"
    assert store.read("a", 201302, "k") is None
    assert store.read("a", 201301, "l") is None


def test_span_store_has_no_entry_of_a_killed_write(store: SpanStore, tmp_path: Path) -> None:
    """What is not renamed yet is not read, and does not outlive its kind's other entries."""
    store.write("a", 201301, "k", b"one")
    (whole,) = (tmp_path / "store/201301").iterdir()
    whole.rename(whole.with_name(whole.name + ".0123.part"))
    assert store.read("a", 201301, "k") is None
    age(tmp_path / "store", 401)
    store.write("a", 201301, "k", b"two")
    assert [path.read_bytes() for path in (tmp_path / "store/201301").iterdir()] == [b"two"]


def test_span_store_deletes_entries_older_than_a_year_when_a_month_is_written(
    store: SpanStore, tmp_path: Path
) -> None:
    for kind, month in (("a", 201301), ("b", 201301), ("a", 201302)):
        store.write(kind, month, "old", b"old")
    age(tmp_path / "store", 401)
    store.write("a", 201301, "young", b"young")
    age(tmp_path / "store", 399, "a-young")
    store.write("a", 201301, "new", b"new")
    names = {str(p.relative_to(tmp_path / "store")) for p in (tmp_path / "store").rglob("*-*")}
    assert names == {"201301/a-young", "201301/a-new", "201301/b-old", "201302/a-old"}


def test_span_store_that_nothing_was_written_to_has_no_outdated_entries(store: SpanStore) -> None:
    assert list(store.outdated()) == []


def test_span_store_accepts_a_name_that_is_not_utf8(store: SpanStore, tmp_path: Path) -> None:
    store.write("a", 201301, "k", b"one")
    (tmp_path / "store/201301" / os.fsdecode(b"a-\xff")).touch()
    store.write("a", 201301, "l", b"two")
    assert store.read("a", 201301, "l") == b"two"


def age(root: Path, days: int, name: str = "*") -> None:
    for path in root.rglob(name):
        before = time.time() - days * DAY
        os.utime(path, (before, before))


def test_span_store_that_cannot_be_used_keeps_nothing_and_stops_no_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = SpanStore(str(tmp_path / "file"))
    store.write("a", 201301, "k", b"one")
    assert "The result of 201301 cannot be kept" in caplog.text
    assert store.read("a", 201301, "k") is None


def test_span_store_without_a_directory_keeps_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(STORE_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    store = SpanStore.of_environment()
    store.write("a", 201301, "k", b"one")
    assert store.read("a", 201301, "k") is None
    assert list(tmp_path.iterdir()) == []


@given(
    st.builds(
        ShardName,
        span=st.integers(0, 2999123123),
        piece=st.integers(0, 99),
        number=st.integers(0, 10**6),
        key=st.text("0123456789abcdef", min_size=1),
    )
)
def test_shard_name_is_parsed_as_it_was_written(name: ShardName) -> None:
    assert ShardName.parse(str(name)) == name


def test_shard_name_is_none_for_other_files() -> None:
    for name in (
        "data_tfrecord-00000-of-00001.gz",
        "span-201301.gz",
        "span-201301-0-0000-ab.gz.part",
    ):
        assert ShardName.parse(name) is None
