"""The labels of requests, which arrive with the monthly spans; and files of rows that have them."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import tensorflow as tf
from tfx_bsl.coders import example_coder

from ml.example_columns import Columns, to_example_batch
from ml.examples import first_values
from ml.request_log import Period
from ml.tasks import Task
from ml.vectors import pack, unpack
from storage.errors import DataError
from storage.periods import SpanPeriod
from storage.spans import DataSource, Span, filesystem, find_spans
from storage.tables import read_schema, read_table
from storage.tfrecords import open_records

_ROWS_PER_FILE = 16_384
_DAY = 24 * 3600


def read_labels(
    source: DataSource, period: Period, columns: Columns, widths: dict[str, int]
) -> tuple[pd.DataFrame, list[int]]:
    """Features and labels of the spans that may hold rows of a period, and their numbers."""
    files, _ = filesystem(source.uri)
    of_period = [span for span in find_spans(source) if _may_overlap(source, span, period)]
    found = [pd.DataFrame(columns=list(columns.types))]
    for path in dict.fromkeys(path for span in of_period for path in span.files):
        names = read_schema(path, files, source.text)
        wanted = [name for name in names if name in columns.types]
        table = read_table(path, files, columns.text_types, source.text, wanted)
        columns.check(path, table.schema)
        try:
            batches = [to_example_batch(batch, columns) for batch in table.to_batches()]
        except pa.ArrowException as error:
            raise DataError(f"labels of {path} cannot be read: {error}") from error
        found += [_to_frame(batch, columns.types, widths) for batch in batches]
    filled = [frame for frame in found if len(frame)]
    return pd.concat(filled or found, ignore_index=True), [span.number for span in of_period]


def _may_overlap(source: DataSource, span: Span, period: Period) -> bool:
    """Whether a span may have rows of a period, give or take a day for local calendars."""
    if source.numbering is SpanPeriod.NUMBER:
        return True
    begin, end = source.numbering.bounds(span.number)
    return begin - _DAY < period.until and end + _DAY > period.since


def _to_frame(batch: pa.RecordBatch, types: dict[str, int], widths: dict[str, int]) -> pd.DataFrame:
    table = pa.Table.from_batches([batch])
    return pd.DataFrame(
        {
            name: pack(table[name], widths[name], types[name])
            if name in widths
            else first_values(table[name])
            for name in table.column_names
        }
    )


def join_labels(
    rows: pd.DataFrame, labels: pd.DataFrame, features: Sequence[str], joined: Sequence[str]
) -> pd.DataFrame:
    """Adds the label, and other columns, to rows, NaN if unknown; keeps number and order."""
    keys = [name for name in features if name in labels and rows[name].notna().any()]
    if labels.empty or not keys:
        return rows.assign(**dict.fromkeys(joined, float("nan")))
    label, *others = joined
    groups = labels.dropna(subset=[label]).groupby(keys, dropna=False)
    known = groups[label].agg(["min", "max"])
    first = groups[[name for name in others if name in labels]].first()
    known = known.rename(columns={"min": label}).join(first).reindex(columns=[*joined, "max"])
    known = known[known[label] == known["max"]].drop(columns="max").reset_index()
    return rows.merge(known, how="left", on=keys, validate="many_to_one")


def count_labels(task: Task, labels: pd.Series) -> int:
    """Number of rows with a label that is one of the task."""
    return int(np.isfinite(task.encode(labels.dropna().to_numpy())).sum())


def write_rows(folder: str, frame: pd.DataFrame, columns: Columns, widths: Collection[str]) -> None:
    """Writes rows as gzipped tf.Examples; a column of `widths` holds packed vectors."""
    tf.io.gfile.makedirs(folder)
    encoder = example_coder.RecordBatchToExamplesEncoder()
    vectors = [name for name in frame if name in widths]
    for number, begin in enumerate(range(0, len(frame), _ROWS_PER_FILE)):
        part = frame.iloc[begin : begin + _ROWS_PER_FILE]
        single = pa.RecordBatch.from_pandas(part.drop(columns=vectors), preserve_index=False)
        batch = to_example_batch(single, columns)
        lists = [unpack(part[name], columns.types[name]) for name in vectors]
        batch = pa.RecordBatch.from_arrays(
            [*batch.columns, *lists], [*batch.schema.names, *vectors]
        )
        path = os.path.join(folder, f"data_tfrecord-{number:05d}.gz")
        with open_records(path) as file:
            for example in encoder.encode(batch):
                file.write(example)
