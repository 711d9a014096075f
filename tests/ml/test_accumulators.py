"""Tests that TFDV's accumulators come back as they were, and that other bytes are refused."""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tensorflow_data_validation as tfdv
from hypothesis import given
from hypothesis import strategies as st
from tensorflow_data_validation.statistics import stats_impl
from tfx_bsl.sketches import KmvSketch, MisraGriesSketch, QuantilesSketch

from ml import accumulators, sketches

ROWS = 3000


@pytest.fixture(scope="module")
def generators() -> list[Any]:
    found = stats_impl.get_generators(tfdv.StatsOptions(), in_memory=True)
    for generator in found:
        generator.setup()
    return list(found)


@pytest.fixture(scope="module")
def count(generators: list[Any]) -> Callable[[int], list[Any]]:
    def run(seed: int) -> list[Any]:
        chance = np.random.default_rng(seed)
        numbers = chance.normal(size=ROWS).astype(np.float32)
        numbers[:3] = np.nan, np.inf, -np.inf
        columns: dict[str, np.ndarray] = {
            "float": numbers,
            "int": chance.integers(-(2**40), 2**40, ROWS),
            "é.text": chance.choice([b"a", b"\xff", "ü".encode()], ROWS),
        }
        batch = pa.RecordBatch.from_pydict(
            {k: pa.array([[value] for value in v.tolist()]) for k, v in columns.items()}
            | {
                "absent": pa.array([None] * ROWS, pa.list_(pa.float32())),
                "nested": pa.array([[[1, 2], [3]]] * ROWS),
            }
        )
        counted = [g.add_input(g.create_accumulator(), batch) for g in generators]
        return [g.compact(a) for g, a in zip(generators, counted, strict=True)]

    return run


def test_accumulators_merge_to_the_same_statistics_after_they_were_kept(
    generators: list[Any], count: Callable[[int], list[Any]]
) -> None:
    def merge(*counted: list[Any]) -> str:
        merged = [
            g.merge_accumulators(list(a))
            for g, a in zip(generators, zip(*counted, strict=True), strict=True)
        ]
        # As text: the mean of two infinities is no number, of either sign.
        return str(stats_impl.extract_statistics_output(merged, generators)).replace("-nan", "nan")

    kept = [accumulators.decode(accumulators.encode(count(seed))) for seed in (1, 2)]
    assert merge(*kept) == merge(count(1), count(2))


def test_encode_refuses_what_it_does_not_know() -> None:
    for unknown in (object(), {"a": 1}, np.zeros(3), "text"):
        with pytest.raises(ValueError, match="nothing that accumulators are known to hold"):
            accumulators.encode([unknown])


@given(content=st.binary(max_size=60))
def test_decode_refuses_other_bytes(content: bytes) -> None:
    trees = (b"[" * 100_000, b'["list", ["_CombinedSketch", {"__class__": 1}]]', b'["number"]')
    for damaged in (content, *map(zlib.compress, (content, *trees))):
        with pytest.raises(ValueError, match="no accumulators"):
            accumulators.decode(damaged)


LEAF = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
NAMES = st.sampled_from(["list", "number", "features", *accumulators._RECORDS, "KmvSketch"])
TREES = st.recursive(
    LEAF,
    lambda inner: (
        st.lists(NAMES | inner, max_size=4)
        | st.dictionaries(st.sampled_from(["_dict", "count", "__class__", "x"]), inner, max_size=2)
    ),
    max_leaves=8,
)


@given(tree=TREES)
def test_decode_makes_accumulators_of_a_tree_or_refuses_it(tree: Any) -> None:
    try:
        found = accumulators.decode(zlib.compress(json.dumps(tree).encode()))
    except ValueError:
        return
    assert isinstance(found, list)


def test_decode_refuses_what_unpacks_to_more_than_memory() -> None:
    with pytest.raises(ValueError, match="cut or too large"):
        accumulators.decode(zlib.compress(b" " * ((1 << 28) + 1)))


def quantiles() -> QuantilesSketch:
    sketch = QuantilesSketch(0.01, 1 << 32, 1)
    sketch.AddValues(pa.array(np.random.default_rng(0).random(ROWS)))
    sketch.Compact()
    return sketch


def kmv() -> KmvSketch:
    sketch = KmvSketch(64)
    sketch.AddValues(pa.array([f"{i}" for i in range(ROWS)]))
    return sketch


def misra_gries() -> MisraGriesSketch:
    sketch = MisraGriesSketch(64, b"invalid", 1024, b"large")
    sketch.AddValues(pa.array([b"%d" % (i % 50) for i in range(ROWS)]))
    return sketch


SKETCHES = [quantiles, kmv, misra_gries]


@pytest.mark.parametrize("make", SKETCHES)
def test_sketch_is_as_it_was(make: Callable[[], Any]) -> None:
    sketch = make()
    found = sketches.decode(type(sketch), sketch.__getstate__())
    ask = "GetQuantiles" if make is quantiles else "Estimate"
    arguments = [100] if make is quantiles else []
    assert getattr(found, ask)(*arguments) == getattr(make(), ask)(*arguments)


@pytest.mark.parametrize("make", SKETCHES)
def test_sketch_of_damaged_bytes_is_refused_or_whole(make: Callable[[], Any]) -> None:
    """The C++ parser alone ends the process on some of these."""
    chance = random.Random(3)
    kind, whole = type(make()), bytes(make().__getstate__())
    refused = 0
    for _ in range(300):
        damaged = bytearray(
            whole[: chance.randrange(len(whole))] if chance.random() < 0.3 else whole
        )
        for _ in range(chance.randrange(4)):
            if damaged:
                most = len(damaged) if chance.random() < 0.5 else min(len(damaged), 60)
                damaged[chance.randrange(most)] = chance.randrange(256)
        try:
            found = sketches.decode(kind, bytes(damaged))
        except ValueError:
            refused += 1
            continue
        target = make()
        try:
            target.Merge(found)
        except RuntimeError:  # Of other parameters.
            continue
        target.GetQuantiles(100) if make is quantiles else target.Estimate()
    assert refused > 50


@pytest.mark.parametrize("make", SKETCHES)
def test_sketch_of_another_kind_or_nothing_is_refused(make: Callable[[], Any]) -> None:
    for encoded in (b"", *(bytes(m().__getstate__()) for m in SKETCHES if m is not make)):
        with pytest.raises(ValueError, match="these bytes are no"):
            sketches.decode(type(make()), encoded)
