"""Thresholds of metrics, by name of the metric.

A threshold is the worst value that is allowed, or, of a metric without a direction, the lowest and
the highest.
"""

from __future__ import annotations

from collections.abc import Mapping

from ml.tasks import Metric

Threshold = float | tuple[float, float]
Thresholds = Mapping[str, Threshold]


def bounds(metric: Metric, threshold: Threshold) -> tuple[float | None, float | None]:
    """The lowest and the highest value that a threshold allows; None for no such limit."""
    if isinstance(threshold, tuple | list):
        low, high = threshold
        return low, high
    return (threshold, None) if metric.direction == 1 else (None, threshold)
