"""Predicts rows in which some features have the values of other rows.

The values of a feature that is left out are those of background rows, of which the predictions are
averaged: the interventional value function (Janzing, Minorics and Blöbaum, Feature relevance
quantification in explainable AI: a causal problem, 2020). A category stays a category that there
is, and an absent value is absent.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from components.explainer.groups import Columns, Group
from ml.predictors import FeaturePredictor

# Values of rows that are made at a time.
_CELLS = 2_000_000


class MaskedModel:
    """A model of which groups of features can be left out.

    Args:
      predictor: The model.
      background: The rows that values are taken from, by feature, each [background, ...].
      groups: The groups. Features of none stay as they are.

    Attributes:
      groups: The groups.
      background: The background rows.
    """

    def __init__(self, predictor: FeaturePredictor, background: Columns, groups: Sequence[Group]):
        self.groups = groups
        self.background = background
        self._predictor = predictor
        self._size = len(next(iter(background.values())))
        # The group of each value; the last place, -1, stands for none.
        self._places = {name: np.full(c.shape[1:], -1) for name, c in background.items()}
        for place, group in enumerate(groups):
            for name, cells in group.cells.items():
                self._places[name][cells] = place

    @property
    def cells(self) -> int:
        """Values that a row has."""
        return sum(places.size for places in self._places.values())

    def predict(self, rows: Columns) -> np.ndarray:
        """Predicts rows as they are, float64 [rows, outputs]."""
        count = len(next(iter(rows.values())))
        step = max(1, _CELLS // self.cells)
        parts = [
            self._predictor.predict_features({n: c[start : start + step] for n, c in rows.items()})
            for start in range(0, count, step)
        ]
        return np.concatenate(parts).reshape(count, -1).astype(float)

    def values(self, rows: Columns, row: int, kept: np.ndarray) -> np.ndarray:
        """The mean prediction of a row over the background, with some groups kept.

        Args:
          rows: Rows by feature, each [rows, ...].
          row: Number of the row.
          kept: Which groups are the row's own, bool [masks, groups]; the others are those of each
            background row in turn.

        Returns:
          float64 [masks, outputs].
        """
        step = max(1, _CELLS // (self.cells * self._size))
        parts = []
        for start in range(0, len(kept), step):
            part = kept[start : start + step]
            mixed = self._mix(rows, row, part[:, None], np.arange(self._size)[None])
            parts.append(self.predict(mixed).reshape(len(part), self._size, -1).mean(axis=1))
        return np.concatenate(parts)

    def mixed(self, rows: Columns, row: int, kept: np.ndarray, others: np.ndarray) -> np.ndarray:
        """The predictions of a row in which each mask takes the values of one background row.

        Args:
          rows: Rows by feature, each [rows, ...].
          row: Number of the row.
          kept: Which groups are the row's own, bool [masks, groups].
          others: Number of the background row that the other groups are from, int [masks].

        Returns:
          float64 [masks, outputs].
        """
        step = max(1, _CELLS // self.cells)
        return np.concatenate(
            [
                self.predict(
                    self._mix(
                        rows,
                        row,
                        kept[start : start + step, None],
                        others[start : start + step, None],
                    )
                )
                for start in range(0, len(kept), step)
            ]
        )

    def _mix(self, rows: Columns, row: int, kept: np.ndarray, others: np.ndarray) -> Columns:
        """Rows by feature, [masks * others, ...], of kept [masks, 1, groups] and others."""
        kept = np.concatenate([kept, np.ones((*kept.shape[:2], 1), bool)], axis=2)
        mixed = {}
        for name, places in self._places.items():
            values = np.where(kept[..., places], rows[name][row], self.background[name][others])
            mixed[name] = values.reshape(-1, *places.shape)
        return mixed
