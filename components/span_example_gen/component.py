"""SpanExampleGen: spans of rows in; the splits `train`, `eval` and `test` out."""

import json
import traceback

import apache_beam as beam
from tfx import v1 as tfx

from components.span_example_gen.plan import SPLITS, Shares, plan_shards
from components.span_example_gen.row_order import RowOrder
from components.span_example_gen.staging import stage
from components.span_example_gen.writing import WriteShard
from ml.artifacts import load_schema
from ml.example_columns import Columns
from storage.errors import DataError, from_worker_traceback
from storage.span_store import SpanStore
from storage.spans import DataSource, resolve_window


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
    Every span is cut where its last days begin, so that it consists of the same files in each
    split: those that an earlier run has written are taken from the `SpanStore` of the environment.

    Args:
      schema: Types of the columns, and which of them every file must have.
      examples: Component `outputs` contains: the splits `train` (the window without its last
        days), `eval` (its last days) and `test` (the span `as_of`), as gzipped TFRecords. The
        custom properties `rows` and `spans` say in JSON how many rows each split has and which
        spans it was made of.
      data_uri: Directory of the data, or its one file.
      layout: What divides the data into spans, and how text files are written; the JSON of
        `DataSource.layout`.
      as_of: Span of the split `test`; 0 means the newest there is.
      window: How many spans before `as_of` to train on.
      eval_days: How many days at the end of the window become `eval`.
      eval_share: Share of the rows that become `eval`, where rows have no time.
      test_share: Share of the rows that become `test`, where there are no spans.
      key_columns: JSON list of columns by whose values rows without a time are split; none for all.
      fingerprint: Content of the window as the caller saw it, part of the cache key; an empty one
        is not compared.
      beam_pipeline: Supplied by TFX.

    Raises:
      DataError: If a span, file, row group or column is missing, unreadable, empty or mistyped, if
        rows are of another span than their path says, or if the data is no longer what
        `fingerprint` says.
    """
    source = DataSource.of(data_uri, layout)
    chosen = resolve_window(source, as_of, window)
    if fingerprint and fingerprint != chosen.fingerprint:
        raise DataError(
            f"the spans under {data_uri!r} changed after the run had started: run again"
        )
    columns = Columns.from_schema(load_schema(schema), source.time_column)
    order = RowOrder(source.time_column, tuple(json.loads(key_columns)))
    shares = Shares(eval_days, eval_share, test_share)
    store = SpanStore.of_environment()
    with stage(source, chosen, columns, examples.uri) as staged:
        shards, rows = plan_shards(source, chosen, columns, order, shares, staged)
        uri = staged.folder if staged.paths else data_uri
        write = WriteShard(uri, columns, order, examples.uri, store)
        try:
            with beam_pipeline as pipeline:
                _ = pipeline | "Shards" >> beam.Create(shards) | "Write" >> beam.ParDo(write)
        except Exception as error:
            raised = "".join(traceback.format_exception_only(error))
            if user_error := from_worker_traceback(raised):
                raise user_error from None
            raise
    examples.split_names = json.dumps(SPLITS)
    examples.set_string_custom_property("rows", json.dumps(rows))
    numbers = {"train": [s.number for s in chosen.train], "test": [chosen.test.number]}
    examples.set_string_custom_property("spans", json.dumps(numbers))
