"""Encodes tfx_bsl's sketches as data, and checks them before its C++ code reads them.

TFDV and TensorFlow Transform count with these sketches. They store them as pickles, which can run
code, and their C++ parser reads out of bounds if a message is not one of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory, text_format
from tfx_bsl import sketches

# tfx_bsl/cc/sketches/sketches.proto, which no wheel contains for Python. Enumerations are declared
# as numbers.
_PROTO = """
name: "ml/sketches.proto" package: "ml.sketches" syntax: "proto3"
message_type {
  name: "Kmv"
  field { name: "num_buckets" number: 1 type: TYPE_INT32 label: LABEL_OPTIONAL }
  field { name: "hashes" number: 2 type: TYPE_FIXED64 label: LABEL_REPEATED }
  field { name: "max_limit" number: 3 type: TYPE_FIXED64 label: LABEL_OPTIONAL }
  field { name: "input_type" number: 4 type: TYPE_INT32 label: LABEL_OPTIONAL }
}
message_type {
  name: "MisraGries"
  field { name: "num_buckets" number: 1 type: TYPE_INT32 label: LABEL_OPTIONAL }
  field { name: "items" number: 2 type: TYPE_BYTES label: LABEL_REPEATED }
  field { name: "weights" number: 3 type: TYPE_DOUBLE label: LABEL_REPEATED }
  field { name: "delta" number: 4 type: TYPE_DOUBLE label: LABEL_OPTIONAL }
  field { name: "replace_invalid_utf8_values" number: 5 type: TYPE_BOOL label: LABEL_OPTIONAL }
  field { name: "invalid_utf8_placeholder" number: 6 type: TYPE_STRING label: LABEL_OPTIONAL }
  field { name: "large_string_threshold" number: 7 type: TYPE_INT32 label: LABEL_OPTIONAL }
  field { name: "large_string_placeholder" number: 8 type: TYPE_STRING label: LABEL_OPTIONAL }
  field { name: "extra_items" number: 9 type: TYPE_BYTES label: LABEL_REPEATED }
  field { name: "input_type" number: 11 type: TYPE_INT32 label: LABEL_OPTIONAL }
  field { name: "order_on_tie" number: 12 type: TYPE_INT32 label: LABEL_OPTIONAL }
}
message_type {
  name: "Entries"
  field { name: "value" number: 1 type: TYPE_DOUBLE label: LABEL_REPEATED }
  field { name: "weight" number: 2 type: TYPE_DOUBLE label: LABEL_REPEATED }
  field { name: "min_rank" number: 3 type: TYPE_DOUBLE label: LABEL_REPEATED }
  field { name: "max_rank" number: 4 type: TYPE_DOUBLE label: LABEL_REPEATED }
}
message_type {
  name: "Stream"
  field {
    name: "summaries" number: 1 type: TYPE_MESSAGE label: LABEL_REPEATED
    type_name: ".ml.sketches.Entries"
  }
  field {
    name: "buffer" number: 2 type: TYPE_MESSAGE label: LABEL_OPTIONAL
    type_name: ".ml.sketches.Entries"
  }
  field { name: "eps" number: 3 type: TYPE_DOUBLE label: LABEL_OPTIONAL }
  field { name: "max_num_elements" number: 4 type: TYPE_INT64 label: LABEL_OPTIONAL }
  field { name: "compacted" number: 5 type: TYPE_BOOL label: LABEL_OPTIONAL }
}
message_type {
  name: "Quantiles"
  field {
    name: "streams" number: 1 type: TYPE_MESSAGE label: LABEL_REPEATED
    type_name: ".ml.sketches.Stream"
  }
}
"""
_POOL = descriptor_pool.DescriptorPool()
_POOL.Add(text_format.Parse(_PROTO, descriptor_pb2.FileDescriptorProto()))
_MESSAGE_OF = {
    sketches.KmvSketch: "Kmv",
    sketches.MisraGriesSketch: "MisraGries",
    sketches.QuantilesSketch: "Quantiles",
}
_MOST_BUCKETS = 1 << 20
_MOST_ELEMENTS = 1 << 40
_LEAST_EPSILON = 1e-6
_MOST_LEVELS = 64


def decode(kind: Any, encoded: bytes) -> Any:
    """Decodes a sketch from the result of its `__getstate__`.

    Args:
      kind: `KmvSketch`, `MisraGriesSketch` or `QuantilesSketch`.
      encoded: The bytes.

    Returns:
      A sketch of this kind.

    Raises:
      ValueError: If the bytes are not such a sketch; C++ code has not read them then.
    """
    name = _MESSAGE_OF[kind]
    descriptor = _POOL.FindMessageTypeByName(f"ml.sketches.{name}")
    try:
        found = message_factory.GetMessageClass(descriptor).FromString(encoded)
    except message.DecodeError as error:
        raise ValueError(f"not a {name} sketch: {error}") from error
    size = found.ByteSize()
    found.DiscardUnknownFields()
    if not (size == found.ByteSize() and _CHECKS[name](found)):
        raise ValueError(f"not a {name} sketch as tfx_bsl writes it")
    sketch = kind.__new__(kind)
    # Serialized again after the check: two parsers may read one message in two ways.
    sketch.__setstate__(found.SerializeToString())
    return sketch


def _is_kmv(found: Any) -> bool:
    return (
        len(found.hashes) <= found.num_buckets <= _MOST_BUCKETS
        and found.num_buckets > 0
        and found.max_limit > 0
        and found.input_type in range(4)
    )


def _is_misra_gries(found: Any) -> bool:
    weights = np.array([*found.weights, found.delta])
    return bool(
        len(found.items) == len(found.weights) <= found.num_buckets <= _MOST_BUCKETS
        and found.num_buckets > 0
        and (np.isfinite(weights) & (weights >= 0)).all()
        and found.input_type in range(4)
        and found.order_on_tie in range(3)
    )


def _are_quantiles(found: Any) -> bool:
    parameters = {(s.eps, s.max_num_elements, s.compacted) for s in found.streams}
    return len(parameters) == 1 and all(map(_is_stream, found.streams))


def _is_stream(stream: Any) -> bool:
    return (
        _LEAST_EPSILON <= stream.eps < 1
        and 1 <= stream.max_num_elements <= _MOST_ELEMENTS
        and len(stream.summaries) <= _MOST_LEVELS
        and all(map(_is_summary, stream.summaries))
        and _is_buffer(stream.buffer)
    )


def _is_summary(entries: Any) -> bool:
    """Whether all columns have the same length, and values are ascending."""
    values, *others = (
        np.fromiter(c, np.float64)
        for c in (entries.value, entries.weight, entries.min_rank, entries.max_rank)
    )
    return bool(
        all(len(column) == len(values) and np.isfinite(column).all() for column in others)
        and not np.isnan(values).any()
        and (values[1:] > values[:-1]).all()
    )


def _is_buffer(entries: Any) -> bool:
    values, weights = (np.fromiter(c, np.float64) for c in (entries.value, entries.weight))
    return bool(
        len(values) == len(weights)
        and not (entries.min_rank or entries.max_rank or np.isnan(values).any())
        and np.isfinite(weights).all()
    )


_CHECKS = {"Kmv": _is_kmv, "MisraGries": _is_misra_gries, "Quantiles": _are_quantiles}
