"""How the columns of a table follow from each other, learned from some rows, tried on others."""

import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx import v1 as tfx
from tfx_bsl.coders import example_coder

from ml.artifacts import split_files
from storage.tfrecords import read_records

_BATCH = 8192
_CATEGORIES = 20
_RIDGE = 1e-3
# In variances of the column: what is predicted better than this is taken as predicted so well.
_SMALLEST_ERROR = 1e-3


class Relations:
    """How each of some features follows from the others: linear regressions, all at once.

    The columns are standard scores of the numbers, 0 where absent, and the commonest values of each
    categorical feature. The regression of one column on all others has its coefficients, and so
    its residuals, in the inverse of the covariance matrix P: residual_j = (Z P)_j / P_jj
    (Whittaker, Graphical Models in Applied Multivariate Statistics, 1990, 5.8). That is cheap, and
    does not change with the seasons as the features themselves do.

    Args:
      rows: What to learn from: a column per feature, of numbers or bytes, shape [rows, features].
    """

    def __init__(self, rows: pd.DataFrame):
        self.numbers = [name for name in rows if pd.api.types.is_numeric_dtype(rows[name])]
        self._categories = [
            (name, value)
            for name in rows.columns.difference(self.numbers)
            for value in rows[name].value_counts().index[:_CATEGORIES]
        ]
        self._mean = rows[self.numbers].mean()
        self._scale = rows[self.numbers].std().replace(0, 1)
        columns = self._encode(rows)
        covariance = columns.T @ columns / len(rows)
        self._inverse = np.linalg.inv(covariance + _RIDGE * np.eye(len(covariance)))
        self._errors = self._squared_errors(rows, granted=0)

    def error_growth(self, rows: pd.DataFrame) -> dict[str, float]:
        """How many times worse other rows follow these relations, by numeric feature.

        Three standard errors of the mean are granted, for a few rows have few extremes or many.
        """
        errors = self._squared_errors(rows, granted=3)
        return {
            name: error / max(self._errors[name], _SMALLEST_ERROR)
            for name, error in errors.items()
            if name in self._errors
        }

    def predict(self, rows: pd.DataFrame, name: str) -> np.ndarray:
        """A numeric feature as it follows from the others, in standard scores, shape [rows]."""
        columns, index = self._encode(rows), self.numbers.index(name)
        return columns[:, index] - self._residuals(columns)[:, index]

    def _squared_errors(self, rows: pd.DataFrame, granted: float) -> dict[str, float]:
        """Means of the squared errors, less so many of their standard errors."""
        squares = self._residuals(self._encode(rows)) ** 2
        present = rows[self.numbers].notna().to_numpy()
        found = {}
        for index, name in enumerate(self.numbers):
            errors = squares[present[:, index], index]
            if len(errors):
                deviation = float(np.std(errors)) / math.sqrt(len(errors))
                found[name] = max(0.0, float(np.mean(errors)) - granted * deviation)
        return found

    def _residuals(self, columns: np.ndarray) -> np.ndarray:
        """Of the numeric features, shape [rows, numbers]."""
        count = len(self.numbers)
        return columns @ self._inverse[:, :count] / np.diag(self._inverse)[:count]

    def _encode(self, rows: pd.DataFrame) -> np.ndarray:
        """Numbers first, then categories and a constant, float64, shape [rows, columns]."""
        scores = ((rows[self.numbers] - self._mean) / self._scale).fillna(0.0)
        flags = [(rows[name] == value).to_numpy(float) for name, value in self._categories]
        return np.column_stack([scores.to_numpy(float), *flags, np.ones(len(rows))])


def read_rows(
    examples: tfx.dsl.Artifact, split: str, schema: schema_pb2.Schema, step: int = 1
) -> pd.DataFrame:
    """Reads the rows of a split into memory.

    Args:
      examples: Examples in gzipped TFRecords.
      split: Name of the split.
      schema: Its features become the columns.
      step: 1 reads every row, 2 every second, and so on.

    Returns:
      A column per feature with its first value, NaN or None where absent or not finite.
    """
    records = read_records(split_files(examples, split)).shard(step, 0)
    decoder = example_coder.ExamplesToRecordBatchDecoder(schema.SerializeToString())
    batches = [decoder.DecodeBatch(list(b)) for b in records.batch(_BATCH).as_numpy_iterator()]
    table = pa.Table.from_batches(batches)
    rows = pd.DataFrame({name: first_values(table[name]) for name in table.column_names})
    return rows.replace([np.inf, -np.inf], np.nan)


def first_values(column: pa.ChunkedArray) -> np.ndarray:
    """The first value of each list, shape [rows], NaN or None where there is none."""
    present = pc.fill_null(pc.list_value_length(column), 0).to_numpy() > 0
    values = pc.list_element(column.filter(pa.array(present)), 0).to_numpy()
    if present.all():
        return values
    absent = None if values.dtype == object else np.nan
    found = np.full(len(present), absent, dtype=object if absent is None else float)
    found[present] = values
    return found
