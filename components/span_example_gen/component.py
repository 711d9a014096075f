"""SpanExampleGen: reads spans of rows and splits them by time, or by a hash."""

import json
import logging
import traceback
from collections.abc import Sequence

import apache_beam as beam
from tfx import v1 as tfx

from components.span_example_gen.plan import SPLITS, Shares, plan_shards
from components.span_example_gen.row_order import RowOrder
from components.span_example_gen.source_files import Copier, source_files
from components.span_example_gen.writing import ROUNDED, WriteShard
from ml.artifacts import load_schema
from ml.effort import Stopwatch
from ml.example_columns import Columns
from storage.errors import DataError, from_worker_traceback
from storage.span_digests import digest_spans
from storage.span_store import SpanStore
from storage.spans import DataSource, Window, resolve_window


@tfx.dsl.components.component(use_beam=True)
def SpanExampleGen(
    schema: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Schema],
    examples: tfx.dsl.components.OutputArtifact[tfx.types.standard_artifacts.Examples],
    data_uri: tfx.dsl.components.Parameter[str],
    layout: tfx.dsl.components.Parameter[str],
    as_of: tfx.dsl.components.Parameter[int],
    window: tfx.dsl.components.Parameter[int],
    eval_days: tfx.dsl.components.Parameter[int],
    eval_share: tfx.dsl.components.Parameter[float],
    test_share: tfx.dsl.components.Parameter[float],
    key_columns: tfx.dsl.components.Parameter[str],
    fingerprint: tfx.dsl.components.Parameter[str],
    beam_pipeline: tfx.dsl.components.BeamComponentParameter[beam.Pipeline] = None,
) -> None:
    """Writes a window of spans as tf.Examples, split by time, or by a hash where rows have none.

    Nulls become absent features. Dates and timestamps become int64 seconds since the Unix epoch.
    Every span is cut where its last days begin, so it has the same files in every split, and the
    files of an earlier run are reused from the `SpanStore` of the environment.

    Example:
      example_gen = SpanExampleGen(
          schema=schema_gen.outputs["schema"],
          data_uri="data/my_model",
          layout=DataSource("data/my_model", "span-{YYYY}{MM}", "time").layout,
          as_of=201312,
          window=6,
          eval_days=7,
          eval_share=0.1,
          test_share=0.2,
          key_columns="[]",
          fingerprint="",
      )

    Args:
      schema: Types of the columns, and which of them every file must have.
      examples: Component `outputs` contains: the splits `train` (the window without its last
        days), `eval` (its last days) and `test` (the span `as_of`), as gzipped TFRecords. The
        custom properties `rows` and `spans` hold, as JSON, the number of rows and the spans of
        each split; `split` tells by what rows were split, and `left_out` the columns of the
        files that the schema lacks, and `rounded` those with numbers, newly read, that a 32-bit
        float rounds so that it shows.
      data_uri: Directory of the data, or its one file.
      layout: The division into spans, and the format of text files; the JSON of
        `DataSource.layout`.
      as_of: Span of the `test` split; 0 means the newest there is.
      window: Spans before `as_of` to train on.
      eval_days: Days at the end of the window that become `eval`.
      eval_share: Share of the rows that become `eval`, if rows have no time.
      test_share: Share of the rows that become `test`, if there are no spans.
      key_columns: JSON list of the columns by whose values rows without a time are split; an empty
        list means all columns.
      fingerprint: Fingerprint of the window at the start of the run, part of the cache key; "" is
        not compared.
      beam_pipeline: Supplied by TFX.

    Raises:
      DataError: If a span, file, row group or column is missing, unreadable, empty or mistyped, if
        rows are of another span than their path says, or if the data does not match `fingerprint`.
    """
    stopwatch = Stopwatch("SpanExampleGen")
    source = DataSource.of(data_uri, layout)
    chosen = resolve_window(source, as_of, window)
    if fingerprint and fingerprint != chosen.fingerprint:
        raise DataError(
            f"the spans under {data_uri!r} changed after the run had started: run again"
        )
    columns = Columns.from_schema(load_schema(schema), source.time_column)
    keys = tuple(json.loads(key_columns))
    order = RowOrder(source.time_column, keys, tuple(sorted(columns.read)))
    store = SpanStore.of_environment()
    with source_files(source, columns, order, store, examples.uri) as files:
        shards, rows = plan_shards(chosen, files, Shares(eval_days, eval_share, test_share))
        files.copy_unkept((shard.path, shard.name) for shard in shards)
        write = WriteShard(Copier(source, columns, order), files.copies, examples.uri, store)
        try:
            with beam_pipeline as pipeline:
                _ = pipeline | "Shards" >> beam.Create(shards) | "Write" >> beam.ParDo(write)
        except Exception as error:
            raised = "".join(traceback.format_exception_only(error))
            if user_error := from_worker_traceback(raised):
                raise user_error from None
            raise
    rounded = _counted(pipeline, ROUNDED)
    examples.split_names = json.dumps(SPLITS)
    examples.set_string_custom_property("rows", json.dumps(rows))
    numbers = {"train": [s.number for s in chosen.train], "test": [chosen.test.number]}
    examples.set_string_custom_property("spans", json.dumps(numbers))
    digests = digest_spans(source, chosen.spans, store)
    examples.set_string_custom_property("digests", json.dumps(digests))
    examples.set_string_custom_property("split", _describe_split(source, chosen, keys))
    examples.set_string_custom_property("left_out", json.dumps(sorted(files.left_out)))
    examples.set_string_custom_property("rounded", json.dumps(rounded))
    stopwatch.stop(examples)


def _counted(pipeline: beam.Pipeline, namespace: str) -> list[str]:
    """Names of the counters that workers have increased; none if the runner has no metrics."""
    wanted = beam.metrics.MetricsFilter().with_namespace(namespace)
    try:
        counters = pipeline.result.metrics().query(wanted)["counters"]
    except Exception as error:  # A runner may raise anything.
        logging.warning("The Beam runner has no metrics: %s", error)
        return []
    return sorted({counter.key.metric.name for counter in counters})


def _describe_split(source: DataSource, window: Window, keys: Sequence[str]) -> str:
    """By what rows were split, for a person; "" if by their paths and their time."""
    if source.time_column and window.test.within:
        return f"by {source.period.value} of {source.time_column}, UTC"
    if source.time_column:
        return ""
    of = f"a hash of {', '.join(keys)}" if keys else "a hash of the row"
    if window.test in window.train:
        return f"by {of}, for the rows have no time (data.time_column, data.spans)"
    return f"by {source.numbering.value}, and `eval` by {of}"
