"""Tests of the values that are read of examples."""

from __future__ import annotations

import pyarrow as pa

from ml.examples import first_values

TEXTS = pa.large_list(pa.large_binary())


def test_first_values_has_one_object_for_equal_texts_of_all_batches() -> None:
    batches = [pa.array([[b"a"], [b"b"], None]), pa.array([[], [b"a", b"c"]] * 1000)]
    values = first_values(pa.chunked_array([batch.cast(TEXTS) for batch in batches]))
    assert values.tolist() == [b"a", b"b", None, *[None, b"a"] * 1000]
    assert len(set(map(id, values))) == 3


def test_first_values_of_numbers_keeps_their_type_unless_one_is_absent() -> None:
    whole = pa.chunked_array([pa.array([[1], [2, 3]])])
    assert first_values(whole).dtype == "int64"
    assert first_values(whole).tolist() == [1, 2]
    absent = first_values(pa.chunked_array([pa.array([[1], None])]))
    assert absent.dtype == "float64"
    assert absent[0] == 1
    assert absent[1] != absent[1]
