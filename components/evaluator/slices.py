"""Which rows of a record batch are in which slice, as TFMA has it, without a loop over rows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow_model_analysis as tfma

from storage.errors import DataError

# Pairs of a column and a value; () for all rows.
SliceKey = tuple[tuple[str, Any], ...]


class _Column(NamedTuple):
    """A column as pairs of a row and a value, by row: a row may have no value, or several."""

    rows: np.ndarray
    codes: np.ndarray
    values: list[Any]


def slice_columns(config: tfma.EvalConfig) -> set[str]:
    """The columns by which an evaluation slices."""
    specs = config.slicing_specs
    return {name for spec in specs for name in (*spec.feature_keys, *spec.feature_values)}


def rows_by_slice(
    batch: pa.RecordBatch, specs: Iterable[tfma.SlicingSpec]
) -> dict[SliceKey, np.ndarray]:
    """Finds the rows of each slice.

    Args:
      batch: Rows, whose columns are lists.
      specs: What is sliced by: columns, values of columns, or nothing for all rows.

    Returns:
      Indices of rows by slice. Rows without a value are in no slice of a column.
    """
    columns: dict[str, _Column] = {}
    slices: dict[SliceKey, np.ndarray] = {}
    for spec in specs:
        for name in {*spec.feature_keys, *spec.feature_values} - columns.keys():
            columns[name] = _read(batch, name)
        for key, rows in _slices_of(spec, columns, batch.num_rows).items():
            slices.setdefault(key, rows)
    return slices


def _slices_of(
    spec: tfma.SlicingSpec, columns: dict[str, _Column], row_count: int
) -> dict[SliceKey, np.ndarray]:
    rows = np.arange(row_count)
    fixed = [(name, _parse(value)) for name, value in spec.feature_values.items()]
    for name, value in fixed:
        column = columns[name]
        matching = [code for code, found in enumerate(column.values) if found == value]
        rows = rows[np.isin(rows, column.rows[np.isin(column.codes, matching)])]
    names = sorted(set(spec.feature_keys))
    groups = np.zeros(len(rows), np.int64)
    for name in names:
        column = columns[name]
        # Each row once for each of its values.
        starts = np.searchsorted(column.rows, rows, "left")
        repeats = np.searchsorted(column.rows, rows, "right") - starts
        rows, groups = np.repeat(rows, repeats), np.repeat(groups, repeats)
        within = np.arange(len(rows)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
        groups = groups * len(column.values) + column.codes[np.repeat(starts, repeats) + within]
    if len(rows) == 0:
        return {}
    order = np.argsort(groups, kind="stable")
    found, first = np.unique(groups[order], return_index=True)
    sizes = [len(columns[name].values) for name in names]
    slices = {}
    for group, part in zip(found, np.split(rows[order], first[1:]), strict=True):
        codes = np.unravel_index(group, sizes) if sizes else ()
        pairs = [(n, columns[n].values[code]) for n, code in zip(names, codes, strict=True)]
        slices[tuple(sorted(fixed + pairs))] = part
    return slices


def _read(batch: pa.RecordBatch, name: str) -> _Column:
    index = batch.schema.get_field_index(name)
    if index < 0 or pa.types.is_null(batch.schema.field(index).type):
        return _Column(np.empty(0, np.int64), np.empty(0, np.int64), [])
    lists = batch.column(index)
    sizes = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    encoded = lists.flatten().dictionary_encode()
    try:
        values = [v.decode() if isinstance(v, bytes) else v for v in encoded.dictionary.to_pylist()]
    except UnicodeDecodeError as error:
        raise DataError(f"the column {name!r} cannot be sliced by: a value is not UTF-8") from error
    rows = np.repeat(np.arange(len(lists)), sizes)
    count = max(len(values), 1)
    pairs = np.unique(rows * count + encoded.indices.to_numpy(zero_copy_only=False))
    return _Column(pairs // count, pairs % count, values)


def _parse(value: str) -> Any:
    """A value of a configuration, as TFMA takes it: a number where it reads as one."""
    try:
        return float(value) if "." in value else int(value)
    except ValueError:
        return value
