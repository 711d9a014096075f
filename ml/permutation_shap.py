"""SHAP values of predictions by groups of features, with background rows.

The values are those of `shap`'s permutation explainer (Lundberg and Lee, A Unified Approach to
Interpreting Model Predictions, 2017): groups of features are added to a background row in a random
order and taken away in the same order. They are computed here, since the import of `shap` takes
seconds and compiles its loops at the first row, and it explains one row at a time.

The embedded server and batch predictions share it, so it imports nothing but numpy: a row has the
same explanation from both. A row takes a number of predictions that is bounded whatever the model,
in batches that are bounded in bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Arrays = Mapping[str, np.ndarray]
# From inputs by name, each [rows, ...], to float64 [rows, outputs].
Predict = Callable[[dict[str, np.ndarray]], np.ndarray]

# Predictions that the explanation of a row takes, unless its features alone are more.
_EVALUATIONS = 12_000
_MOST_PERMUTATIONS = 8
# Bytes of the rows that are predicted at a time, and their number.
BATCH_BYTES, _BATCH_ROWS = 8 << 20, 4096
# Mean predictions that are kept at a time.
_MEANS = 1 << 18
_VALUE_BYTES = 48  # A short string, with its place in an array.
_SEED = 1


@dataclass(frozen=True)
class Explained:
    """The explanation of rows.

    Attributes:
      names: Names of the features and groups.
      values: SHAP values, float64 [rows, names, outputs].
      base: Mean prediction of the background, float64 [outputs].
    """

    names: Sequence[str]
    values: np.ndarray
    base: np.ndarray


class PermutationShap:
    """Explains predictions with background rows.

    Example:
      >>> background = {"a": np.array([0.0, 2.0]), "b": np.array([1.0, 1.0])}
      >>> shap = PermutationShap(background, groups={})
      >>> row = {"a": np.array([5.0]), "b": np.array([4.0])}
      >>> explained = shap.explain(lambda rows: (rows["a"] + 2 * rows["b"])[:, None], row)
      >>> explained.base.tolist(), explained.values[0, :, 0].tolist()
      ([3.0], [4.0, 6.0])

    Args:
      background: Rows by input of the model, one or more, each [rows, ...].
      groups: The inputs of each group, see `check_groups`. An input of no group is one itself; of a
        vector that is never absent each value is one.

    Attributes:
      names: Names of the groups, the inputs in none, and the values of vectors.
      background: The rows that are used, each [rows, ...].
      evaluations: Predictions that the explanation of a row takes.
    """

    def __init__(self, background: Arrays, groups: Mapping[str, Sequence[str]]):
        self.names, self._places = _divide(groups, background)
        of_one = 2 * len(self.names)
        rows = len(next(iter(background.values())))
        self._rows = min(rows, max(1, _EVALUATIONS // of_one))
        self._permutations = max(1, _EVALUATIONS // (of_one * self._rows))
        self._permutations = min(self._permutations, _MOST_PERMUTATIONS)
        self.background = {name: array[: self._rows] for name, array in background.items()}
        self.evaluations = 1 + 2 * (len(self.names) - 1) * self._rows * self._permutations
        size = sum(_count_bytes(array) for array in self.background.values()) // self._rows
        self._row_bytes = size + _VALUE_BYTES * len(self.names)

    def base(self, predict: Predict) -> np.ndarray:
        """The mean prediction of the background, float64 [outputs]."""
        mean: np.ndarray = predict(self.background).mean(axis=0)
        return mean

    def explain(self, predict: Predict, inputs: Arrays) -> Explained:
        """Explains predictions.

        Args:
          predict: Predicts rows.
          inputs: Inputs of the rows by name, each [rows, ...].

        Returns:
          The explanation; values and base sum to the predictions.
        """
        base = self.base(predict)
        rows = len(next(iter(inputs.values())))
        step = max(1, _MEANS // (2 * len(self.names) * len(base)))
        values = [np.empty((0, len(self.names), len(base)))]
        for start in range(0, rows, step):
            part = {name: array[start : start + step] for name, array in inputs.items()}
            values.append(self._explain(predict, part, base))
        return Explained(self.names, np.concatenate(values), base)

    def _explain(
        self, predict: Predict, rows: dict[str, np.ndarray], base: np.ndarray
    ) -> np.ndarray:
        """SHAP values of some rows, float64 [rows, names, outputs]."""
        chance = np.random.default_rng(_SEED)  # The same row has the same explanation.
        count = len(self.names)
        whole = predict(rows)[:, None]
        base = np.broadcast_to(base, whole.shape)
        outputs = whole.shape[2]
        values = np.zeros((len(whole), count, outputs))
        for _ in range(self._permutations):
            order = chance.permutation(count)
            # Of the row: first 1, 2, ... groups in this order, then all but 1, 2, ...
            added = np.zeros((count, count), bool)
            added[:, order] = np.tri(count, dtype=bool)
            kept = np.concatenate([added[:-1], ~added[:-1]])
            means = self._means(predict, rows, kept, outputs)
            forward = np.concatenate([base, means[:, : count - 1], whole], axis=1)
            backward = np.concatenate([whole, means[:, count - 1 :], base], axis=1)
            values[:, order] += np.diff(forward, axis=1) - np.diff(backward, axis=1)
        return values / (2 * self._permutations)

    def _means(self, predict: Predict, rows: Arrays, kept: np.ndarray, outputs: int) -> np.ndarray:
        """Mean predictions over the background, for kept groups, bool [masks, names].

        Returns:
          float64 [rows, masks, outputs].
        """
        count = len(next(iter(rows.values())))
        row, mask = (part.ravel() for part in np.indices((count, len(kept))))
        step = max(1, min(_BATCH_ROWS, BATCH_BYTES // self._row_bytes) // self._rows)
        means = [np.empty((0, outputs))]
        for start in range(0, len(row), step):
            part, masks = row[start : start + step], kept[mask[start : start + step]]
            mixed = {
                name: np.where(
                    masks[:, None, self._places[name]], rows[name][part][:, None], array
                ).reshape(-1, *array.shape[1:])
                for name, array in self.background.items()
            }
            means.append(predict(mixed).reshape(len(part), self._rows, outputs).mean(axis=1))
        return np.concatenate(means).reshape(count, len(kept), outputs)


def check_groups(given: Any, inputs: Arrays) -> dict[str, list[str]]:
    """Checks the groups of a file.

    Args:
      given: What stands there.
      inputs: The background rows.

    Returns:
      The inputs of each group.

    Raises:
      ValueError: If they are no lists of inputs, or an input is in two.
    """
    if not isinstance(given, dict):
        raise ValueError("the groups are no object")
    groups: dict[str, list[str]] = {}
    seen: set[str] = set()
    for name, columns in given.items():
        known = (
            isinstance(columns, list)
            and columns
            and all(isinstance(column, str) and column in inputs for column in columns)
        )
        if not known or seen & set(columns) or len(set(columns)) < len(columns):
            raise ValueError(
                f"the group {name[:80]!r} is no list of inputs, each in one group alone"
            )
        groups[name] = columns
        seen |= set(columns)
    if taken := groups.keys() & (inputs.keys() - seen):
        raise ValueError(f"group {min(taken)[:80]!r} is called as an input")
    return groups


def _divide(
    groups: Mapping[str, Sequence[str]], inputs: Arrays
) -> tuple[list[str], dict[str, np.ndarray]]:
    """Divides the values of a row, as the node Explainer does.

    Returns:
      The names, and by input the place of each of its values among them, of the shape of one row.
    """
    names = list(groups)
    places = {
        name: np.full(inputs[name].shape[1:], place)
        for place, columns in enumerate(groups.values())
        for name in columns
    }
    for name, array in sorted(inputs.items()):  # A model has them in the order of its format.
        if name in places:
            continue
        shape = array.shape[1:]
        size = math.prod(shape)
        if size == 1 or (array.dtype.kind == "f" and np.isnan(array).any()):
            places[name] = np.full(shape, len(names))
            names.append(name)
        else:
            places[name] = np.arange(len(names), len(names) + size).reshape(shape)
            names += [f"{name}[{', '.join(map(str, place))}]" for place in np.ndindex(shape)]
    return names, places


def _count_bytes(array: np.ndarray) -> int:
    """Bytes of an array and its strings."""
    strings = sum(map(len, array.flat)) if array.dtype.kind == "O" else 0
    return int(array.nbytes) + strings
