"""Tests that TFRecord files are read as TensorFlow reads them."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from serving.server import record_file
from serving.server.record_file import read_record_file


def write(path: Path, records: list[bytes]) -> None:
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)


@given(st.lists(st.binary(max_size=300)))
def test_read_record_file_gives_what_tensorflow_wrote(records: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "records")
        write(path, records)
        assert list(read_record_file(path)) == records


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=3), st.data())
def test_read_record_file_refuses_each_changed_byte_and_each_cut(
    records: list[bytes], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "records")
        write(path, records)
        content = path.read_bytes()
        place = data.draw(st.integers(0, len(content) - 1))
        change = data.draw(st.integers(1, 255))
        path.write_bytes(content[:place] + bytes([content[place] ^ change]) + content[place + 1 :])
        with pytest.raises(ValueError, match=r"checksum|truncated"):
            list(read_record_file(path))
        ends = {0}
        for record in records:
            ends.add(max(ends) + len(record) + 16)
        cut = data.draw(st.sampled_from(sorted(set(range(len(content))) - ends)))
        path.write_bytes(content[:cut])
        with pytest.raises(ValueError, match="truncated"):
            list(read_record_file(path))


@pytest.mark.parametrize("length", [20, 1 << 40, (1 << 64) - 1])
def test_read_record_file_takes_no_memory_for_a_record_that_is_not_there(
    length: int, tmp_path: Path
) -> None:
    header = length.to_bytes(8, "little")
    checksum = record_file._masked_crc32c(header).to_bytes(4, "little")
    path = tmp_path / "records"
    path.write_bytes(header + checksum + b"short")
    with pytest.raises(ValueError, match="truncated"):
        list(read_record_file(path))
