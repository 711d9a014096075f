"""Replaces two steps of TFT by faster ones with the same results. There is no public way to do so.

Beam pickles TFT's own classes by name: a worker elsewhere that does not import this module loads a
graph as TFT does.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable
from typing import Any

import apache_beam as beam
import numpy as np
from tensorflow_transform.beam import analyzer_impls, impl

_VocabularyAccumulate = analyzer_impls._VocabularyAccumulateImpl
_accumulate = _VocabularyAccumulate.expand
_load_graph = impl._RunMetaGraphDoFn._make_graph_state
_loaded: weakref.WeakValueDictionary[Any, Any] = weakref.WeakValueDictionary()


def _load_graph_once(self: Any, saved_model_dir: str) -> Any:
    """Loads a graph once in a process, not for each data set to which it is applied."""
    key = (saved_model_dir, *sorted(self._get_input_tensor_names()), None, *self._exclude_outputs)
    graph = _loaded.get(key)
    if graph is None:
        _loaded[key] = graph = _load_graph(self, saved_model_dir)
    return graph


def _accumulate_by_batch(self: Any, inputs: Any) -> Any:
    """Counts the words of each batch at once, and not each word as an element of its own."""
    if self._vocab_ordering_type != analyzer_impls._VocabOrderingType.FREQUENCY:
        return _accumulate(self, inputs)
    (batches,) = inputs
    counts = batches | "CountPerBatch" >> beam.FlatMap(_count)
    return counts | "CountPerToken" >> beam.CombinePerKey(sum)


def _count(batch: tuple[np.ndarray, ...]) -> Iterable[Any]:
    (words,) = batch
    return Counter(words.tolist()).items()


_VocabularyAccumulate.expand = _accumulate_by_batch
impl._RunMetaGraphDoFn._make_graph_state = _load_graph_once
