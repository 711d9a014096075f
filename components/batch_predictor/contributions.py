"""The contributions of features to predictions, with the background rows of a version."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from ml.permutation_shap import Arrays, PermutationShap, check_groups
from ml.table_models import TableModel
from ml.tasks import Task
from ml.tflite_runner import Input
from storage.errors import SurroundingsError, one_line
from storage.names import BACKGROUND_FILE, RAW_SIGNATURE


class Contributions:
    """Explains the predictions of a loaded model by SHAP values, as the embedded server does.

    Args:
      content: The file `background.json` of a version.
      model: Its model.
      task: What it predicts.

    Attributes:
      names: Names of the features and groups.
      evaluations: Predictions that the explanation of a row takes.

    Raises:
      SurroundingsError: If it is no such file, or does not fit the model.
    """

    def __init__(self, content: bytes, model: TableModel, task: Task):
        self._model, self._outputs = model, task.outputs
        try:
            background, groups = _read(content, model.inputs)
        except (ValueError, OverflowError, RecursionError) as error:
            raise SurroundingsError(
                f"predictions cannot be explained: {BACKGROUND_FILE} of the version: {error}"
            ) from error
        self._shap = PermutationShap(background, groups)
        self.names = self._shap.names
        self.evaluations = self._shap.evaluations

    def check(self) -> None:
        """Checks that the model predicts the background rows.

        Raises:
          SurroundingsError: If it does not.
        """
        try:
            base = self._shap.base(self._predict)
        except Exception as error:  # Whatever the model has to say about a row.
            reason = one_line(error)[:300]
            raise SurroundingsError(
                f"predictions cannot be explained: the model fails on {BACKGROUND_FILE} of the "
                f"version: {reason}"
            ) from error
        if not np.isfinite(base).all():
            raise SurroundingsError(
                f"predictions cannot be explained: the mean prediction of {BACKGROUND_FILE} of the "
                "version is not a finite number"
            )

    def explain(self, inputs: Arrays, predictions: np.ndarray) -> np.ndarray:
        """Explains the largest output of each row: the predicted class, or the only one.

        Args:
          inputs: Inputs of the model by name, each [rows, ...].
          predictions: Its predictions, float32 [rows, outputs].

        Returns:
          The base value, then the contribution of each name, float32 [rows, 1 + names]: they sum to
          the prediction. NaN where the model fails, or gives no finite number, with some features
          of a row and others of background rows.
        """
        rows = len(predictions)
        try:
            found = self._shap.explain(self._predict, inputs)
        except Exception:  # As above: the row that it fails on has no contributions.
            if rows <= 1:
                return np.full((rows, 1 + len(self.names)), np.nan, np.float32)
            parts = (slice(0, rows // 2), slice(rows // 2, rows))
            return np.concatenate(
                [
                    self.explain({n: a[part] for n, a in inputs.items()}, predictions[part])
                    for part in parts
                ]
            )
        chosen = predictions.argmax(axis=1)
        values = np.take_along_axis(found.values, chosen[:, None, None], axis=2)[:, :, 0]
        return np.column_stack([found.base[chosen], values]).astype(np.float32)

    def _predict(self, inputs: Arrays) -> np.ndarray:
        rows = len(next(iter(inputs.values())))
        found = self._model.predict_features(inputs)
        return found.reshape(rows, self._outputs).astype(float)


def _read(
    content: bytes, inputs: Mapping[str, Input]
) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    """Background rows by input, each [rows, ...], and the inputs of each group.

    Raises:
      ValueError: If it is no such file, or does not fit the inputs; so do OverflowError and
        RecursionError.
    """
    document = json.loads(content)
    given = document.get("inputs") if isinstance(document, dict) else None
    if not isinstance(given, dict) or document.get("signature_name") != RAW_SIGNATURE:
        raise ValueError(f"it has no inputs of the signature {RAW_SIGNATURE}")
    if missing := sorted(inputs.keys() - given.keys()):
        raise ValueError(f"the input {missing[0]!r} is missing")
    arrays = {name: _array(name, given[name], wanted) for name, wanted in inputs.items()}
    counts = sorted({len(array) for array in arrays.values()})
    if len(counts) != 1 or not counts[0]:
        raise ValueError(f"all inputs need one row or more, and as many; they have {counts}")
    return arrays, check_groups(document.get("groups", {}), arrays)


def _array(name: str, given: Any, wanted: Input) -> np.ndarray:
    """The values of an input, [rows, ...]."""
    values = np.array(given, object)
    if not values.ndim or values.shape[1:] != wanted.shape:
        raise ValueError(f"the input {name!r} has not the shape {list(wanted.shape)} in each row")
    flat = values.ravel().tolist()
    text = wanted.dtype.kind == "S"
    if not all(isinstance(value, (str, dict) if text else (int, float)) for value in flat):
        raise ValueError(
            f"the input {name!r} has other values than {'texts' if text else 'numbers'}"
        )
    if text:
        return np.array([_bytes(value) for value in flat], object).reshape(values.shape)
    with np.errstate(over="ignore"):
        return np.array(flat, wanted.dtype).reshape(values.shape)


def _bytes(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode()
    try:
        return base64.b64decode(value["b64"], validate=True)
    except (KeyError, TypeError, binascii.Error) as error:
        raise ValueError("a text is neither a string nor base64") from error
