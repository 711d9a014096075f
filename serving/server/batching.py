"""Computes the rows of several requests as one batch, where the model computes each as if alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from serving.server.errors import ServingError
from serving.server.models import Arrays, LoadedModel, TFLiteModel

_TOLERANCE = 1e-4
_SECONDS = 60.0


def learn(model: LoadedModel, signature_name: str, inputs: Arrays) -> None:
    """Adds a signature to `model.batched` if its rows do not depend on each other, as far as seen.

    It computes a batch, and each row of it alone. A model that looks at a whole batch,
    as one with a mean over it does, gives other outputs then. A TFLite model is left out: another
    number of rows costs it more than computing them alone.

    Args:
      model: The model.
      signature_name: Name of the signature.
      inputs: A good request; other rows are made from it.
    """
    if isinstance(model, TFLiteModel):
        return
    signature = model.signatures[signature_name]
    outputs = list(signature.outputs)
    shapes = [info.shape for info in (*signature.inputs.values(), *signature.outputs.values())]
    if not inputs or not all(shape and shape[0] is None for shape in shapes):
        return
    rows = [{name: array[:1] for name, array in inputs.items()}]
    if not all(len(array) for array in rows[0].values()):
        return
    rows.append({name: np.zeros_like(array) for name, array in rows[0].items()})
    for array in rows[1].values():
        if array.dtype == object:
            array[...] = b""
    rows.append({name: array[-1:] for name, array in inputs.items()})
    try:
        alone = [model.run(signature_name, row, outputs, _SECONDS) for row in rows]
        together = run(model, signature_name, rows, outputs, _SECONDS)
    except ServingError:
        return
    pairs = zip(alone, together, strict=True)
    if all(_same(one[name], other[name]) for one, other in pairs for name in outputs):
        model.batched.add(signature_name)


def run(
    model: LoadedModel,
    signature_name: str,
    requests: Sequence[Mapping[str, np.ndarray]],
    outputs: Sequence[str],
    seconds: float,
) -> list[Arrays]:
    """Computes several requests, each with one or more rows, as one batch.

    Raises:
      ServingError: If the model fails, which any of them may be the cause of.
      ValueError: If there are not as many rows in an output as in the inputs.
    """
    sizes = [len(next(iter(inputs.values()))) for inputs in requests]
    ends = np.cumsum(sizes)
    batch = {name: np.concatenate([inputs[name] for inputs in requests]) for name in requests[0]}
    found = model.run(signature_name, batch, outputs, seconds)
    for name, array in found.items():
        if array.ndim == 0 or len(array) != ends[-1]:
            raise ValueError(f'output "{name}" has not as many rows as the inputs')
    return [
        {name: array[end - size : end] for name, array in found.items()}
        for size, end in zip(sizes, ends.tolist(), strict=True)
    ]


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    if one.shape != other.shape:
        return False
    if one.dtype.kind in "fc":
        return np.allclose(one, other, _TOLERANCE, _TOLERANCE, equal_nan=True)
    return bool(np.array_equal(one, other))
