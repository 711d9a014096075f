"""Reads the predictions of a request log, by whichever method they were requested."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from tensorflow_metadata.proto.v0 import schema_pb2

from ml import request_log
from ml.tasks import BINARY, REGRESSION, Task
from ml.vectors import to_matrix
from storage.encryption_keys import Keys
from storage.names import PREDICTION_PREFIX

# Outputs of the signatures that classify and regress, in the log.
_SCORES, _OUTPUTS = f"{PREDICTION_PREFIX}scores", f"{PREDICTION_PREFIX}outputs"


@dataclass(frozen=True)
class PredictionLog:
    """What is read of a row: features by type, the width of vectors, and the prediction."""

    types: dict[str, int]
    widths: dict[str, int]
    prediction: str
    task: Task

    def read(self, uri: str, model: str, keys: Keys | None) -> Iterator[pd.DataFrame]:
        """The rows; the prediction is that of whichever method was requested."""
        others = {_SCORES: max(len(self.task.classes), 1), _OUTPUTS: 1}
        others.pop(self.prediction, None)
        widths = {name: width for name, width in others.items() if width > 1} | self.widths
        types = self.types | dict.fromkeys((*others, self.prediction), schema_pb2.FLOAT)
        for rows in request_log.read(uri, model, types, keys, widths):
            found = rows[self.prediction]
            if _SCORES in others and self.task.kind != REGRESSION:
                found = found.where(found.notna(), self._of_scores(rows[_SCORES]))
            if _OUTPUTS in others and self.task.outputs == 1:
                found = found.where(found.notna(), rows[_OUTPUTS])
            if self.task.outputs > 1:
                found = found.map(lambda row: row if _is_known(row) else None)
            yield rows.assign(**{self.prediction: found})

    def _of_scores(self, scores: pd.Series) -> pd.Series:
        if self.task.kind == BINARY:
            return scores.map(lambda row: to_matrix([row], 2)[0, 1] if row else float("nan"))
        return scores


def _is_known(row: bytes | None) -> bool:
    return row is not None and not np.isnan(np.frombuffer(row, np.float32)).any()
