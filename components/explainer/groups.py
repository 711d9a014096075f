"""The groups of features that are explained: which values of a row are replaced together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Columns = dict[str, np.ndarray]

# The rest of a model's features, where there are more than can be explained one by one.
OTHERS = "(other features)"


@dataclass(frozen=True)
class Group:
    """Values of a row that are replaced together.

    Attributes:
      name: Name of the feature, or of the group in the configuration.
      cells: By feature, the values of it that belong to the group, bool of the shape of one row.
    """

    name: str
    cells: Mapping[str, np.ndarray]

    @property
    def columns(self) -> list[str]:
        """The features of the group."""
        return list(self.cells)


def make_groups(
    rows: Columns, background: Columns, configured: Mapping[str, Sequence[str]]
) -> tuple[list[Group], list[str]]:
    """Divides the features of a model.

    A feature of several values is a group for each of them, `name[0]`, `name[1]` and so on, unless
    it is absent from a row: then it is one group, as a vector is absent as a whole.

    Args:
      rows: The rows to explain, by feature, each [rows, ...].
      background: The rows that values are taken from, each [background, ...].
      configured: Features by group; every other feature is a group of its own.

    Returns:
      The groups, and the names of those that have one value in all rows: to replace it changes
      nothing.
    """
    whole = {name: np.ones(column.shape[1:], bool) for name, column in rows.items()}
    grouped = {name for names in configured.values() for name in names}
    groups = [
        Group(name, {column: whole[column] for column in columns if column in whole})
        for name, columns in configured.items()
    ]
    for name, cells in whole.items():
        if name in grouped:
            continue
        if cells.size > 1 and not any(_has_absent(part[name]) for part in (rows, background)):
            groups += _elements(name, cells.shape)
        else:
            groups.append(Group(name, {name: cells}))
    varying, constant = [], []
    for group in filter(lambda group: group.cells, groups):
        if _varies(group, rows, background):
            varying.append(group)
        else:
            constant.append(group.name)
    return varying, constant


def merge_others(groups: Sequence[Group], kept: Iterable[int]) -> list[Group]:
    """Makes one group, the last, of all groups but some.

    Args:
      groups: The groups.
      kept: Places of those that stay.
    """
    places = sorted(kept)
    cells: dict[str, np.ndarray] = {}
    for place in sorted(set(range(len(groups))) - set(places)):
        for name, of_group in groups[place].cells.items():
            cells[name] = cells.get(name, np.zeros_like(of_group)) | of_group
    return [*(groups[place] for place in places), *([Group(OTHERS, cells)] if cells else [])]


def _elements(name: str, shape: tuple[int, ...]) -> Iterable[Group]:
    for place in np.ndindex(shape):
        cells = np.zeros(shape, bool)
        cells[place] = True
        yield Group(f"{name}[{', '.join(map(str, place))}]", {name: cells})


def _has_absent(column: np.ndarray) -> bool:
    return bool(column.dtype.kind == "f" and np.isnan(column).any())


def _varies(group: Group, rows: Columns, background: Columns) -> bool:
    for name, cells in group.cells.items():
        values = np.concatenate([rows[name], background[name]])[:, cells]
        same = values == values[:1]
        if values.dtype.kind == "f":
            same |= np.isnan(values) & np.isnan(values[:1])
        if not same.all():
            return True
    return False
