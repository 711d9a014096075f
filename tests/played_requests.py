"""Sends real trips through a model and the server's request log, as if they were requests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pyarrow as pa

from pipeline.config import load_config
from serving.server import request_log
from serving.server.metrics import ServerMetrics
from storage.names import RAW_SIGNATURE
from tests.conftest import seconds_of
from tests.trips.features import RAW_FEATURES, VOCABULARIES

CONFIG = load_config()

Fault = Callable[[pd.DataFrame], None]

MODEL = CONFIG.model_name


def play(folder: Path, version: Path, trips: pa.Table, fault: Fault | None = None) -> None:
    """Logs a request for all trips of each hour, in the hour before they are to leave.

    Args:
      folder: The request log.
      version: The version that predicts, a folder of the Serving directory.
      trips: Rows of a span.
      fault: Changes what is sent.
    """
    import tensorflow as tf

    ask = tf.saved_model.load(str(version)).signatures[RAW_SIGNATURE]
    dtypes = {name: spec.dtype for name, spec in ask.structured_input_signature[1].items()}
    rows = trips.to_pandas()
    rows["sent"] = seconds_of(rows[CONFIG.data.time_column]) - 3600.0
    if fault:
        fault(rows)
    log = request_log.RequestLog(str(folder), 1.0, ServerMetrics())
    try:
        with mock.patch.object(request_log.time, "time") as clock:
            for sent, hour in rows.sort_values("sent").groupby("sent"):
                inputs = {name: _column(hour[name], name, dtypes[name]) for name in RAW_FEATURES}
                predictions = ask(**{name: tf.constant(column) for name, column in inputs.items()})
                clock.return_value = sent
                outputs = {CONFIG.prediction: predictions[CONFIG.prediction].numpy()}
                log.offer(MODEL, int(version.name), inputs, outputs)
    finally:
        log.close()


def _column(values: pd.Series, name: str, dtype: object) -> np.ndarray:
    """Values as a client sends them: "" or NaN where there is none."""
    if name in VOCABULARIES:
        return np.array([(value or "").encode() for value in values], object)
    return values.to_numpy(dtype.as_numpy_dtype)  # type: ignore[attr-defined]
