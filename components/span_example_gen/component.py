"""SpanExampleGen: monthly Parquet spans in; `train`, `eval` and `test` by time out."""

import json
import traceback
from datetime import timedelta

import apache_beam as beam
from tfx import v1 as tfx

from components.span_example_gen.plan import SPLITS, plan_shards
from components.span_example_gen.writing import WriteShard
from ml.artifacts import load_schema
from ml.example_columns import Columns
from storage import spans
from storage.errors import DataError, from_worker_traceback
from storage.span_store import SpanStore


@tfx.dsl.components.component(use_beam=True)
def SpanExampleGen(
    schema: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Schema],
    examples: tfx.dsl.components.OutputArtifact[tfx.types.standard_artifacts.Examples],
    data_uri: tfx.dsl.components.Parameter[str],
    time_column: tfx.dsl.components.Parameter[str],
    as_of: tfx.dsl.components.Parameter[int],
    window: tfx.dsl.components.Parameter[int],
    eval_days: tfx.dsl.components.Parameter[int],
    fingerprint: tfx.dsl.components.Parameter[str],
    beam_pipeline: tfx.dsl.components.BeamComponentParameter[beam.Pipeline] = None,
) -> None:
    """Writes a window of monthly spans as tf.Examples, split by time.

    Nulls become absent features. Timestamps become int64 seconds since the Unix epoch. Every month
    is cut where its last days begin, so that it consists of the same files whether the model is
    evaluated on it, stops early by it or learns from it: those of a month that an earlier run has
    read are taken out of the `SpanStore` of the environment as they are.

    Args:
      schema: Types of the columns, and which of them every file must have.
      examples: Component `outputs` contains: the splits `train` (the window without its last
        days), `eval` (its last days) and `test` (the month `as_of`), as gzipped TFRecords. The
        custom properties `rows` and `spans` say in JSON how many rows each split has and which
        months it was made of.
      data_uri: Directory that holds the spans, one folder `span-YYYYMM` per month.
      time_column: Timestamp column by which `eval` is held out.
      as_of: Month of the `test` split, YYYYMM; 0 means the newest there is.
      window: How many months before `as_of` to learn from.
      eval_days: How many days at the end of the window become `eval`.
      fingerprint: Content of the window as the caller saw it, part of the cache key; an empty one
        is not compared.
      beam_pipeline: Supplied by TFX.

    Raises:
      DataError: If a span, file, row group or column is missing, unreadable, empty or mistyped, if
        rows are of another month than their span, or if the data is no longer what `fingerprint`
        says.
    """
    chosen = spans.resolve_window(data_uri, as_of, window)
    if fingerprint and fingerprint != chosen.fingerprint:
        raise DataError(
            f"the spans under {data_uri!r} changed after the run had started: run again"
        )
    columns = Columns.from_schema(load_schema(schema), time_column)
    shards, rows = plan_shards(data_uri, chosen, columns, timedelta(days=eval_days))
    store = SpanStore.of_environment()
    try:
        with beam_pipeline as pipeline:
            _ = (
                pipeline
                | "Shards" >> beam.Create(shards)
                | "Write" >> beam.ParDo(WriteShard(data_uri, columns, examples.uri, store))
            )
    except Exception as error:
        raised = "".join(traceback.format_exception_only(error))
        if user_error := from_worker_traceback(raised):
            raise user_error from None
        raise
    examples.split_names = json.dumps(SPLITS)
    examples.set_string_custom_property("rows", json.dumps(rows))
    months = {"train": [s.month for s in chosen.train], "test": [chosen.test.month]}
    examples.set_string_custom_property("spans", json.dumps(months))
