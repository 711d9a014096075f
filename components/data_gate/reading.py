"""Reads a split once: the labels of all rows, and all columns of as many as the checks need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
from tensorflow_metadata.proto.v0 import schema_pb2

from ml.examples import RowDecoder
from storage.tfrecords import read_records

_BATCH = 8192


@dataclass(frozen=True)
class SplitRows:
    """What was read of a split.

    Attributes:
      labels: Label and example weight of all rows.
      rows: All columns of some rows.
      hashes: See `hash_rows`; of `rows`, and of more if that was asked for.
    """

    labels: pd.DataFrame
    rows: pd.DataFrame
    hashes: np.ndarray


def read_split(
    files: Sequence[str],
    schema: schema_pb2.Schema,
    label_schema: schema_pb2.Schema,
    *,
    hashed: int = 0,
    kept: int = 1,
) -> SplitRows:
    """Reads a split, a batch at a time.

    Args:
      files: Gzipped TFRecords.
      schema: All columns.
      label_schema: Those of the label and the example weight.
      hashed: 1 hashes every row, 2 every second, and so on; 0 reads labels alone.
      kept: 1 keeps every row that is hashed, 2 every second, and so on.
    """
    decode, decode_label = RowDecoder(schema), RowDecoder(label_schema)
    labels, rows, hashes = [], [], [np.empty(0, np.uint64)]
    seen = taken = 0  # Rows so far, and those of them that were hashed.
    for examples in read_records(files).batch(_BATCH):
        # As lists, which Arrow has them in, they take three times the memory.
        labels.append(_rows(decode_label, [decode_label.batch(examples)]))
        if not hashed:
            continue
        batch = decode.batch(examples[-seen % hashed :: hashed])
        hashes.append(hash_rows(_rows(decode, [batch])))
        places = np.arange(-taken % kept, batch.num_rows, kept)
        rows.append(batch if kept == 1 else batch.take(pa.array(places)))
        seen, taken = seen + len(examples), taken + batch.num_rows
    return SplitRows(
        pd.concat(labels or [_rows(decode_label, [])], ignore_index=True),
        _rows(decode, rows),
        np.concatenate(hashes),
    )


def _rows(decoder: RowDecoder, batches: list[pa.RecordBatch]) -> pd.DataFrame:
    return decoder.rows(pa.Table.from_batches(batches, decoder.arrow_schema))


def hash_rows(rows: pd.DataFrame) -> np.ndarray:
    """A hash of all columns of each row, uint64 [rows].

    Whole numbers are hashed as floats, which they are in a batch in which one is absent.
    """
    numbers = rows.select_dtypes("number").columns
    alike = rows.astype(dict.fromkeys(numbers, float))
    return np.asarray(pd.util.hash_pandas_object(alike, index=False), np.uint64)
