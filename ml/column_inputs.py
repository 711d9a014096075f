"""Turns columns of a table into the inputs of a model, and tells which rows have none.

Inputs are made of whole columns, without tf.Examples between them: a million rows take a third of a
second. What is absent is as in examples (`ml.parsing`): a text "", a number of the type FLOAT NaN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
from tensorflow_metadata.proto.v0 import schema_pb2

from ml.example_columns import Columns, convert_values
from ml.row_problems import Problems, convert_rows
from ml.tflite_runner import Input
from storage.errors import UserError

_TYPES = {schema_pb2.BYTES: pa.binary(), schema_pb2.INT: pa.int64(), schema_pb2.FLOAT: pa.float32()}
_ABSENT = {schema_pb2.BYTES: b"", schema_pb2.FLOAT: math.nan}


@dataclass
class ModelInputs:
    """The inputs of a model for a batch of rows.

    Attributes:
      arrays: By name, [rows, ...]; what stands there for rows with a problem means nothing.
      problems: Why a row cannot be predicted, by its number in the batch.
    """

    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    problems: Problems = field(default_factory=dict)


class ColumnInputs:
    """Makes the inputs of a model of columns.

    Args:
      inputs: The inputs, by name.
      schema: Types of the columns with these names.

    Raises:
      UserError: If an input is no feature of the schema.
    """

    def __init__(self, inputs: Mapping[str, Input], schema: schema_pb2.Schema):
        known = Columns.from_schema(schema, "")
        if unknown := sorted(inputs.keys() - known.types.keys()):
            raise UserError(
                f"the model has the input {', '.join(map(repr, unknown))}, which is no feature of "
                "its schema"
            )
        self._inputs = dict(sorted(inputs.items()))
        types = {name: known.types[name] for name in self._inputs}
        self._columns = replace(known, types=types, required=frozenset(types))

    def check(self, path: str, found: pa.Schema) -> None:
        """Checks that a file has the columns that the model reads, with their types.

        Args:
          path: Its name in messages.
          found: Its columns.

        Raises:
          DataError: If one is missing, or has another type.
        """
        self._columns.check(path, found)

    def convert(self, batch: pa.RecordBatch) -> ModelInputs:
        """Converts the columns of some rows; the columns were checked."""
        made = ModelInputs()
        for name, wanted in self._inputs.items():
            array = batch.column(batch.schema.get_field_index(name))
            if name in self._columns.lengths:
                values, problems = self._vectors(name, array)
            else:
                values, problems = self._single(name, array)
            values, outside = _narrow(name, values, wanted.dtype)
            made.arrays[name] = values.reshape(len(array), *wanted.shape)
            made.problems = problems | outside | made.problems
        return made

    def _single(self, name: str, array: pa.Array) -> tuple[np.ndarray, Problems]:
        """A column of one value in a row: values [rows]."""
        kind = self._columns.types[name]
        if pa.types.is_null(array.type):
            array = pa.nulls(len(array), _TYPES[kind])
        converted, problems = self._convert(name, array)
        if kind not in _ABSENT:
            for row in _nulls(converted):
                problems.setdefault(row, _describe_absent(name))
            return converted.fill_null(0).to_numpy(), problems
        return converted.fill_null(_ABSENT[kind]).to_numpy(zero_copy_only=False), problems

    def _vectors(self, name: str, array: pa.Array) -> tuple[np.ndarray, Problems]:
        """A column of several values in a row: values [rows, width]."""
        kind, width = self._columns.types[name], self._columns.lengths[name]
        if pa.types.is_null(array.type):
            array = pa.nulls(len(array), pa.list_(_TYPES[kind]))
        valid = np.asarray(array.is_valid())
        if pa.types.is_fixed_size_list(array.type):
            lengths = np.full(len(array), array.type.list_size)
        else:
            lengths = array.value_lengths().fill_null(0).to_numpy()
        fits = valid & (lengths == width)
        problems = {
            row: f"column {name!r} has {lengths[row]} values; {width} are expected"
            if valid[row]
            else _describe_absent(name)
            for row in np.flatnonzero(~fits).tolist()
        }
        rows = np.flatnonzero(fits)
        converted, wrong = self._convert(name, array.filter(pa.array(fits)).flatten())
        for place in _nulls(converted):
            problem = wrong.get(place, f"column {name!r} has a vector in which a value is absent")
            problems.setdefault(int(rows[place // width]), problem)
        absent = b"" if kind == schema_pb2.BYTES else 0
        found = converted.fill_null(absent).to_numpy(zero_copy_only=False)
        values = np.zeros((len(array), width), found.dtype)
        values[rows] = found.reshape(-1, width)
        return values, problems

    def _convert(self, name: str, array: pa.Array) -> tuple[pa.Array, Problems]:
        kind = self._columns.types[name]
        return convert_rows(
            array, lambda part: convert_values(name, part, kind, set()), _TYPES[kind]
        )


def _nulls(array: pa.Array) -> list[int]:
    """The places of absent values."""
    found: list[int] = np.flatnonzero(~np.asarray(array.is_valid())).tolist()
    return found


def _describe_absent(name: str) -> str:
    return f"column {name!r} is absent, and the model needs it"


def _narrow(name: str, values: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, Problems]:
    """Values as an input's type, [rows, ...], and the rows with integers that it does not hold."""
    if dtype.kind == "S" or values.dtype == dtype:
        return values, {}
    problems = {}
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        outside = (values < limits.min) | (values > limits.max)
        for row in np.flatnonzero(outside.reshape(len(values), -1).any(axis=1)).tolist():
            problems[row] = f"column {name!r} is not between {limits.min} and {limits.max}"
    return values.astype(dtype), problems
