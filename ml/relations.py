"""Fits linear relations between the columns of a table, and measures them on other rows."""

import math

import numpy as np
import pandas as pd

_CATEGORIES = 20
_RIDGE = 1e-3
# Smallest squared error, in variances of the column.
_SMALLEST_ERROR = 1e-3


class Encoding:
    """Numbers for linear relations.

    The columns are standard scores of the numeric features, 0 where absent, the most common values
    of each categorical feature as 0 or 1, and a constant.

    Args:
      rows: Rows that say what is common: a column per feature, of numbers or bytes.
    """

    def __init__(self, rows: pd.DataFrame):
        self.numeric = [name for name in rows if pd.api.types.is_numeric_dtype(rows[name])]
        self._categories = [
            (name, value)
            for name in rows.columns.difference(self.numeric)
            for value in rows[name].value_counts().index[:_CATEGORIES]
        ]
        self._mean = rows[self.numeric].mean()
        self._scale = rows[self.numeric].std().replace(0, 1)

    def __call__(self, rows: pd.DataFrame) -> np.ndarray:
        """Numeric features, then categories and a constant, float64, shape [rows, columns]."""
        scores = ((rows[self.numeric] - self._mean) / self._scale).fillna(0.0)
        flags = [(rows[name] == value).to_numpy(float) for name, value in self._categories]
        return np.column_stack([scores.to_numpy(float), *flags, np.ones(len(rows))])


class Relations:
    """Linear regressions of each feature on all others.

    The columns are those of `Encoding`. The residuals of the regression of a column on all others
    follow from P, the inverse of the covariance matrix:
    residual_j = (Z P)_j / P_jj (Whittaker, Graphical Models in Applied Multivariate Statistics,
    1990, 5.8). This is cheap, and varies less with the seasons than the features themselves.

    Args:
      rows: Rows to fit on: a column per feature, of numbers or bytes, shape [rows, features].
    """

    def __init__(self, rows: pd.DataFrame):
        self._encode = Encoding(rows)
        self._numeric = self._encode.numeric
        columns = self._encode(rows)
        covariance = columns.T @ columns / len(rows)
        self._inverse = np.linalg.inv(covariance + _RIDGE * np.eye(len(covariance)))
        self._errors = self._squared_errors(rows, granted=0)

    def error_growth(self, rows: pd.DataFrame) -> dict[str, float]:
        """Growth of the squared error on other rows, as a factor, by numeric feature.

        Three standard errors of the mean are subtracted, to allow for chance in few rows.
        """
        errors = self._squared_errors(rows, granted=3)
        return {
            name: error / max(self._errors[name], _SMALLEST_ERROR)
            for name, error in errors.items()
            if name in self._errors
        }

    def _squared_errors(self, rows: pd.DataFrame, granted: float) -> dict[str, float]:
        """Mean squared errors, less a number of their standard errors."""
        squares = self._residuals(self._encode(rows)) ** 2
        present = rows[self._numeric].notna().to_numpy()
        found = {}
        for index, name in enumerate(self._numeric):
            errors = squares[present[:, index], index]
            if len(errors):
                deviation = float(np.std(errors)) / math.sqrt(len(errors))
                found[name] = max(0.0, float(np.mean(errors)) - granted * deviation)
        return found

    def _residuals(self, columns: np.ndarray) -> np.ndarray:
        """Of the numeric features, shape [rows, numeric features]."""
        count = len(self._numeric)
        return columns @ self._inverse[:, :count] / np.diag(self._inverse)[:count]
