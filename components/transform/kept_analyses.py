"""TFT's analyses of single months, kept in the `SpanStore` from run to run."""

import base64
import gzip
import hashlib
import json
import logging
import os
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from tensorflow_transform import analyzer_nodes, analyzers
from tensorflow_transform.beam import analyzer_cache
from tensorflow_transform.experimental.analyzers import _VocabularyCombiner
from tfx_bsl.public import tfxio
from tfx_bsl.sketches import MisraGriesSketch, QuantilesSketch

from components.transform.files import read_batches
from ml.sketches import decode
from storage.import_closure import ImportClosure
from storage.span_store import ShardName, SpanStore

_KIND = "analysis"
# Version of the format of kept analyses; others are not used.
_ENCODING = 4
# Packages that a `preprocessing_fn` may import besides its own package.
_SHARED = ("ml", "storage")
_MOST_BYTES = 1 << 26  # An analysis may not unpack to more.
_KEPT = analyzer_cache.DatasetKey("kept")


class _SketchCoder(analyzer_nodes.CacheCoder):
    """Encodes the sketches of an analyzer as data; Beam pickles it with the analyzer."""

    def __init__(self, kind: type[Any]):
        self._kind = kind

    def encode_cache(self, cache: Any) -> bytes:
        return bytes(cache.__getstate__())

    def decode_cache(self, encoded_cache: bytes) -> Any:
        return decode(self._kind, encoded_cache)


# TFT's own coders unpickle quantiles, and read beyond the end of a Misra-Gries sketch. There is no
# public way to replace them.
for _combiner, _kind in (
    (analyzers.QuantilesCombiner, QuantilesSketch),
    (_VocabularyCombiner, MisraGriesSketch),
):
    _combiner.accumulator_coder = _SketchCoder(_kind)


@dataclass
class KeptAnalyses:
    """TFT's analyzer cache of single months, or of pieces of a month.

    Others may write to the store. An analysis that cannot be read is made again. One that can be
    read may still fail in TFT's workers; then all are made again.

    Attributes:
      store: The store.
      version: Digest of everything but the rows that an analysis depends on.
      function: The `preprocessing_fn`.
      specs: `tf.TypeSpec` of each raw feature.
      ignored: Whether all kept analyses are ignored and replaced.
      used: Whether a kept analysis was used.
    """

    store: SpanStore
    version: str
    function: Callable[..., Any]
    specs: Mapping[str, Any]
    ignored: bool = False
    used: bool = False

    def analyze(self, pipeline: beam.Pipeline, files: list[str], source: tfxio.TFXIO) -> Any:
        """Analyzes files, reuses kept analyses, and keeps new ones.

        Returns:
          The output of `tft_beam.AnalyzeDataset`.
        """
        kept: dict[bytes, list[bytes]] = {}
        new: dict[analyzer_cache.DatasetKey, tuple[int, list[str]]] = {}
        for month, group in self._groups(files):
            analysis = self._load(month, group)
            if analysis is None:
                key = analyzer_cache.DatasetKey(f"{month}-{self._key(group)}")
                new[key] = (month, group)
            else:
                for name, accumulators in analysis.items():
                    kept.setdefault(name, []).extend(accumulators)
        cache = {}
        self.used = bool(kept)
        if kept:
            # All months in one data set, because TFT has a fixed cost for each.
            entries = {
                name: pipeline
                | f"Kept {i}" >> beam.Create(a, reshuffle=False).with_output_types(bytes)
                for i, (name, a) in enumerate(kept.items())
            }
            cache[_KEPT] = analyzer_cache.DatasetCache(entries, None)
        config = source.TensorAdapterConfig()
        # TFX's Transform checks in the same way whether the kept analyses suffice. They do not if
        # one analyzer reads the result of another: such a function needs all rows again.
        if kept and _KEPT in tft_beam.analysis_graph_builder.get_analysis_dataset_keys(
            self.function, self.specs, [*new, *cache], cache, False
        ):
            rows = (read_batches(pipeline, "Analyze", files, source), config)
            return rows | "Analyze" >> tft_beam.AnalyzeDataset(self.function)
        data: dict[analyzer_cache.DatasetKey, Any] = {
            key: read_batches(pipeline, f"Analyze {key.key}", group, source)
            for key, (_, group) in new.items()
        }
        data |= dict.fromkeys(cache)
        dataset = (data, cache, config)
        learned, output = dataset | "Analyze" >> tft_beam.AnalyzeDatasetWithCache(
            self.function, pipeline=pipeline
        )
        self._keep(output, new)
        return learned

    def _groups(self, files: list[str]) -> Iterator[tuple[int, list[str]]]:
        """Files by month, or by piece of a month if one is kept; month 0 for other files."""
        months: dict[int, dict[int, list[str]]] = {}
        for path in files:
            name = ShardName.parse(os.path.basename(path)) or ShardName(0, 0, 0, "")
            months.setdefault(name.span, {}).setdefault(name.piece, []).append(path)
        for month, pieces in months.items():
            whole = [path for group in pieces.values() for path in group]
            in_pieces = self._load(month, whole) is None and any(
                self._load(month, group) is not None for group in pieces.values()
            )
            for group in pieces.values() if in_pieces else [whole]:
                yield month, group

    def _key(self, group: list[str]) -> str:
        names = sorted(map(os.path.basename, group))
        return hashlib.sha256("\n".join([self.version, *names]).encode()).hexdigest()[:16]

    def _load(self, month: int, group: list[str]) -> dict[bytes, list[bytes]] | None:
        """TFT's accumulators by analyzer; None if none are kept or they cannot be read."""
        if self.ignored or not month:
            return None
        content = self.store.read(_KIND, month, self._key(group))
        try:
            entries = json.loads(_unpack(content)) if content else None
            return entries and {
                base64.b64decode(name): [base64.b64decode(a) for a in accumulators]
                for name, accumulators in entries.items()
            }
        except (
            *(AttributeError, RecursionError, TypeError, ValueError),
            zlib.error,
        ) as error:
            logging.warning("A kept analysis cannot be read, and is made again: %s", error)
            return None

    def _keep(self, output: Mapping[Any, Any], new: Mapping[Any, tuple[int, list[str]]]) -> None:
        found = [
            accumulators | f"Of {key.key} {i}" >> beam.Map(_with_name, key.key, name)
            for key, cache in output.items()
            if key in new and new[key][0]
            for i, (name, accumulators) in enumerate(cache.items())
        ]
        if found:
            months = {key.key: month for key, (month, _) in new.items()}
            names = sorted(
                {name for key in new if key in output for name in output[key].cache_dict}
            )
            _ = (
                found
                | "All accumulators" >> beam.Flatten()
                | "Of a data set" >> beam.GroupByKey()
                | "Keep" >> beam.Map(_keep, self.store, months, names)
            )


def _unpack(gzipped: bytes) -> bytes:
    """Unpacks a gzip file, unless it is truncated or too large."""
    stream = zlib.decompressobj(wbits=31)
    content = stream.decompress(gzipped, _MOST_BYTES)
    if not stream.eof:
        raise ValueError("it is truncated or too large")
    return content


def _with_name(accumulator: bytes, data_set: str, name: bytes) -> tuple[str, tuple[bytes, bytes]]:
    return data_set, (name, accumulator)


def _keep(
    found: tuple[str, Iterable[tuple[bytes, bytes]]],
    store: SpanStore,
    months: Mapping[str, int],
    names: list[bytes],
) -> None:
    data_set, accumulators = found
    # An analyzer that found nothing needs an entry too.
    entries: dict[str, list[str]] = {base64.b64encode(name).decode(): [] for name in names}
    for name, accumulator in sorted(accumulators):
        entries[base64.b64encode(name).decode()].append(base64.b64encode(accumulator).decode())
    _, _, key = data_set.partition("-")
    store.write(_KIND, months[data_set], key, gzip.compress(json.dumps(entries).encode(), mtime=0))


def code_version(function: Callable[..., Any], custom_config: str, schema: bytes) -> str:
    """Digest of everything but the rows that an analysis depends on.

    That is the project's code that a `preprocessing_fn` imports, its settings, TFT, and the schema.
    """
    module = sys.modules[function.__module__]
    file = Path(str(module.__file__))
    package, *below = module.__name__.split(".")
    root = file.parents[len(below) + 1 if file.name == "__init__.py" else len(below)]
    code = ImportClosure(root, frozenset({package, *_SHARED})).code([module.__name__])
    facts = [_ENCODING, tft.__version__, function.__qualname__, custom_config, schema.hex(), code]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
