"""StatisticsGen: the statistics of every split, merged from those of its files."""

import hashlib
import json
import logging
import operator
import os
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa
import tensorflow as tf
import tensorflow_data_validation as tfdv

# TFDV's public API has no mergeable statistics. This module behind it is the same in the versions
# for TFX 1.16 and 1.21.
from tensorflow_data_validation.statistics import stats_impl
from tensorflow_metadata.proto.v0 import schema_pb2, statistics_pb2
from tfx import v1 as tfx
from tfx_bsl.coders import example_coder

from ml import accumulators
from ml.artifacts import load_schema, split_files, statistics_uri
from ml.effort import Stopwatch
from ml.record_batches import read_record_batches
from storage.span_store import ShardName, SpanStore
from storage.tfrecords import read_records

_KIND = "statistics"
_BATCH_ROWS = 16_384
# Version of the format of kept accumulators; others are not used.
_ENCODING = b"2"


@tfx.dsl.components.component(use_beam=True)
def StatisticsGen(
    examples: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Examples],
    schema: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Schema],
    statistics: tfx.dsl.components.OutputArtifact[tfx.types.standard_artifacts.ExampleStatistics],
    beam_pipeline: tfx.dsl.components.BeamComponentParameter[beam.Pipeline] = None,
) -> None:
    """Computes the same statistics as TFX's StatisticsGen, in the same layout.

    TFDV's accumulators of each file are kept in the `SpanStore` of the environment and reused by
    later runs. Each covers a whole file: the stock component spends most of its time on merging
    those of small batches.

    Example:
      statistics_gen = StatisticsGen(
          examples=example_gen.outputs["examples"], schema=schema_gen.outputs["schema"]
      )

    Args:
      examples: The splits, gzipped TFRecords.
      schema: Types and domains of the features.
      statistics: Component `outputs` contains: the statistics of each split.
      beam_pipeline: Supplied by TFX.
    """
    stopwatch = Stopwatch("StatisticsGen")
    expected = load_schema(schema)
    splits = json.loads(examples.split_names)
    files = [(s, f) for s in splits for f in split_files(examples, s)]
    with beam_pipeline as pipeline:
        _ = (
            pipeline
            | "Files" >> beam.Create(files)
            | "Count" >> beam.ParDo(_Count(expected, SpanStore.of_environment()))
            | "Of a split" >> beam.GroupByKey()
            | "Merge"
            >> beam.ParDo(_Merge(expected, {s: statistics_uri(statistics, s) for s in splits}))
        )
    statistics.split_names = examples.split_names
    statistics.span = examples.span
    stopwatch.stop(statistics)


# Accumulators of a file, or their kept bytes.
_Counted = bytes | list[Any]


def _generators(schema: schema_pb2.Schema) -> list[Any]:
    """TFDV's generators of the statistics; each has its own accumulator."""
    generators = stats_impl.get_generators(tfdv.StatsOptions(schema=schema), in_memory=True)
    for generator in generators:
        generator.setup()
    return list(generators)


class _Count(beam.DoFn):
    """Makes the accumulators of a file, or reads the kept ones.

    Yields bytes, so that each sketch is decoded exactly once, where it is merged: the order of
    equally frequent values depends on it. Accumulators that cannot be kept are yielded as objects.
    """

    def __init__(self, schema: schema_pb2.Schema, store: SpanStore):
        self._schema = schema
        self._store = store

    def setup(self) -> None:
        self._generators = _generators(self._schema)
        schema = self._schema.SerializeToString(deterministic=True)
        facts = schema + tfdv.__version__.encode() + _ENCODING
        self._version = hashlib.sha256(facts).hexdigest()[:16]

    def process(self, file: tuple[str, str]) -> Iterator[tuple[str, tuple[str, _Counted]]]:
        split, path = file
        yield split, (path, self._count_or_read(path))

    def _count_or_read(self, path: str) -> _Counted:
        name = ShardName.parse(os.path.basename(path))
        if name is None:  # Not from SpanExampleGen, so its content may change under the same name.
            return _count(self._generators, path, self._schema)
        key = f"{name.key}-{self._version}"
        kept = self._store.read(_KIND, name.span, key)
        if kept is not None and _is_readable(kept):
            return kept
        counted = _count(self._generators, path, self._schema)
        try:
            kept = accumulators.encode(counted)
        except ValueError as error:
            logging.warning("Statistics of %s cannot be kept: %s", path, error)
            return counted
        self._store.write(_KIND, name.span, key, kept)
        return kept


class _Merge(beam.DoFn):
    """Merges the accumulators of the files of a split and writes its statistics."""

    def __init__(self, schema: schema_pb2.Schema, uris: dict[str, str]):
        self._schema = schema
        self._uris = uris

    def setup(self) -> None:
        self._generators = _generators(self._schema)

    def process(self, element: tuple[str, Iterable[tuple[str, _Counted]]]) -> Iterator[None]:
        split, of_files = element
        # In a fixed order: quantiles depend on it a little.
        in_order = dict(sorted(of_files, key=operator.itemgetter(0)))
        try:
            result = self._merge(map(_load, in_order.values()))
        except Exception as error:  # Accumulators that do not fit may raise anything.
            logging.warning(
                "The kept statistics of %s do not fit together, and are computed again: %s",
                split,
                error,
            )
            result = self._merge(_count(self._generators, path, self._schema) for path in in_order)
        tf.io.gfile.makedirs(os.path.dirname(self._uris[split]))
        with tf.io.gfile.GFile(self._uris[split], "wb") as file:
            file.write(result.SerializeToString(deterministic=True))
        yield from ()

    def _merge(self, of_files: Iterable[list[Any]]) -> statistics_pb2.DatasetFeatureStatisticsList:
        """Merges one file after the other: no more than two files' accumulators are in memory."""
        files = iter(of_files)
        merged = next(files)
        for counted in files:
            merged = [
                generator.merge_accumulators([before, of_file])
                for generator, before, of_file in zip(
                    self._generators, merged, counted, strict=True
                )
            ]
        return stats_impl.extract_statistics_output(merged, self._generators)


def _count(generators: list[Any], path: str, schema: schema_pb2.Schema) -> list[Any]:
    """The accumulators of a file, one per generator."""
    counted = [g.create_accumulator() for g in generators]
    for batch in _read(path, schema):
        counted = [g.add_input(a, batch) for g, a in zip(generators, counted, strict=True)]
    return [g.compact(a) for g, a in zip(generators, counted, strict=True)]


def _read(path: str, schema: schema_pb2.Schema) -> Iterator[pa.RecordBatch]:
    """The columns that have a value, by name."""
    if ShardName.parse(os.path.basename(path)) is None:  # It may have other features too.
        decoder = example_coder.ExamplesToRecordBatchDecoder()
        for records in read_records(path).batch(_BATCH_ROWS).as_numpy_iterator():
            yield decoder.DecodeBatch(list(records))
        return
    by_name = schema_pb2.Schema(feature=sorted(schema.feature, key=lambda feature: feature.name))
    for batch in read_record_batches(path, by_name, _BATCH_ROWS):
        names = [
            name
            for name, column in zip(batch.schema.names, batch.columns, strict=True)
            if column.null_count < batch.num_rows
        ]
        yield pa.RecordBatch.from_arrays([batch.column(name) for name in names], names)


def _is_readable(kept: bytes) -> bool:
    try:
        accumulators.decode(kept)
    except ValueError as error:
        logging.warning("Kept statistics cannot be read, and are computed again: %s", error)
        return False
    return True


def _load(counted: _Counted) -> list[Any]:
    return accumulators.decode(counted) if isinstance(counted, bytes) else counted
