"""How the columns of a table follow from each other, learned from some rows, tried on others."""

import math

import numpy as np
import pandas as pd

_CATEGORIES = 20
_RIDGE = 1e-3
# In variances of the column: what is predicted better than this is taken as predicted so well.
_SMALLEST_ERROR = 1e-3


class Relations:
    """How each of some features follows from the others: linear regressions, all at once.

    The columns are standard scores of the numeric features, 0 where absent, and the commonest
    values of each categorical feature. The regression of one column on all others has its
    coefficients, and so its residuals, in the inverse of the covariance matrix P:
    residual_j = (Z P)_j / P_jj (Whittaker, Graphical Models in Applied Multivariate Statistics,
    1990, 5.8). That is cheap, and does not change with the seasons as the features themselves do.

    Args:
      rows: What to learn from: a column per feature, of numbers or bytes, shape [rows, features].
    """

    def __init__(self, rows: pd.DataFrame):
        self._numeric = [name for name in rows if pd.api.types.is_numeric_dtype(rows[name])]
        self._categories = [
            (name, value)
            for name in rows.columns.difference(self._numeric)
            for value in rows[name].value_counts().index[:_CATEGORIES]
        ]
        self._mean = rows[self._numeric].mean()
        self._scale = rows[self._numeric].std().replace(0, 1)
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
        columns, index = self._encode(rows), self._numeric.index(name)
        return columns[:, index] - self._residuals(columns)[:, index]

    def _squared_errors(self, rows: pd.DataFrame, granted: float) -> dict[str, float]:
        """Means of the squared errors, less so many of their standard errors."""
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

    def _encode(self, rows: pd.DataFrame) -> np.ndarray:
        """Numeric features, then categories and a constant, float64, shape [rows, columns]."""
        scores = ((rows[self._numeric] - self._mean) / self._scale).fillna(0.0)
        flags = [(rows[name] == value).to_numpy(float) for name, value in self._categories]
        return np.column_stack([scores.to_numpy(float), *flags, np.ones(len(rows))])
