"""Arrays and tensors for property tests, good ones and others."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from tensorflow.core.framework import tensor_pb2, types_pb2

from serving.server.signatures import PROTO_DTYPES
from tests.serving.server.running import strings

SHAPES = st_numpy.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3)


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    """Arrays of any dtype and small shape."""
    dtype, shape = draw(st.sampled_from(list(PROTO_DTYPES))), draw(SHAPES)
    if dtype.kind == "V":  # bfloat16, which hypothesis does not know
        return draw(st_numpy.arrays(np.float32, shape)).astype(dtype)
    if dtype.kind != "O":
        return draw(st_numpy.arrays(dtype, shape))
    size = int(np.prod(shape))
    return strings(*draw(st.lists(st.binary(), min_size=size, max_size=size))).reshape(shape)


SIZES = st.one_of(st.integers(-2, 4), st.sampled_from([10**6, 10**12, 2**31, 2**62, 2**63 - 1]))
DTYPES = st.sampled_from([*types_pb2.DataType.values(), 77])


@st.composite
def tensors(draw: st.DrawFn) -> tensor_pb2.TensorProto:
    """Tensors that are now and then what they should be."""
    proto = tensor_pb2.TensorProto(dtype=draw(DTYPES))
    proto.tensor_shape.unknown_rank = draw(st.integers(0, 9)) == 0
    for size in draw(st.lists(SIZES, max_size=draw(st.sampled_from([1, 3, 70])))):
        proto.tensor_shape.dim.add(size=size)
    if draw(st.booleans()):
        proto.tensor_content = draw(st.binary(max_size=40))
    proto.float_val.extend(draw(st.lists(st.floats(width=32), max_size=4)))
    proto.double_val.extend(draw(st.lists(st.floats(), max_size=4)))
    proto.int_val.extend(draw(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4)))
    proto.int64_val.extend(draw(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4)))
    proto.uint32_val.extend(draw(st.lists(st.integers(0, 2**32 - 1), max_size=4)))
    proto.uint64_val.extend(draw(st.lists(st.integers(0, 2**64 - 1), max_size=4)))
    proto.bool_val.extend(draw(st.lists(st.booleans(), max_size=4)))
    proto.string_val.extend(draw(st.lists(st.binary(max_size=300), max_size=4)))
    return proto
