"""Tests of the values that are read of examples."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import tensorflow as tf
from tensorflow_metadata.proto.v0 import schema_pb2

from ml.examples import RowDecoder, first_values

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


def test_row_decoder_has_nan_for_infinity_and_leaves_other_columns_as_they_are() -> None:
    def serialize(number: float) -> bytes:
        features = {
            "number": tf.train.Feature(float_list=tf.train.FloatList(value=[number])),
            "text": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"inf"])),
            "whole": tf.train.Feature(int64_list=tf.train.Int64List(value=[1])),
        }
        example = tf.train.Example(features=tf.train.Features(feature=features))
        return example.SerializeToString()

    kinds = {"number": schema_pb2.FLOAT, "text": schema_pb2.BYTES, "whole": schema_pb2.INT}
    decoder = RowDecoder(
        schema_pb2.Schema(feature=[schema_pb2.Feature(name=n, type=t) for n, t in kinds.items()])
    )
    examples = np.array([serialize(n) for n in (1.5, math.inf, -math.inf, math.nan)], object)
    rows = decoder.rows(pa.Table.from_batches([decoder.batch(examples)]))
    assert rows["number"].dtype == "float32"
    np.testing.assert_array_equal(rows["number"], [1.5, math.nan, math.nan, math.nan])
    assert rows["text"].tolist() == [b"inf"] * 4
    assert rows["whole"].dtype == "int64"
