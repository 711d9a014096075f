"""Tests that TFT's analyses of files do not depend on the order in which Beam merges them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorflow_transform import analyzer_nodes, analyzers
from tensorflow_transform.beam import analyzer_impls

import components.transform.kept_analyses  # noqa: F401  Its coders of sketches.
from components.transform.ordered_merges import merge_in_order

COMBINERS = {
    "sum": analyzers.NumPyCombiner(np.sum, 0, [np.float32], [()]),
    "mean and variance": analyzers.WeightedMeanAndVarCombiner(np.float32, ()),
    "quantiles": analyzers.QuantilesCombiner(4, 0.01, np.float32),
}
FILES = st.lists(
    st.lists(st.floats(-1e6, 1e6, width=32, allow_subnormal=False), min_size=1, max_size=20),
    min_size=1,
    max_size=8,
)


def batch(kind: str, file: list[float]) -> tuple[Any, ...]:
    """What TFT gives a combiner of a batch, which it has reduced in its graph."""
    values = np.array(file, np.float32)
    return {
        "sum": (values.sum(),),
        "mean and variance": (np.array(len(file)), values.mean(), values.var(), np.array(1.0)),
        "quantiles": (values,),
    }[kind]


def as_bytes(output: Any) -> list[bytes]:
    return [np.asarray(value).tobytes() for value in output]


def combine(kind: str, bundles: list[list[list[float]]]) -> list[bytes]:
    """As Beam does: an accumulator for each bundle, merged; then the same with what came of it."""
    combiner = COMBINERS[kind]
    first = analyzer_impls._CombinerWrapper(combiner, is_combining_accumulators=False)
    made = []
    for bundle in bundles:
        accumulator = first.create_accumulator()
        for file in bundle:
            accumulator = first.add_input(accumulator, batch(kind, file))
        made.append(first.compact(accumulator))
    bag = first.extract_output(first.merge_accumulators(made))
    second = analyzer_impls._CombinerWrapper(combiner, is_combining_accumulators=True)
    merged = second.add_input(second.create_accumulator(), bag)
    return as_bytes(second.extract_output(merged))


@pytest.mark.parametrize("kind", COMBINERS)
@given(files=FILES, data=st.data())
def test_analyses_of_files_are_the_same_in_every_order_and_grouping(
    kind: str, files: list[list[float]], data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(files))
    cut = data.draw(st.integers(0, len(files)))
    expected = combine(kind, [files])
    assert combine(kind, [shuffled[:cut], shuffled[cut:]]) == expected
    assert combine(kind, [[file] for file in shuffled]) == expected


@given(files=FILES, data=st.data())
def test_merge_in_order_takes_kept_accumulators_as_new_ones(
    files: list[list[float]], data: st.DataObject
) -> None:
    kind = "mean and variance"
    combiner = COMBINERS[kind]
    new = [combiner.add_input(combiner.create_accumulator(), batch(kind, file)) for file in files]
    coder = combiner.accumulator_coder
    kept = [coder.decode_cache(coder.encode_cache(each)) for each in new]
    mixed = [data.draw(st.sampled_from(pair)) for pair in zip(new, kept, strict=True)]
    expected = combiner.extract_output(merge_in_order(combiner, new))
    found = combiner.extract_output(merge_in_order(combiner, mixed))
    assert as_bytes(found) == as_bytes(expected)


def test_accumulators_of_files_are_kept_in_one_order() -> None:
    combiner = COMBINERS["sum"]
    coder = analyzer_nodes.CacheableCombineAccumulate(combiner).cache_coder
    bag = [[np.float32(value)] for value in (3, 1, 2)]
    assert coder.encode_cache(bag) == coder.encode_cache(bag[::-1])
    decoded = coder.decode_cache(coder.encode_cache(bag))
    assert sorted(float(each[0]) for each in decoded) == [1, 2, 3]
