"""Records of the request log: a tf.Example for each row of a request, with its prediction.

A record has the features that were sent, as the pipeline's data has them (an absent one is absent),
and the prediction, time and version:

    prediction.<output>     float_list, int64_list or bytes_list
    request.time            int64_list: Unix time in microseconds
    request.version         int64_list: version of the model

Where the model has a traffic policy also:

    request.role            bytes_list: champion or challenger
    request.shadow          int64_list: 1 where nobody waited for the prediction
    request.latency         int64_list: microseconds that the model took
    request.id              bytes_list: 16 hexadecimal digits, the same for both of a shadow
    request.row             int64_list: number of the row in its request, from 0
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from tensorflow.core.example import example_pb2

from storage.names import (
    ID_FEATURE,
    LATENCY_FEATURE,
    PREDICTION_PREFIX,
    ROLE_FEATURE,
    ROW_FEATURE,
    SHADOW_FEATURE,
    TIME_FEATURE,
    VERSION_FEATURE,
)


@dataclass(frozen=True)
class TrafficFields:
    """What a record says of the traffic.

    Attributes:
      id: Id of the request.
      role: `champion` or `challenger`.
      shadow: Whether nobody waited for the prediction.
      latency_us: Microseconds that the model took.
    """

    id: str
    role: str
    shadow: bool
    latency_us: int


def make_records(
    version: int,
    inputs: Mapping[str, np.ndarray],
    outputs: Mapping[str, np.ndarray],
    time_us: int,
    *,
    by_name: bool = False,
    traffic: TrafficFields | None = None,
) -> list[bytes]:
    """A serialized tf.Example for each row of a request.

    Args:
      version: Version that predicted.
      inputs: See `RequestLog.offer`.
      outputs: Outputs by name, each [batch, ...].
      time_us: Unix time in microseconds.
      by_name: See `RequestLog.offer`.
      traffic: See `RequestLog.offer`.

    Returns:
      The records; none if inputs and outputs have no rows in common.
    """
    rows = count_common_rows(inputs, outputs)
    if not rows:
        return []
    predictions = [(PREDICTION_PREFIX + name, *_by_row(array)) for name, array in outputs.items()]
    first, *others = inputs.values()
    serialized = not by_name and not others and first.dtype == object and first.ndim == 1
    # Of a model that does not say what its features are, a text may be one.
    serialized = serialized and all(map(_is_example, first))
    columns = [(name, *_by_row(array)) for name, array in inputs.items()]
    records = []
    for row in range(rows):
        example = example_pb2.Example()
        features = example.features.feature
        features[TIME_FEATURE].int64_list.value.append(time_us)
        features[VERSION_FEATURE].int64_list.value.append(version)
        if traffic is not None:
            features[ROLE_FEATURE].bytes_list.value.append(traffic.role.encode())
            features[SHADOW_FEATURE].int64_list.value.append(traffic.shadow)
            features[LATENCY_FEATURE].int64_list.value.append(traffic.latency_us)
            features[ID_FEATURE].bytes_list.value.append(traffic.id.encode())
            features[ROW_FEATURE].int64_list.value.append(row)
        for name, kind, values in predictions:
            getattr(features[name], kind).value.extend(values[row].tolist())
        if serialized:
            # Concatenated messages are one message with the fields of both.
            records.append(first[row] + example.SerializeToString())
            continue
        for name, kind, values in columns:
            row_values = values[row].tolist()
            if not _is_absent(row_values):
                getattr(features[name], kind).value.extend(row_values)
        records.append(example.SerializeToString())
    return records


def count_common_rows(inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> int:
    """The rows that inputs and outputs have in common; 0 if they have none."""
    if not inputs or not outputs:
        return 0
    rows = {len(array) if array.ndim else 0 for array in (*inputs.values(), *outputs.values())}
    return rows.pop() if len(rows) == 1 else 0


def _by_row(array: np.ndarray) -> tuple[str, np.ndarray]:
    """The kind of feature for an array [batch, ...], and its values, [batch, n].

    A complex number is its real part and then its imaginary part.
    """
    flat = array.reshape(len(array), -1)
    if array.dtype == object:
        return "bytes_list", flat
    if array.dtype.kind in "iub":
        return "int64_list", flat.astype(np.int64)
    if array.dtype.kind == "c":
        return "float_list", np.stack([flat.real, flat.imag], axis=2).reshape(len(array), -1)
    # bfloat16 is of no kind that numpy knows.
    return "float_list", flat if array.dtype.kind == "f" else flat.astype(np.float32)


def _is_example(text: bytes) -> bool:
    """Whether a string is a serialized tf.Example and nothing else."""
    try:
        example = example_pb2.Example.FromString(text)
    except DecodeError:
        return False
    return bool(example.features.feature) or not text


def _is_absent(values: list[Any]) -> bool:
    """Whether a row says, as raw columns do, that there is no value: by "" or NaN."""
    return len(values) == 1 and (values[0] == b"" or values[0] != values[0])
