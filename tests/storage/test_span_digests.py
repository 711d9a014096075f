"""Tests that the digest of a span tells what its files hold, not where or how old they are."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from storage.errors import DataError
from storage.span_digests import digest_spans
from storage.span_store import SpanStore
from storage.spans import DataSource, find_spans

NAMES = ("span-201301", "span-201302")


def write(root: Path) -> DataSource:
    for name in NAMES:
        (root / name).mkdir(parents=True)
        (root / name / "rows.parquet").write_bytes(name.encode() * 1000)
    return source(root)


def source(root: Path) -> DataSource:
    return DataSource(str(root), "span-{YYYY}{MM}")


def digests(data: DataSource, store: SpanStore | None = None) -> dict[str, str]:
    return digest_spans(data, find_spans(data), store)


def test_digest_spans_is_the_same_for_a_copy_of_another_age(tmp_path: Path) -> None:
    here = write(tmp_path / "here")
    there = Path(shutil.copytree(tmp_path / "here", tmp_path / "there"))
    os.utime(there / NAMES[0] / "rows.parquet", (1, 1))
    assert digests(source(there)) == digests(here)
    assert list(digests(here)) == ["201301", "201302"]


def test_digest_spans_tells_which_span_changed(tmp_path: Path) -> None:
    before = digests(write(tmp_path))
    path = tmp_path / NAMES[1] / "rows.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"3")
    after = digests(source(tmp_path))
    assert [number for number in before if before[number] != after[number]] == ["201302"]


def test_digest_spans_counts_names_of_files(tmp_path: Path) -> None:
    before = digests(write(tmp_path))
    (tmp_path / NAMES[0] / "rows.parquet").rename(tmp_path / NAMES[0] / "others.parquet")
    assert digests(source(tmp_path))["201301"] != before["201301"]


def test_digest_spans_reads_a_file_again_only_if_it_changed(tmp_path: Path) -> None:
    data, store = write(tmp_path / "data"), SpanStore(str(tmp_path / "store"))
    before = digests(data, store)
    spans = find_spans(data)
    path = tmp_path / "data" / NAMES[0] / "rows.parquet"
    age = path.stat().st_mtime_ns
    path.write_bytes(b"x" * path.stat().st_size)
    os.utime(path, ns=(age, age))  # As large and as old as before: it is not read.
    assert digest_spans(data, spans, store) == before
    os.utime(path, ns=(age + 1, age + 1))
    assert digests(data, store)["201301"] != before["201301"]


def test_digest_spans_makes_a_damaged_entry_again(tmp_path: Path) -> None:
    data, store = write(tmp_path / "data"), SpanStore(str(tmp_path / "store"))
    before = digests(data, store)
    for entry in (tmp_path / "store").rglob("content-*"):
        entry.write_bytes(b"not a digest")
    assert digests(data, store) == before


def test_digest_spans_names_a_file_that_is_gone(tmp_path: Path) -> None:
    data = write(tmp_path)
    spans = find_spans(data)
    (tmp_path / NAMES[0] / "rows.parquet").unlink()
    with pytest.raises(DataError, match=r"span-201301/rows\.parquet cannot be read"):
        digest_spans(data, spans)
