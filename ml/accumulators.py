"""Keeps TFDV's accumulators as data: a file of them can hold numbers and sketches, and no code."""

from __future__ import annotations

import io
import json
import zlib
from typing import Any

import numpy as np

# TFDV has no public module of what its statistics are merged from. These classes are the same in
# the versions that belong to TFX 1.16 and 1.21.
from tensorflow_data_validation.statistics.generators import basic_stats_generator as basic
from tensorflow_data_validation.statistics.generators import (
    top_k_uniques_sketch_stats_generator as top_k,
)
from tensorflow_data_validation.types import FeaturePath
from tensorflow_data_validation.utils import variance_util
from tfx_bsl.sketches import KmvSketch, MisraGriesSketch, QuantilesSketch

from ml import sketches

_SKETCHES = {kind.__name__: kind for kind in (KmvSketch, MisraGriesSketch, QuantilesSketch)}
_RECORDS = {
    kind.__name__: kind
    for kind in (
        basic._BasicAcctype,
        basic._PartialBasicStats,
        basic._PartialBytesStats,
        basic._PartialCommonStats,
        basic._PartialNumericStats,
        basic._PartialStringStats,
        basic._PresenceAndValencyStats,
        top_k._CombinedSketch,
        variance_util.MeanVarAccumulator,
        variance_util.WeightedMeanVarAccumulator,
    )
}
_FIELDS = {
    name: frozenset(getattr(kind, "__slots__", None) or vars(kind()))
    for name, kind in _RECORDS.items()
}
_NUMBERS = "biuf"  # Kinds of numpy's dtypes.
_MOST_BYTES = 1 << 28


def encode(accumulators: list[Any]) -> bytes:
    """Accumulators of TFDV's generators as bytes.

    Raises:
      ValueError: If a generator's accumulators are of another kind.
    """
    parts: list[bytes] = []
    tree = json.dumps(_to_json(accumulators, parts)).encode()
    # Quantiles are doubles that hardly repeat: higher levels take longer and save little.
    return zlib.compress(b"\n".join([tree, b"".join(parts)]), 1)


def decode(encoded: bytes) -> list[Any]:
    """The accumulators that were encoded.

    Raises:
      ValueError: If these bytes are none.
    """
    try:
        stream = zlib.decompressobj()
        content = stream.decompress(encoded, _MOST_BYTES)
        if not stream.eof:
            raise ValueError("it is cut or too large")
        tree, _, parts = content.partition(b"\n")
        accumulators = _from_json(json.loads(tree), io.BytesIO(parts))
    except (
        *(ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError),
        zlib.error,
    ) as error:
        raise ValueError(f"these are no accumulators: {error}") from error
    if not isinstance(accumulators, list):
        raise ValueError("these are no accumulators")
    return accumulators


def _to_json(value: Any, parts: list[bytes]) -> Any:
    """Numbers as they are; of anything else a list, which begins with what it is.

    Args:
      value: Accumulators, or something in them.
      parts: What JSON cannot hold is added here; its length stands in its place.
    """
    kind = type(value)
    if value is None or kind in (bool, int, float):
        return value
    if isinstance(value, np.generic) and value.dtype.kind in _NUMBERS:
        return ["number", value.dtype.str, value.item()]
    if kind is list:
        return ["list", *(_to_json(element, parts) for element in value)]
    if kind is dict and all(type(key) is FeaturePath for key in value):
        return ["features", *([list(key.steps()), _to_json(v, parts)] for key, v in value.items())]
    name = kind.__name__
    if _SKETCHES.get(name) is kind:
        parts.append(value.__getstate__())
        return [name, len(parts[-1])]
    if _RECORDS.get(name) is kind:
        fields = {field: getattr(value, field) for field in _FIELDS[name] if hasattr(value, field)}
        return [name, {field: _to_json(v, parts) for field, v in fields.items()}]
    raise ValueError(f"{kind} is nothing that accumulators are known to hold")


def _from_json(value: Any, parts: io.BytesIO) -> Any:
    if not isinstance(value, list):
        if isinstance(value, str | dict):
            raise ValueError("a number is expected")
        return value
    name, *content = value
    if name == "number":
        kind, number = content
        dtype = np.dtype(kind)
        if dtype.kind not in _NUMBERS or not isinstance(number, bool | int | float):
            raise ValueError(f"{kind} is no number")
        return dtype.type(number)
    if name == "list":
        return [_from_json(element, parts) for element in content]
    if name == "features":
        return {FeaturePath(map(_text, steps)): _from_json(v, parts) for steps, v in content}
    (only,) = content
    if name in _SKETCHES:
        return sketches.decode(_SKETCHES[name], parts.read(only))
    record = _RECORDS[name].__new__(_RECORDS[name])
    for field, number in only.items():
        if field not in _FIELDS[name]:
            raise ValueError(f"{name} has no {field}")
        setattr(record, field, _from_json(number, parts))
    return record


def _text(step: Any) -> str:
    if not isinstance(step, str):
        raise ValueError("a feature's name is text")
    return step
