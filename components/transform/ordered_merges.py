"""Has TFT merge the accumulators of files in one order, whatever order Beam has them in.

Sums of floating-point numbers and sketches depend on the order and the grouping of what is merged,
and Beam takes what comes first: another runner, number of workers or kept analysis made another
model of the same rows. So an accumulator of one file is never merged with another before the end,
where they are all sorted by their encoded bytes and merged at once.

There is no public way to replace TFT's own merging. Beam pickles `_OrderedCombine` by the name of
this module, so that a worker imports it, and replaces it too.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from typing import Any

import apache_beam as beam
import tensorflow as tf
from tensorflow_transform import analyzer_nodes
from tensorflow_transform.beam import analyzer_impls

_ANY = beam.coders.FastPrimitivesCoder()
# The accumulators of single files, in any order.
_Unmerged = list[Any]


class _OrderedCombine(beam.CombineFn):
    """A combiner of TFT as a function of Beam; replaces `analyzer_impls._CombinerWrapper`.

    Args:
      combiner: The combiner.
      is_combining_accumulators: False to make accumulators of batches, True to merge what another
        one made.
    """

    def __init__(self, combiner: analyzer_nodes.Combiner, is_combining_accumulators: bool):
        self._combiner = combiner
        self._merges = is_combining_accumulators

    def create_accumulator(self) -> _Unmerged:
        return []

    def add_input(self, accumulator: _Unmerged, element: Any) -> _Unmerged:
        if self._merges:
            accumulator.extend(element)
        else:
            of_file = self._combiner.add_input(self._combiner.create_accumulator(), element)
            accumulator.append(self._combiner.compact(of_file))
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[_Unmerged]) -> _Unmerged:
        return [of_file for accumulator in accumulators for of_file in accumulator]

    def compact(self, accumulator: _Unmerged) -> _Unmerged:
        return accumulator

    def extract_output(self, accumulator: _Unmerged) -> Any:
        if not self._merges:
            return accumulator
        return self._combiner.extract_output(merge_in_order(self._combiner, accumulator))


def merge_in_order(combiner: analyzer_nodes.Combiner, accumulators: Iterable[Any]) -> Any:
    """Merges accumulators, with the same result for every order of them.

    Each is encoded and decoded first, as if it had been kept by an earlier run.

    Args:
      combiner: What made them.
      accumulators: The accumulators, which may change.

    Returns:
      The merged accumulator.
    """
    coder = combiner.accumulator_coder
    if coder is None:  # TFT keeps none of these.
        made = sorted(accumulators, key=_ANY.encode)
        return combiner.merge_accumulators([combiner.create_accumulator(), *made])
    encoded = sorted(tf.compat.as_bytes(coder.encode_cache(each)) for each in accumulators)
    # After an empty one, as TFT's own wrapper has it: what is decoded may be of another type.
    decoded = [coder.decode_cache(each) for each in encoded]
    return combiner.merge_accumulators([combiner.create_accumulator(), *decoded])


class _UnmergedCoder(analyzer_nodes.CacheCoder):
    """Encodes the accumulators of files; Beam pickles it.

    Args:
      coder: Encodes one of them.
    """

    def __init__(self, coder: analyzer_nodes.CacheCoder):
        self._coder = coder

    def encode_cache(self, cache: _Unmerged) -> bytes:
        encoded = sorted(tf.compat.as_bytes(self._coder.encode_cache(each)) for each in cache)
        return json.dumps([base64.b64encode(each).decode() for each in encoded]).encode()

    def decode_cache(self, encoded_cache: bytes) -> _Unmerged:
        return [self._coder.decode_cache(base64.b64decode(e)) for e in json.loads(encoded_cache)]


def _coder(operation: Any) -> analyzer_nodes.CacheCoder | None:
    coder = operation.combiner.accumulator_coder
    return coder and _UnmergedCoder(coder)


def _coder_per_key(operation: Any) -> analyzer_nodes.CacheCoder | None:
    coder = _coder(operation)
    return coder and analyzer_nodes._CombinerPerKeyAccumulatorCoder(coder)


analyzer_impls._CombinerWrapper = _OrderedCombine
analyzer_nodes.CacheableCombineAccumulate.cache_coder = property(_coder)
analyzer_nodes.CacheableCombinePerKeyAccumulate.cache_coder = property(_coder_per_key)
