"""Tests that tensors of the protocol become the arrays that TensorFlow reads in them, or errors."""

from __future__ import annotations

import grpc
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from hypothesis import example, given, settings
from tensorflow.core.framework import tensor_pb2, types_pb2

from serving.server.errors import ServingError
from serving.server.signatures import PROTO_DTYPES, Signature, TensorInfo
from serving.server.tensors import check_inputs, to_array, to_proto
from tests.serving.server.tensor_strategies import arrays, tensors

MAX_BYTES = 1000


def assert_equal(found: np.ndarray, expected: np.ndarray) -> None:
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    if found.dtype == object:
        assert found.tolist() == expected.tolist()
    else:
        assert found.tobytes() == expected.tobytes()


@given(arrays())
def test_what_tensorflow_writes_is_read(array: np.ndarray) -> None:
    proto = tf.make_tensor_proto(array, tf.string if array.dtype == object else None, array.shape)
    assert_equal(to_array("x", proto, 10**6), array)


@given(arrays())
def test_what_is_written_is_read_by_tensorflow_and_here(array: np.ndarray) -> None:
    # Infinity times zero and NaNs with a payload come back as NaN.
    if array.dtype.kind == "f":
        array = np.where(np.isnan(array), array.dtype.type(np.nan), array)
    proto = to_proto(array)
    assert not proto.tensor_content  # TensorFlow Serving answers in the fields of the dtype.
    assert_equal(to_array("x", proto, 10**6), array)
    assert_equal(np.asarray(tf.make_ndarray(proto)).reshape(array.shape), array)


@pytest.mark.parametrize("dtype", [d for d in PROTO_DTYPES if d.kind != "O"], ids=str)
def test_the_last_value_stands_for_those_that_are_missing(dtype: np.dtype) -> None:
    proto = to_proto(np.array([1, 0], dtype))
    proto.tensor_shape.dim[0].size = 5
    expected = np.array([1, 0, 0, 0, 0], dtype)
    assert_equal(to_array("x", proto, MAX_BYTES), expected)
    assert_equal(tf.make_ndarray(proto), expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dtype: DT_FLOAT tensor_shape {dim {size: 1000000000000}} float_val: 1", "larger than"),
        ("dtype: DT_STRING tensor_shape {dim {size: 126}} string_val: ''", "larger than"),
        (f"dtype: DT_STRING tensor_shape {{dim {{size: 25}}}} string_val: '{50 * 'x'}'", "larger"),
        ("dtype: DT_FLOAT tensor_shape {dim {size: -1}}", r"no complete shape: \[-1\]"),
        ("dtype: DT_FLOAT tensor_shape {unknown_rank: true}", "no complete shape"),
        (
            f"dtype: DT_FLOAT tensor_shape {{{100 * 'dim {size: 1}'}}} float_val: 1",
            "100 dimensions",
        ),
        (
            "dtype: DT_FLOAT tensor_shape {dim {size: 0} dim {size: 4611686018427387904}"
            "dim {size: 4611686018427387904}}",
            "larger than",
        ),
        ("dtype: DT_FLOAT tensor_shape {dim {size: 2}} tensor_content: '1234567'", "7 bytes"),
        ("dtype: DT_STRING tensor_shape {dim {size: 1}} tensor_content: 'a'", "0 values, not 1"),
        ("dtype: DT_FLOAT tensor_shape {dim {size: 2}} int_val: [1, 2]", "0 values, not 2"),
        ("dtype: DT_INT64 tensor_shape {dim {size: 1}} int64_val: [1, 2]", "2 values, not 1"),
        ("dtype: DT_FLOAT tensor_shape {} float_val: [1, 2]", r"shape \[\] has 2 values, not 1"),
        ("dtype: DT_COMPLEX64 tensor_shape {dim {size: 1}} scomplex_val: 1", "half a complex"),
        ("dtype: DT_QINT8 tensor_shape {dim {size: 1}} int_val: 1", "DT_QINT8"),
        ("dtype: DT_VARIANT tensor_shape {dim {size: 1}} variant_val {}", "DT_VARIANT"),
        ("dtype: 77 tensor_shape {dim {size: 1}}", "dtype 77"),
        ("tensor_shape {dim {size: 1}} float_val: 1", "DT_INVALID"),
        ("", "DT_INVALID"),
    ],
)
def test_a_tensor_that_is_none_is_refused_by_its_name(text: str, message: str) -> None:
    proto = text_format.Parse(text, tensor_pb2.TensorProto())
    with pytest.raises(ServingError, match=message) as refused:
        to_array("distance", proto, MAX_BYTES)
    assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert 'input "distance"' in refused.value.message


@settings(max_examples=300)
@given(tensors())
@example(
    text_format.Parse(
        "dtype: DT_FLOAT tensor_shape {dim {size: 0} dim {size: 4611686018427387904}}",
        tensor_pb2.TensorProto(),
    )
)
def test_any_tensor_is_an_array_of_bounded_size_or_an_error(proto: tensor_pb2.TensorProto) -> None:
    refusal = None
    try:
        array = to_array("x", proto, MAX_BYTES)
    except ServingError as error:
        refusal = error
    if refusal:
        assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
        return
    assert list(array.shape) == [dim.size for dim in proto.tensor_shape.dim]
    assert PROTO_DTYPES[array.dtype] == proto.dtype
    size = sum(map(len, array.ravel())) if array.dtype == object else array.nbytes
    assert size <= MAX_BYTES + proto.ByteSize()


class TestCheckInputs:
    SIGNATURE = Signature(
        {
            "a": TensorInfo(types_pb2.DT_FLOAT, (None,)),
            "b": TensorInfo(types_pb2.DT_STRING, (None, 2)),
            "c": TensorInfo(types_pb2.DT_INT64, None),
        },
        {},
    )
    GOOD = {  # noqa: RUF012
        "a": np.zeros(3, np.float32),
        "b": np.full((3, 2), b"", object),
        "c": np.zeros((5, 5), np.int64),
    }

    def test_inputs_that_fit_pass(self) -> None:
        check_inputs(self.SIGNATURE, self.GOOD)

    def test_inputs_may_differ_in_their_first_size(self) -> None:
        check_inputs(self.SIGNATURE, {**self.GOOD, "a": np.zeros(1, np.float32)})

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"d": np.zeros(3)}, r"4!=3. Sent extra: \{d\}. Missing but required: \{\}"),
            ({"a": None}, r"2!=3. Sent extra: \{\}. Missing but required: \{a\}"),
            ({"a": None, "A": np.zeros(3)}, r"Sent extra: \{A\}. Missing but required: \{a\}"),
            ({"a": np.zeros(3)}, '"a" has the dtype double, float is expected'),
            ({"b": np.zeros((3, 2))}, '"b" has the dtype double, string is expected'),
            ({"a": np.zeros((), np.float32)}, r'"a" has the shape \[\], \[\?\] is expected'),
            ({"a": np.zeros((3, 1), np.float32)}, r'"a" has the shape \[3, 1\], \[\?\] is'),
            ({"b": np.full((3, 3), b"", object)}, r'"b" has the shape \[3, 3\], \[\?, 2\] is'),
        ],
    )
    def test_what_does_not_fit_is_named(
        self, change: dict[str, np.ndarray | None], message: str
    ) -> None:
        inputs = {k: v for k, v in {**self.GOOD, **change}.items() if v is not None}
        with pytest.raises(ServingError, match=message) as refused:
            check_inputs(self.SIGNATURE, inputs)
        assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT

    def test_a_dtype_that_the_server_cannot_take_is_named(self) -> None:
        signature = Signature({"x": TensorInfo(types_pb2.DT_HALF, (None,))}, {})
        with pytest.raises(ServingError, match='"x" has the dtype float, half is expected'):
            check_inputs(signature, {"x": np.zeros(3, np.float32)})
