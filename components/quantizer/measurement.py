"""How large, how fast and how good a TFLite model is."""

from __future__ import annotations

import gzip
import time
from dataclasses import dataclass

import numpy as np

from components.quantizer.conversion import weight_sparsity
from ml.fit import area_under_curve
from ml.predictors import TFLitePredictor

_BATCH = 256
_SINGLE_ROWS = 500
_BATCHES = 20


@dataclass(frozen=True)
class Measurement:
    """What a TFLite model costs and is worth.

    Attributes:
      bytes: Size of the file.
      gzip_bytes: Size of the file after gzip at its highest level.
      sparsity: Share of zeros among the weights of dense and convolution operators.
      auc: Area under the ROC curve; see `area_under_curve`.
      p50_ms: Median time of one row, in milliseconds, without that of handing it over.
      p99_ms: 99th percentile of that.
      batch_us_per_row: Median time of a batch of 256, in microseconds a row.
    """

    bytes: int
    gzip_bytes: int
    sparsity: float
    auc: float | None
    p50_ms: float
    p99_ms: float
    batch_us_per_row: float


def measure(content: bytes, examples: np.ndarray, labels: np.ndarray) -> Measurement:
    """Measures a TFLite model on one thread.

    Args:
      content: The model.
      examples: Serialized tf.Examples, bytes [rows].
      labels: Class of each, [rows].

    Returns:
      The measurements.
    """
    predictor = TFLitePredictor(content)
    auc = area_under_curve(labels, predictor.predict(examples))
    batch = np.resize(examples, _BATCH)
    batches = np.median(time_invocations(content, batch[np.newaxis].repeat(_BATCHES, 0)))
    single = time_invocations(content, examples[:_SINGLE_ROWS, np.newaxis])
    return Measurement(
        bytes=len(content),
        gzip_bytes=len(gzip.compress(content, 9)),
        sparsity=weight_sparsity(content),
        auc=auc,
        p50_ms=float(np.median(single)) * 1e3,
        p99_ms=float(np.quantile(single, 0.99)) * 1e3,
        batch_us_per_row=float(batches) / _BATCH * 1e6,
    )


def time_invocations(content: bytes, batches: np.ndarray) -> np.ndarray:
    """Seconds that each of some batches takes inside the interpreter.

    Args:
      content: The TFLite model.
      batches: Serialized tf.Examples, bytes [batches, rows].

    Returns:
      The times, [batches].
    """
    predictor = TFLitePredictor(content)
    times = []
    for features in [predictor.parse(batch) for batch in batches]:
        predictor.feed(features)
        start = time.perf_counter()
        predictor.interpreter.invoke()
        times.append(time.perf_counter() - start)
    return np.array(times)
