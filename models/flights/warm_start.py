"""Starts a network from the weights of the served one, whose vocabularies may be different."""

from __future__ import annotations

import itertools
import os
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras
from tfx import v1 as tfx

from storage.names import SAVED_MODEL

from .features import CROSSES, IDS, VOCABULARIES

Vocabularies = dict[str, list[bytes]]


def start_from(
    model: tf_keras.Model, served: str, vocabularies: Vocabularies, share: float
) -> dict[str, Any]:
    """Moves the weights of a network towards those of a served one.

    Each weight becomes `share` of the served one plus the rest of its own initial value ("shrink
    and perturb": Ash and Adams 2020, https://arxiv.org/abs/1910.08475, who found that a network
    which starts from all of another's weights generalises worse than one with random weights). A
    row of an embedding moves to the id that its category, or pair of categories, has now. A
    category that the served model did not know keeps its initial value.

    Args:
      model: The network, as `build_model` makes it.
      served: Folder of the served SavedModel; it may not be there.
      vocabularies: The categories of each string feature in the order of their ids, of `model`.
      share: How much of the served weights, 0 to 1.

    Returns:
      `weights`, how many variables were taken, and `rows`, the share of the embeddings' rows that
      the served model knew; or `why_cold`, why none was taken. It is all or none: half of another
      network's weights are no trained network.
    """
    if not tfx.dsl.io.fileio.exists(os.path.join(served, SAVED_MODEL)):
        return {"why_cold": "nothing is served yet"}
    loaded = tf.saved_model.load(served)
    (signature, *_) = loaded.signatures.values()
    weights = {v.name: v.numpy() for v in signature.variables}
    known = {name: _read_vocabulary(served, name) for name in VOCABULARIES}
    if missing := [name for name, values in known.items() if values is None]:
        return {"why_cold": f"the served model has no vocabulary {', '.join(missing)}"}
    rows = {
        f"{name}/embeddings:0": _rows(vocabularies, known, crossed)  # type: ignore[arg-type]
        for name, crossed in (("embedding", False), ("wide", True))
    }
    values = []
    for variable in model.trainable_variables:
        old = weights.get(variable.name)
        if old is None:
            return {"why_cold": f"the served model has no {variable.name}"}
        new = variable.numpy()
        if variable.name in rows:
            of_old, count = rows[variable.name]
            if old.shape != (count, *new.shape[1:]):
                return {"why_cold": _differs(variable, old)}
            taken = of_old >= 0
            new[taken] = share * old[of_old[taken]] + (1 - share) * new[taken]
        elif old.shape == new.shape:
            new = share * old + (1 - share) * new
        else:
            return {"why_cold": _differs(variable, old)}
        values.append(new)
    for variable, value in zip(model.trainable_variables, values, strict=True):
        variable.assign(value)
    found = np.concatenate([of_old for of_old, _ in rows.values()])
    return {"weights": len(values), "rows": float(np.mean(found >= 0))}


def _read_vocabulary(served: str, name: str) -> list[bytes] | None:
    path = os.path.join(served, "assets", name)
    if not tfx.dsl.io.fileio.exists(path):
        return None
    with tfx.dsl.io.fileio.open(path, "rb") as file:
        content: bytes = file.read()
    return content.splitlines()


def _rows(new: Vocabularies, old: Vocabularies, crossed: bool) -> tuple[np.ndarray, int]:
    """The old row of each row of a new table, -1 for none; and the number of old rows.

    Tables are in the order of `build_model`: first the ids of each feature, then those of each
    pair.
    """
    ids = {name: _ids(new[name], old[name]) for name in VOCABULARIES}
    sizes = {name: len(old[name]) + 1 for name in VOCABULARIES} | IDS
    ids |= {name: np.arange(count) for name, count in IDS.items()}
    tables = [(ids[name], sizes[name]) for name in ids]
    if crossed:
        for left, right in CROSSES:
            pairs = np.array(list(itertools.product(ids[left], ids[right])))
            rows = np.where((pairs >= 0).all(axis=1), pairs[:, 0] * sizes[right] + pairs[:, 1], -1)
            tables.append((rows, sizes[left] * sizes[right]))
    starts = np.cumsum([0, *(size for _, size in tables)])
    moved = [
        np.where(rows >= 0, rows + start, -1)
        for (rows, _), start in zip(tables, starts[:-1], strict=True)
    ]
    return np.concatenate(moved), int(starts[-1])


def _ids(new: list[bytes], old: list[bytes]) -> np.ndarray:
    """The old id of each new one, -1 for none; 0, what is not in the vocabulary, stays 0."""
    of_old = {value: number for number, value in enumerate(old, 1)}
    return np.array([0, *(of_old.get(value, -1) for value in new)])


def _differs(variable: tf.Variable, old: np.ndarray) -> str:
    return f"{variable.name} is {tuple(variable.shape)}, in the served model {old.shape}"
