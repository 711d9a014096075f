"""Tests that examples are decoded as tfx_bsl decodes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx_bsl.coders import example_coder

from ml.record_batches import RecordBatchDecoder, read_record_batches
from storage.errors import DataError
from storage.tfrecords import open_records

KINDS = {"text": schema_pb2.BYTES, "whole": schema_pb2.INT, "number": schema_pb2.FLOAT}
SCHEMA = schema_pb2.Schema(
    feature=[schema_pb2.Feature(name=name, type=kind) for name, kind in KINDS.items()]
)
VALUES = {
    "text": st.binary(max_size=8),
    "whole": st.integers(-(2**63), 2**63 - 1),
    "number": st.floats(width=32),
}
# An absent feature, or one with values.
ROWS = st.lists(
    st.fixed_dictionaries(
        {}, optional={n: st.lists(v, min_size=1, max_size=3) for n, v in VALUES.items()}
    ),
    max_size=6,
)


def serialize(row: dict[str, list[object]]) -> bytes:
    lists = {"text": "bytes_list", "whole": "int64_list", "number": "float_list"}
    example = tf.train.Example()
    for name, values in row.items():
        getattr(example.features.feature[name], lists[name]).value.extend(values)
    return bytes(example.SerializeToString())


@given(ROWS)
def test_record_batch_decoder_decodes_as_tfx_bsl(rows: list[dict[str, list[object]]]) -> None:
    examples = [*map(serialize, rows)]
    expected = example_coder.ExamplesToRecordBatchDecoder(SCHEMA.SerializeToString())
    decoder = _DECODER
    assert decoder.arrow_schema.equals(expected.ArrowSchema())
    found = decoder.decode(np.array(examples, object))
    found.validate(full=True)
    assert found.num_rows == len(rows)
    if not rows:
        return
    wanted = expected.DecodeBatch(examples)
    for name in KINDS:
        column, other = (
            batch.column(batch.schema.get_field_index(name)) for batch in (found, wanted)
        )
        assert column.is_valid().equals(other.is_valid())
        ours, theirs = (each.flatten().to_pylist() for each in (column, other))
        assert repr(ours) == repr(theirs)  # NaN too.


_DECODER = RecordBatchDecoder(SCHEMA)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (b"\xff\xff", "a record of the examples is no tf.Example$"),
        (b"secret", "a record of the examples is no tf.Example$"),
        (serialize({"text": [b"x"]}), "a row does not fit the schema: .*text.*int64"),
    ],
)
def test_record_batch_decoder_refuses_what_the_schema_does_not_allow(
    broken: bytes, message: str
) -> None:
    schema = schema_pb2.Schema(feature=[schema_pb2.Feature(name="text", type=schema_pb2.INT)])
    with pytest.raises(DataError, match=message):
        RecordBatchDecoder(schema).decode([broken])


def test_read_record_batches_reads_files_in_their_order(tmp_path: Path) -> None:
    files = [str(tmp_path / name) for name in ("b.gz", "a.gz")]
    for number, file in enumerate(files):
        with open_records(file) as out:
            for row in range(3):
                out.write(serialize({"whole": [10 * number + row]}))
    batches = [*read_record_batches(files, SCHEMA, 4)]
    assert [batch.num_rows for batch in batches] == [4, 2]
    whole = [batch.column(batch.schema.get_field_index("whole")) for batch in batches]
    assert [*whole[0].flatten().to_pylist(), *whole[1].flatten().to_pylist()] == [
        0,
        1,
        2,
        10,
        11,
        12,
    ]
    assert [*read_record_batches(files, schema_pb2.Schema(), 4)]
