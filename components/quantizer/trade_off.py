"""Draws size, latency and quality of each quantization mode."""

from __future__ import annotations

import io
import math

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from tfx import v1 as tfx

from components.quantizer.measurement import Measurement
from ml.metrics import Metric

_CHOSEN, _OTHER, _FLOAT = "#c44e52", "#4c72b0", "#8c8c8c"


def plot_trade_off(
    path: str,
    baseline: Measurement,
    measured: dict[str, Measurement],
    chosen: str,
    metric: Metric,
) -> None:
    """Writes a PNG: the metric by size and by latency, a point per mode.

    Args:
      path: The file.
      baseline: Measurements of the float model.
      measured: Measurements by mode.
      chosen: The chosen mode.
      metric: The task's headline metric.
    """
    points = {"float": baseline, **measured}
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2, sharey=True)
    horizontal = (
        ("KB after gzip", [point.gzip_bytes / 1000 for point in points.values()]),
        ("median latency of one row, µs", [point.p50_ms * 1000 for point in points.values()]),
    )
    for axis, (label, values) in zip(axes, horizontal, strict=True):
        for (name, point), value in zip(points.items(), values, strict=True):
            colour = {"float": _FLOAT, chosen: _CHOSEN}.get(name, _OTHER)
            known = point.metrics[metric.name]
            quality = math.nan if known is None else known
            axis.scatter(value, quality, color=colour, s=60, zorder=3)
            axis.annotate(name, (value, quality), xytext=(6, 5), textcoords="offset points")
        axis.set_xlabel(label)
        axis.set_xlim(0, max(values) * 1.25)
        axis.grid(alpha=0.3)
    axes[0].margins(y=0.15)
    axes[0].set_ylabel(f"{metric.title} on eval")
    figure.suptitle(f"Shipped: {chosen}")
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    with tfx.dsl.io.fileio.open(path, "wb") as file:
        file.write(picture.getvalue())
